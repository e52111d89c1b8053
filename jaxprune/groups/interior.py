"""The channels inside a block: made by one kernel, read by one kernel."""

from jaxprune.errors import PatternError
from jaxprune.graph import ChannelGraph, check_graph


def interior(graph: ChannelGraph) -> tuple[str, ...]:
    """Returns the groups that exactly one kernel makes and exactly one kernel reads.

    In a ResNet they are the channels inside the residual blocks: stem, streams and shortcuts have
    several makers or readers. In a plain chain they are all channels. What a depthwise convolution
    or a squeeze-and-excitation passes has more makers than one; name such groups by pattern.

    Args:
      graph: what `jaxprune.trace` returned.

    Returns:
      Names for `only=`, in graph order, never none.

    Raises:
      PatternError: there is no such group.

    >>> import numpy as np
    >>> import jaxprune as jp
    >>> v = {"stem": np.ones((2, 4)), "up": np.ones((4, 6)), "down": np.ones((6, 4))}
    >>> graph = jp.trace(
    ...     lambda v, x: ((h := x @ v["stem"]) + h @ v["up"] @ v["down"]).sum(1), v, np.ones((1, 2))
    ... )
    >>> interior(graph)
    ('up',)
    """
    check_graph(graph)
    names = tuple(
        name
        for name, group in graph.groups.items()
        if sum(slot.role == "out" for slot in group.slots) == 1
        and sum(slot.role == "in" for slot in group.slots) == 1
    )
    if not names:
        raise PatternError(
            f"interior: none of {len(graph.groups)} groups is made by one kernel and read by one.\n"
            "Fix: name the groups by pattern; print(graph) lists them."
        )
    return names
