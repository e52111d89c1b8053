"""Norms of the weights that each channel owns."""

from collections.abc import Collection
from typing import Any

from jaxprune.arguments.checks import check_roles
from jaxprune.errors import ScoreError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.members import Array, Reduce, collect, not_empty, total

_ROLES = ("out", "in", "vector")
_FIX = "roles=('out', 'in', 'vector'), or scores.random; print(jp.explain(graph)) lists the roles."


def l1(
    graph: ChannelGraph,
    variables: Any,
    *,
    roles: Collection[str] = ("out",),
    reduce: Reduce = total,
) -> dict[str, Array]:
    """Returns {group: f32[n]}: the sum of |w| over the weights of each channel.

    Where the members of a group are summed, as they are by default, the scores of parts of a tree
    add up to its own: each array in one of the parts, and zeros without memory in its place in the
    others, `np.broadcast_to(np.float32(0), shape)`.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables that it was traced from.
      roles: the slots that count: "out" (the filters that make the channel), "in" (the weights
        that read it), "vector" (its biases, scales and statistics).
      reduce: combines the norms of a group with several such slots, called as
        `reduce(f32[n, members], axis=1)`; the sum by default.

    Returns:
      Scores, higher means keep; groups without such a slot are absent.

    Raises:
      ScoreError: an unknown role, or no group has a slot of these roles.
      TreeError: `variables` do not mirror the graph.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1. In a
    residual stage the paper ranks by the projection shortcut alone; here all filters count.
    """
    check_roles(roles, _ROLES, ScoreError)
    scores = collect(
        graph, variables, wanted=lambda slot: slot.role in roles, entry=abs, reduce=reduce
    )
    return not_empty(scores, by=_by(roles), fix=_FIX)


def l2(
    graph: ChannelGraph,
    variables: Any,
    *,
    roles: Collection[str] = ("out",),
    reduce: Reduce = total,
) -> dict[str, Array]:
    """Returns {group: f32[n]}: the Euclidean norm of the weights of each channel.

    Arguments, result and errors are those of `l1`. With several slots it is the norms that
    `reduce` combines, not their squares.
    """
    check_roles(roles, _ROLES, ScoreError)
    scores = collect(
        graph,
        variables,
        wanted=lambda slot: slot.role in roles,
        entry=_square,
        finish=lambda sums: sums**0.5,
        reduce=reduce,
    )
    return not_empty(scores, by=_by(roles), fix=_FIX)


def _square(values: Array) -> Array:
    size = abs(values)
    return size * size


def _by(roles: Collection[str]) -> str:
    return f"no group has a variable in the roles {tuple(roles)}"
