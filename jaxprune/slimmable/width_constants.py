"""The groups whose width a constant follows: the masked network is not the one that is served.

A resized network divides a mean by the kept width, attention by the root of the kept head size; the
masked one by the whole. Only a trace at other widths tells.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from jaxprune.errors import KeepError, ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.cached import once
from jaxprune.keep.check import check_keep
from jaxprune.keep.kept import Kept
from jaxprune.pruning.rescale import compared


@once
def following(graph: ChannelGraph) -> Mapping[str, str]:
    """Returns {group: a constant, before and after} where the last channel of the group goes.

    The network is traced once with all groups pruned; if anything follows, again with each half of
    them, and so on. A group at whose other widths the network does not run is absent: there
    `narrow` keeps the constants.
    """
    return dict(_within(graph, list(graph.groups)))


def _within(graph: ChannelGraph, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields those of the groups that a constant follows, with the constant."""
    text = _first(graph, names)
    if text != "" and len(names) > 1:
        half = len(names) // 2
        yield from _within(graph, names[:half])
        yield from _within(graph, names[half:])
    elif text:
        yield names[0], text


def _first(graph: ChannelGraph, names: Iterable[str]) -> str | None:
    """The first constant that follows; "" if none does, None if that cannot be said."""
    keep = {name: np.ones(graph.groups[name].shape, bool) for name in names}
    for kept in keep.values():
        kept[..., -1] = False
    try:
        outcome = compared(graph, Kept(check_keep(graph, keep)), search=False)
    except (KeepError, ResizeError):
        return None
    return next(iter(outcome.follows), "")
