"""Scores of gradients and curvatures by gates, and of the curvature by weights.

A gate multiplies a channel where it is read; at 1 the loss without the channel is, by Taylor,
L - dL/dm + 1/2 d2L/dm2.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import check_callable, check_roles
from jaxprune.errors import ScoreError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.members import Array, Reduce, as_they_are, collect, not_empty, total
from jaxprune.scores.given import given
from jaxprune.scores.products import pairs, product

_ROLES = ("out", "in", "vector")
_SLOPES = 'found["slopes"] of jp.stats.sum(at=jp.stats.At.GATES).'
_SQUARES = 'found["squares"] of jp.stats.mean_square(at=jp.stats.At.{}).'


def taylor_squared(graph: ChannelGraph, squares: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {group: f32[n]}: the mean over batches of (dL/dm)^2, as it is given.

    Args:
      graph: what `jaxprune.trace` returned.
      squares: `jp.stats.mean_square(at=jp.stats.At.GATES)`.

    Raises:
      ScoreError: a group is unknown, or its numbers have another shape.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019,
    equation 8 with gates. The paper's gates stand behind each BatchNorm, and it divides that of a
    stream by the number of its blocks; here a group has one gate, where contractions read it.
    """
    return given(graph, squares, "squared slopes", _SQUARES.format("GATES"))


def fisher(graph: ChannelGraph, squares: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {group: f32[n]}: 1/2 mean over examples of (Σ a * dL_n/da)^2.

    The sum is over the positions and readers of a channel, which is the gradient of its gate.

    Args:
      graph: what `jaxprune.trace` returned.
      squares: `jp.stats.mean_square(at=jp.stats.At.EXAMPLES)`, of the loss of each example; that
        of a batch would be another number.

    Raises:
      ScoreError: a group is unknown, or its numbers have another shape.

    Source: Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018,
    equation 9, without its cost term.
    """
    ours = given(graph, squares, "squared slopes", _SQUARES.format("EXAMPLES"))
    return {name: values / 2 for name, values in ours.items()}


def snip(graph: ChannelGraph, slopes: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {group: f32[n]}: |dL/dm| over its sum over the channels of all groups.

    Args:
      graph: what `jaxprune.trace` returned.
      slopes: `jp.stats.sum(at=jp.stats.At.GATES)` of one batch, before training, at weights drawn
        with a variance that fits the fan-in.

    Raises:
      ScoreError: a group is unknown, its numbers have another shape, or all are zero.

    Source: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR
    2019, equation 5, with a gate on a channel in the place of one on a weight; the sum of the
    paper's own numbers is `taylor_members(..., entry=abs)` at the initial weights.
    """
    ours = {name: abs(slope) for name, slope in given(graph, slopes, "slopes", _SLOPES).items()}
    whole = sum(slope.sum() for slope in ours.values())
    return {name: slope / (whole + (whole == 0)) for name, slope in ours.items()}


def taylor_second_order(
    graph: ChannelGraph, slopes: Mapping[str, Any], curvature: Mapping[str, Any]
) -> dict[str, Array]:
    """Returns {group: f32[n]}: (-dL/dm + 1/2 d2L/dm2)^2, the squared change of the loss.

    Args:
      graph: what `jaxprune.trace` returned.
      slopes: `jp.stats.mean(at=jp.stats.At.GATES)`.
      curvature: the diagonal by gates: `jp.stats.hutchinson()`, `gauss_newton()` or `fisher()`.

    Raises:
      ScoreError: the two are not of the same groups, or a group has another shape.

    Source: Molchanov et al., CVPR 2019, equation 6, with the diagonal alone.
    """
    first, second = _same_groups(graph, slopes, curvature)
    return {name: (second[name] / 2 - slope) ** 2 for name, slope in first.items()}


def obd_gates(graph: ChannelGraph, curvature: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {group: f32[n]}: 1/2 d2L/dm2 of the gate of each channel.

    Args:
      graph: what `jaxprune.trace` returned.
      curvature: the diagonal by gates, as for `taylor_second_order`.

    Raises:
      ScoreError: a group is unknown, or its numbers have another shape.

    Source: as `obd`, whose weights of a channel move together here: pairs of them count too.
    """
    ours = given(graph, curvature, "curvatures", 'found["h"] of jp.stats.hutchinson().')
    return {name: values / 2 for name, values in ours.items()}


def obd(
    graph: ChannelGraph,
    variables: Any,
    curvature: Any,
    *,
    roles: Collection[str] = ("out",),
    reduce: Reduce = total,
) -> dict[str, Array]:
    """Returns {group: f32[n]}: 1/2 Σ h w^2 over the weights of each channel.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables that it was traced from.
      curvature: the diagonal h by the weights, a tree like the variables (or a part of it):
        `jp.stats.fisher(by=jp.stats.By.WEIGHTS)`, `gauss_newton` or `hutchinson`, whose estimates
        may be negative.
      roles: the slots whose weights go: "out", "in", "vector".
      reduce: combines the sums of a group with several such slots, as in `l1`.

    Raises:
      ScoreError: an unknown role, or no group has a slot of these roles.
      TreeError: the trees do not mirror the graph.

    Source: LeCun et al., "Optimal Brain Damage", NeurIPS 1990, equation 5, summed over the weights
    of a channel. It holds at a minimum, where the gradient is zero.
    """
    check_graph(graph)
    check_roles(roles, _ROLES, ScoreError)
    wanted = [s.path for g in graph.groups.values() for s in g.slots if s.role in roles]
    saliencies = pairs(graph, variables, curvature, wanted, _saliency, "curvatures")
    scores = collect(
        graph, saliencies, wanted=lambda slot: slot.role in roles, entry=as_they_are, reduce=reduce
    )
    by = f"no group has a variable in the roles {tuple(roles)}"
    return not_empty(scores, by=by, fix="roles=('out', 'in', 'vector').")


def taylor_members(
    graph: ChannelGraph,
    variables: Any,
    gradients: Any,
    *,
    entry: Any = None,
    roles: Collection[str] = _ROLES,
    reduce: Reduce = total,
) -> dict[str, Array]:
    """Returns {group: f32[n]}: |Σ entry(w * dL/dw)| of every member, then the members together.

    A member is one place of a group in one variable. So the absolute value is taken of each, where
    `taylor` takes that of the whole group, whose gate it is.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables.
      gradients: dL/dw of one batch, of all variables with slots of these roles: zeros for running
        statistics, which have none.
      entry: applied to every product before the sum: None leaves them signed; `abs` is SNIP's sum
        and `param_first` of LLM-Pruner; `numpy.square` the first form of Molchanov et al., 2019.
        For other functions of NumPy alone, weights on devices are fetched.
      roles: the slots that count: "out", "in", "vector".
      reduce: combines the members, as in `l1`.

    Raises:
      ScoreError: an unknown role, or no group has a slot of these roles, or weights are integers.
      TreeError: the trees do not mirror the graph.

    Source: `GroupTaylorImportance` of Torch-Pruning, whose default is `entry=abs`, its option
    `multivariable=True` is `entry=None`; the mean over members there is `reduce=numpy.mean`.
    """
    check_graph(graph)
    check_roles(roles, _ROLES, ScoreError)
    check_callable(entry, "entry", "entry=abs.", ScoreError, optional=True)
    wanted = [s.path for g in graph.groups.values() for s in g.slots if s.role in roles]
    products = pairs(graph, variables, gradients, wanted, product, "gradients")
    scores = collect(
        graph,
        products,
        wanted=lambda slot: slot.role in roles,
        entry=_Ufunc(entry) if isinstance(entry, np.ufunc) else entry or as_they_are,
        finish=abs,
        reduce=reduce,
    )
    by = f"no group has a variable in the roles {tuple(roles)}"
    return not_empty(scores, by=by, fix="roles=('out', 'in', 'vector').")


class _Ufunc(NamedTuple):
    """A function of NumPy, by the same name in programs."""

    entry: np.ufunc

    def __call__(self, values: Array) -> Array:
        """Returns the values that it makes of others."""
        traced = isinstance(values, Tracer) and hasattr(jnp, self.entry.__name__)
        return getattr(jnp, self.entry.__name__)(values) if traced else self.entry(values)


def _same_groups(graph: ChannelGraph, slopes: Any, curvature: Any) -> tuple[Any, Any]:
    first = given(graph, slopes, "slopes", _SLOPES)
    second = given(graph, curvature, "curvatures", 'found["h"] of jp.stats.hutchinson().')
    if first.keys() != second.keys():
        names = sorted(first.keys() ^ second.keys())[:5]
        raise ScoreError(
            f"slopes and curvatures differ in the groups {names}.\nFix: collect both in one pass."
        )
    return first, second


def _saliency(w: Array, h: Array) -> Array:
    return abs(w) ** 2 * h.real / 2
