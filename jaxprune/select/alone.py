"""What the network loses when every group is pruned alone: the sensitivities of planners."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Unpack

import jax
import numpy as np

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_callable, kind_of
from jaxprune.cutting.transforms import check_tree, mask
from jaxprune.errors import BudgetError, JaxpruneError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.constraints import Constraints
from jaxprune.groups.scored import Scores, shape_of_numbers
from jaxprune.select.removal import Keep, removal_order
from jaxprune.select.selectors import per_group

_RATIOS = tuple(step / 10 for step in range(1, 10))


def sensitivity(
    graph: ChannelGraph,
    variables: Any,
    scores: Scores,
    evaluate: Callable[[Any], Any],
    *,
    prune_ratios: Iterable[float] = _RATIOS,
    **constraints: Unpack[Constraints],
) -> dict[str, np.ndarray]:
    """Returns {group: f64[ratios]}: what `evaluate` gives where that group alone is pruned.

    At each ratio the group loses the channels that `per_group` removes, and all other groups are
    whole. The channels are masked, so that the variables always have the same shapes: masking is
    one program, and an `evaluate` that is jitted is compiled once. Networks that come out the same
    (of groups too small for a ratio) are evaluated once.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables that it was traced from.
      scores: {group: f32[n]}, higher means keep; groups without scores are absent from the result.
      evaluate: from the masked variables to a finite number, such as the accuracy or the loss on
        validation data. It may loop over batches outside of `jax.jit`.
      prune_ratios: shares of a group to remove, each in [0, 1); 0 gives the network as it is.
      **constraints: see `Constraints`. Groups that `equal` ties are pruned together; what `protect`
        or `only` leave whole is absent; of what `within` removed, nothing comes back.

    Returns:
      One row for each group that may lose channels, in the order of the graph and of the ratios.
      Of a group that is not exact (`Group.inexact`) it is that of the masked network, which differs
      from the sliced one.

    Raises:
      BudgetError: a ratio or a constraint makes no sense, or there is no ratio.
      JaxpruneError: `evaluate` is not a function, or gives anything but a finite number: the
        message names the group and the ratio.
      ScoreError: NaN, a wrong length, an unknown group.
      PatternError: a pattern matches nothing.
      TreeError: `variables` do not mirror the graph.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.2. There a
    layer loses its smallest filters, here a group those of the lowest scores.

    >>> from jaxprune import trace
    >>> v = {"first": np.eye(2, 4) + 0.5, "second": np.ones((4, 3))}
    >>> graph = trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 2)))
    >>> scores = {"first": [4.0, 3.0, 2.0, 1.0]}
    >>> total = lambda v: (v["first"] @ v["second"]).sum()
    >>> sensitivity(graph, v, scores, total, prune_ratios=(0.0, 0.25, 0.75))
    {'first': array([18., 15.,  6.])}
    """
    check_callable(evaluate, "evaluate", "evaluate=lambda variables: accuracy(variables, images).")
    ratios = _ratios(prune_ratios)
    order = removal_order(graph, scores, constraints)
    check_tree(graph, paths.flatten(variables)[0], {})
    keeps = [per_group(graph, scores, prune_ratio=ratio, **constraints) for ratio in ratios]
    masked, known = jax.jit(partial(mask, graph)), dict[tuple[bytes, ...], float]()

    def value(keep: Keep, where: str) -> float:
        key = tuple(kept.tobytes() for kept in keep.values())
        if key not in known:
            known[key] = finite(evaluate(masked(variables, keep)), where)
        return known[key]

    rows = {}
    for unit in order.units.values():
        name = ", ".join(map(repr, unit))
        row = [
            value(
                order.present | {member: keep[member] for member in unit},
                f"group {name} at prune_ratio={ratio}",
            )
            for ratio, keep in zip(ratios, keeps, strict=True)
        ]
        rows |= {member: np.array(row) for member in unit}
    return {name: rows[name] for name in order.scores if name in rows}


def _ratios(given: Any) -> list[Any]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise BudgetError(
            f"prune_ratios must be several, got {kind_of(given)}.\nFix: prune_ratios=(0.25, 0.5)."
        )
    ratios = list(given)
    if not ratios:
        raise BudgetError("prune_ratios holds no ratio.\nFix: prune_ratios=(0.25, 0.5).")
    return ratios


def finite(value: Any, where: str) -> float:
    """Returns what an evaluator gave.

    Raises:
      JaxpruneError: it is not a finite number.
    """
    if shape_of_numbers(value) != [] or not np.isfinite(number := float(value)):
        shown = value if np.ndim(value) == 0 else kind_of(value)
        raise JaxpruneError(
            f"evaluate gave {shown} for {where}, not a finite number.\n"
            "Fix: return one number, such as the mean over all examples, or leave the group out "
            "with protect=."
        )
    return number
