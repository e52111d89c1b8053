"""Variables that the traced call does not read: nothing ties them to what is pruned.

An auxiliary head that only the training call runs stays whole when its input is pruned, and the
training call fails. Whoever prunes is told so, once for a graph.
"""

import warnings
from collections.abc import Iterable, Mapping, MutableMapping
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from jaxprune.errors import UnreadWarning
from jaxprune.graph import ChannelGraph

_TOLD: MutableMapping[ChannelGraph, set[Any]] = WeakKeyDictionary()
_LOCK = Lock()
_WAY_OUT = (
    "trace the call that reads them, such as the training call: jp.trace(lambda v, x: "
    "model.apply(v, x, train=True), ...) ties them"
)


def line(graph: ChannelGraph) -> str:
    """Returns what `print(graph)` says of the variables that are not read."""
    return f"not read by the traced call: {_listed(graph.unread)}; {_WAY_OUT}."


def find(graph: ChannelGraph, keep: Mapping[str, Any]) -> list[str]:
    """Returns the unread variables of which an axis may count the channels of a pruned group.

    Such an axis has the size of the group, or a multiple of it.
    """
    pruned = [graph.groups[name].size for name, kept in keep.items() if not np.all(kept)]
    return [
        path
        for path in graph.unread
        if any(axis and axis % size == 0 for axis in graph.variables[path].shape for size in pruned)
    ]


def warn(
    graph: ChannelGraph, keep: Mapping[str, Any], what: str, among: Iterable[str] | None = None
) -> None:
    """Warns the caller of `what`, a function of this library, once of what `find` returns.

    Args:
      graph: the channel graph.
      keep: {group: bool[n]}, concrete.
      what: the name of the function.
      among: the variables that are at hand, None for all.
    """
    if not graph.unread:
        return
    unread = find(graph, keep)
    if among is not None:
        unread = [path for path in unread if path in set(among)]
    with _LOCK:
        told = _TOLD.setdefault(graph, set())
        if not unread or (what, *unread) in told:
            return
        told.add((what, *unread))
    warnings.warn(
        f"{what}: the traced call does not read {_listed(unread)}. What would be read with it is "
        f"pruned, but it stays whole: a call that reads it fails.\nFix: {_WAY_OUT}; or drop it "
        "from the variables.",
        UnreadWarning,
        stacklevel=3,
    )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more
