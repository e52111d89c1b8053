"""What is found out about a graph after it was traced, each once: a graph is never written to."""

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import TypeVar
from weakref import WeakKeyDictionary

from jaxprune.graph import ChannelGraph, check_graph

T = TypeVar("T")


def once(find: Callable[[ChannelGraph], T]) -> Callable[[ChannelGraph], T]:
    """Returns `find` with a memory as long as the graph lives; results must not hold the graph."""
    known: WeakKeyDictionary[ChannelGraph, T] = WeakKeyDictionary()
    lock = RLock()

    @wraps(find)
    def remembered(graph: ChannelGraph) -> T:
        check_graph(graph)
        with lock:
            if graph not in known:
                known[graph] = find(graph)
            return known[graph]

    return remembered
