"""Scores that know what a channel costs."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxprune.arguments.numbers import is_number, plain
from jaxprune.errors import BudgetError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.scored import Scores, check_scores, where_left
from jaxprune.inspecting.cost import Cost, channel_cost
from jaxprune.inspecting.parameters import each_contraction
from jaxprune.keep.check import check_keep, widths
from jaxprune.program.spaces import atoms, count


def cost_regularized(
    graph: ChannelGraph,
    scores: Scores,
    *,
    strength: float,
    cost: Cost | None = None,
    within: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Returns scores that fall with what a channel costs; 0 for channels that are gone.

      score - strength * sum over kernels (positions * left) / least positions      by default
      score - strength * saving / least saving                                    with a `cost`

    The first is `get_score(eta)` of the authors' code: the kernels are those that make the group,
    `positions` the pixels of their outputs, `left` the channels of the group that are left. There
    the sum is over the BatchNorms of the group, one behind each of these kernels. It is the area of
    a channel times its neighbors, so wide layers are charged, whatever their kernels.

    Args:
      graph: what `jaxprune.trace` returned.
      scores: {group: f32[n]}, higher means keep; those of channels that are gone do not matter.
      strength: eta, at least 0.
      cost: a cost of the network such as `jaxprune.cost.macs`; what it saves without one channel
        of the group is then charged, exactly, by the smallest saving above 0.
      within: the keep of an earlier pruning, which says what is left.

    Returns:
      {group: f64[n]}, which may be negative.

    Raises:
      BudgetError: `strength` is negative or not finite, or `cost` is not a function.
      ScoreError: NaN, a wrong length, an unknown group.
      KeepError: `within` does not fit the graph.

    Source: You et al., "Gate Decorator", NeurIPS 2019, `GatedBatchNorm2d.get_score` and
    `IterRecoverFramework.prune` of its code, whose `flops_eta` is `strength`. Its demos have 0.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> scores = {"a": np.array([3.0, 1.0, 2.0, 4.0])}
      >>> jp.select.cost_regularized(graph, scores, strength=0.5, cost=jp.cost.macs)["a"].tolist()
      [2.5, 0.5, 1.5, 3.5]
    """
    strength = plain(strength)
    if not (is_number(strength) and math.isfinite(strength) and strength >= 0):
        raise BudgetError(f"strength must be finite, at least 0, got {strength!r}.\nFix: 0.01.")
    if cost is not None and not callable(cost):
        raise BudgetError(f"cost must be a function, got {cost!r}.\nFix: cost=jp.cost.macs.")
    masks = check_keep(graph, {} if within is None else within)
    values = check_scores(graph, where_left(graph, scores, masks, 0.0))
    left = widths(graph, masks)
    if cost is None:
        prices = _written(graph, left, values)
    else:
        saved = channel_cost(graph, cost, left)
        least = min((saved[name] for name in values if saved[name] > 0), default=1)
        prices = {name: saved[name] / least for name in values}
    return {
        name: np.where(masks.get(name, True), score - strength * prices[name], 0.0)
        for name, score in values.items()
    }


def _written(
    graph: ChannelGraph, left: Mapping[str, int], names: Iterable[str]
) -> dict[str, float]:
    """Returns {group: positions * channels left, over all that makes it, by the least positions}.

    A kernel of stacked layers makes the channels of one layer, or once in each those of a stream.
    """
    made: dict[str, list[int]] = {name: [] for name in names}
    for term in each_contraction(graph.contractions):
        for name in made:
            group = graph.groups[name]
            if any(s.role == "out" and s.path in term.kernels for s in group.slots):
                rest = [space for space in term.output if all(a.name != name for a in atoms(space))]
                positions = math.prod(count(space, {}) for space in rest)
                made[name].append(positions * (1 if group.layers else term.repeats))
    least = min((positions for each in made.values() for positions in each), default=1)
    return {name: sum(each) * left[name] / least for name, each in made.items()}
