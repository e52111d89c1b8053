"""The groups whose width a constant follows: the masked network is not the one that is served.

A resized network divides a mean by the kept width, attention by the root of the kept head size; the
masked one by the whole. Only a trace at other widths tells.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from jaxprune.errors import KeepError, ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.once import once
from jaxprune.keep.check import check_keep
from jaxprune.keep.kept import Kept
from jaxprune.pruning.rescale import retrace
from jaxprune.running import same_program


@once
def following(graph: ChannelGraph) -> Mapping[str, str]:
    """Returns {group: a constant, before and after} where the last channel of the group goes.

    The network is traced once with all groups pruned; only if anything follows, each alone. A group
    at whose other widths the network does not run is absent: there `narrow` keeps the constants.
    """
    everything = _first(graph, graph.groups)
    if everything == "":
        return {}
    alone = {name: _first(graph, [name]) for name in graph.groups}
    return {name: text for name, text in alone.items() if text}


def _first(graph: ChannelGraph, names: Iterable[str]) -> str | None:
    """The first constant that follows; "" if none does, None if that cannot be said."""
    keep = {name: np.ones(graph.groups[name].shape, bool) for name in names}
    for kept in keep.values():
        kept[..., -1] = False
    try:
        kept = Kept(check_keep(graph, keep))
        compared = same_program.compare(graph, kept, retrace(graph, kept))
    except (KeepError, ResizeError):
        return None
    return next(iter(compared.follows), "")
