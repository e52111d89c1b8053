"""Pruning in rounds: a share of what is left, and scores that know what a channel costs."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import numpy as np

from jaxprune import cost, masks
from jaxprune._removal import (
    Constraints,
    Keep,
    Order,
    Scores,
    is_count,
    is_number,
    keep_of,
    removal_order,
    widths_after,
)
from jaxprune._removal import share as share_of
from jaxprune.batchnorm import batch_norms
from jaxprune.errors import BudgetError, ScoreError
from jaxprune.graph import ChannelGraph

Rule = Callable[[np.ndarray, int], int]


def share_of_left(
    graph: ChannelGraph,
    scores: Scores,
    *,
    share: float,
    members: Mapping[str, int] | None = None,
    rule: Rule | None = None,
    **constraints: Unpack[Constraints],
) -> Keep:
    """Returns the keep after one round more: the lowest scores of what `within` kept go.

    Of the N channels in scope that are left, floor(N * share) go, at least one, and on top of that
    the channels of score 0, which do nothing. Where floors leave fewer, all that they leave go.
    What is gone stays gone. Ratios and floors are of the dense network, not of what is left; with
    `multiple_of` the count is the first reachable one at or beyond the quota.

    Args:
      graph: what `jaxprune.trace` returned.
      scores: {group: f32[n]}, higher means keep; those of channels that are gone do not matter.
      share: of the channels left, in (0, 1).
      members: {group: how many a channel of it counts for}, in N and in what goes; 1 where it is
        absent. `jaxprune.select.members(graph)` counts the BatchNorms, as the paper's code does.
      rule: from the sorted scores and the count to the number removed. None is the count;
        `jaxprune.select.pytorch_author`, the rule of the paper's code too, removes one more, and
        all that tie.
      **constraints: see `Constraints`; the same in every round.

    Returns:
      {group: bool[n]} for every group in `scores` and in `within`.

    Raises:
      BudgetError: `share` or a constraint makes no sense, the earlier keep is none that the
        constraints allow, or they let no channel go.
      ScoreError: NaN, an infinite score of a channel that is left, scores that are all 0, a wrong
        length, an unknown group.
      PatternError: a pattern matches nothing.

    Source: You et al., "Gate Decorator", NeurIPS 2019, and its code, which rounds the floor of 10 %
    down; `min_keep_ratio` rounds it up.

    >>> from jaxprune import trace
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 3))}
    >>> graph = trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 2)))
    >>> keep = {"first": np.array([True, True, False, True])}
    >>> share_of_left(graph, {"first": [3.0, 1.0, 0.5, 4.0]}, share=0.5, within=keep)
    {'first': array([ True, False, False,  True])}
    """
    if not (is_number(share) and 0 < share < 1):
        raise BudgetError(f"share must be in (0, 1), got {share!r}.\nFix: share=0.002.")
    counts = members or {}
    if not all(map(is_count, counts.values())):
        raise BudgetError(f"members must be counts, at least 1, got {counts}.\nFix: leave 0 out.")
    within = constraints.pop("within", {})
    order = removal_order(graph, sunk(graph, scores, within), constraints)
    start = taken(order, within)
    if not any(values[np.isfinite(values)].any() for values in order.scores.values()):
        raise ScoreError(
            "all scores are 0, so they tell no channel from another.\n"
            "Fix: pass the gradients of the loss by the variables that it reads."
        )
    weight = {n: k * counts.get(n, 1) for n, k in order.layers.items()}
    widths = widths_after(order, start)
    left = sum(weight[name] * widths[name] for name in order.counts)
    highest = order.highest[start:]
    worth = order.removed[start:] * np.array(list(weight.values()))[order.owner[start:]]
    wanted = max(1, share_of(left, share))
    quota = np.where(highest == 0, 0, worth)
    if not worth.any():
        raise BudgetError(
            f"no channel can go any more: the constraints hold all of {left} that are left.\n"
            "Fix: stop here, or relax min_channels, min_keep_ratio, max_prune_ratio, multiple_of, "
            "protect or only."
        )
    if rule is not None and wanted < quota.sum():
        wanted = rule(np.repeat(highest, quota), wanted)
    steps = int(np.searchsorted(np.cumsum(quota), wanted)) + 1
    keep = keep_of(order, widths_after(order, start + min(steps, len(worth))))
    return joined(keep, within)


def members(graph: ChannelGraph) -> dict[str, int]:
    """Returns {group: how many BatchNorms scale it}, for the groups that one scales.

    >>> from jaxprune import trace
    >>> v = {"norm": {"scale": np.ones(4), "mean": np.zeros(4), "var": np.ones(4)}}
    >>> v |= {"first": np.ones((2, 4)), "second": np.ones((4, 3))}
    >>> def fn(v, x):
    ...     x = (x @ v["first"] - v["norm"]["mean"][None]) / v["norm"]["var"][None]
    ...     return x * v["norm"]["scale"][None] @ v["second"]
    >>> members(trace(fn, v, np.ones((1, 2))))
    {'first': 1}
    """
    scales = {norm.scale for norm in batch_norms(graph).values()}
    counts = {
        name: sum(slot.path in scales for slot in group.slots)
        for name, group in graph.groups.items()
    }
    return {name: count for name, count in counts.items() if count}


def cost_regularized(
    graph: ChannelGraph,
    scores: Scores,
    *,
    strength: float,
    cost: cost.Cost = cost.macs,
    within: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns score - strength * c / c_min, where c is what the network saves without the channel.

    Args:
      graph: what `jaxprune.trace` returned.
      scores: {group: f32[n]}, higher means keep.
      strength: eta, at least 0; the gap in score between the cheapest channel and one that costs
        twice as much.
      cost: what c is counted in; c_min is the smallest c above 0 of all groups in `scores`.
      within: the keep of an earlier pruning: c is that of the network it left.

    Returns:
      {group: f32[n]}, which may be negative; scores of 0 are none any more.

    Raises:
      BudgetError: `strength` is negative or not finite.
      ScoreError: an unknown group.

    Source: You et al., "Gate Decorator", NeurIPS 2019. Its code takes H * W times the alive
    channels of the gate over the smallest H * W for c / c_min; here c is exact.
    """
    if not (is_number(strength) and math.isfinite(strength) and strength >= 0):
        raise BudgetError(f"strength must be finite, at least 0, got {strength!r}.\nFix: 0.01.")
    if unknown := [name for name in scores if name not in graph.groups]:
        raise ScoreError(
            f"scores name {unknown[:5]}, which are no groups of the graph.\n"
            "Fix: recompute the scores on the variables that this graph was traced from."
        )
    at = masks.widths(graph, within)
    total = cost(graph, at)
    prices = {name: total - cost(graph, at | {name: at[name] - 1}) for name in scores}
    least = min((price for price in prices.values() if price > 0), default=1)
    return {name: score - strength * prices[name] / least for name, score in scores.items()}


def sunk(graph: ChannelGraph, scores: Scores, within: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the scores with -inf for the channels that are gone: the removal order begins there.

    A group of which one channel is left may have no score, as in a graph that was traced again.

    Raises:
      KeepError: `within` does not fit the graph.
      ScoreError: a channel that is left has an infinite score, or a group that has lost channels
        has none.
    """
    masks.check_keep(graph, within)
    lost = {name: kept for name, kept in within.items() if not np.all(kept)}
    found = {name: np.asarray(score, np.float64) for name, score in scores.items()}
    last = {name for name, kept in lost.items() if name not in found and np.sum(kept) == 1}
    found |= {name: np.zeros(graph.groups[name].shape) for name in last}
    failures = [
        f"group {name!r} has lost channels and has no scores" for name in lost if name not in found
    ]
    for name, values in found.items():
        kept = np.asarray(lost.get(name, True))
        if name in graph.groups and values.shape == graph.groups[name].shape:
            if np.isinf(values[np.broadcast_to(kept, values.shape)]).any():
                failures.append(f"group {name!r} has infinite scores")
            found[name] = np.where(kept, values, -np.inf)
    if failures:
        raise ScoreError(
            "\n".join([*failures, "Fix: finite scores for every group that was pruned before."])
        )
    return found


def taken(order: Order, within: Mapping[str, Any]) -> int:
    """Returns how many steps of the order an earlier keep has taken.

    Raises:
      BudgetError: it is at no point of the order.
    """
    steps, failures = 0, []
    for name, width in _widths(within).items():
        size, counts = np.shape(within[name])[-1], order.counts.get(name, np.zeros(0))
        if width < size and width not in counts:
            failures.append(f"group {name!r} has {width} of {size} channels left")
        elif width < size:
            steps += int(np.flatnonzero(counts == width)[0])
    if failures:
        fix = "Fix: the same constraints in every round, from the first."
        raise BudgetError(
            "\n".join(["the constraints do not allow what was kept.", *failures, fix])
        )
    return steps


def _widths(within: Mapping[str, Any]) -> dict[str, int]:
    """Returns {group: channels left in each of its layers}."""
    return {name: int(np.sum(kept, axis=-1).flat[0]) for name, kept in within.items()}


def joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> Keep:
    """Returns what both keep; a group that one does not name is as in the other."""
    names = dict.fromkeys([*first, *second])
    return {n: np.asarray(first.get(n, True)) & np.asarray(second.get(n, True)) for n in names}
