"""The most bytes of intermediate values that are alive at once, from the program as it was traced.

A value that a compiler computes where it is read takes no memory (`program/lifetimes.py` says which
those are); the others live from the operation that makes them to the last that reads them. What is
alive at one time is a sum of products of widths, and the peak is the largest of all times.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.cached import once
from jaxprune.inspecting.closed_forms import split_widths
from jaxprune.inspecting.terms import Dearest, Product, Terms, total
from jaxprune.inspecting.without_branches import Without
from jaxprune.program.lifetimes import Part, Time, times
from jaxprune.program.liveness import Live


def peak_memory(graph: ChannelGraph, widths: Mapping[str, Any] | None = None) -> int:
    """Returns the most bytes of intermediate values and outputs that are alive at once.

    Counted in the order of the traced program, with what compilers fuse left out:

    * Entrywise operations, broadcasts, slices and transpositions are computed where they are read,
      if that is in one such operation, a sum or a maximum. Else their result is kept.
    * A result takes the place of an operand of its size that is entrywise in it and is read last.
    * A loop holds its carry once, the step of every stacked input and output, and the peak of its
      body; of a `lax.cond` the dearest branch counts.

    Variables and inputs are the caller's and not counted; nor is what the algorithm of a single
    operation needs for itself, or what `jp.narrow` holds beyond a network that is written at the
    kept widths (what is drawn at full size). Compilers reorder and copy: for one network at a time
    `Compiled.memory_analysis()` is exact.

    Args:
      graph: what `jaxprune.trace` returned.
      widths: as for `jp.cost.macs`.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"up": np.ones((2, 8), np.float32), "down": np.ones((8, 2), np.float32)}
    >>> graph = jp.trace(lambda v, x: abs(x @ v["up"]) @ v["down"], v, np.ones((3, 2), np.float32))
    >>> jp.cost.peak_memory(graph), jp.cost.peak_memory(graph, {"up": 4})
    (120, 72)
    """
    at, gone = split_widths(graph, widths)
    return total(peak_terms(graph, gone), at)


def peak_terms(graph: ChannelGraph, gone: Without | None = None) -> Terms:
    """The bytes that are alive, of which the largest counts."""
    return _whole(graph) if gone is None else _terms(graph, gone.live, gone.outputs)


@once
def _whole(graph: ChannelGraph) -> Terms:
    live = Live(graph.walk, [True] * len(graph.walk.outs), {})
    return _terms(graph, live, frozenset())


def _terms(graph: ChannelGraph, live: Live, lost: Iterable[int]) -> Terms:
    return [_largest(times(graph.walk, Part.of(live, graph.walk), frozenset(lost)))]


def _largest(moments: Iterable[Time]) -> Dearest:
    """The largest of what is alive at several times."""
    return Dearest([_alive(time) for time in dict.fromkeys(moments)])


def _alive(time: Time) -> list[Product | Dearest]:
    each = [Product(size.factor * often, size.spaces) for size, often in time.sizes]
    return [*each, _largest(time.inside)] if time.inside else [*each]
