"""The joint energy of the weights that make a channel and of those that read it."""

from collections.abc import Collection
from typing import Any

from jaxprune.graph import ChannelGraph
from jaxprune.groups.members import Array
from jaxprune.scores.norm import l2


def channel_energy(
    graph: ChannelGraph, variables: Any, *, roles: Collection[str] = ("out", "in")
) -> dict[str, Array]:
    """Returns {group: f32[n]}: the sum of w^2 over the weights of each channel, in all layers.

    Arguments and errors are those of `l2`; what `jp.sparsify.oicsr` penalizes is the root of it.

    Returns:
      Scores, higher means keep; groups without such a slot are absent.

    Source: Li et al., "OICSR: Out-In-Channel Sparsity Regularization for Compact Deep Neural
    Networks", CVPR 2019, the channel energy of Algorithm 1.
    """
    return l2(graph, variables, roles=roles, reduce=_energy)


def _energy(norms: Array, /, *, axis: int) -> Array:
    return (norms**2).sum(axis=axis)
