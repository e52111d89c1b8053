"""Pruning in rounds: a share of what is left."""

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from jaxprune.arguments.checks import check_mapping, check_options
from jaxprune.arguments.numbers import is_count, is_number, plain
from jaxprune.arguments.paths import near
from jaxprune.errors import BudgetError, ScoreError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.constraints import Constraints
from jaxprune.groups.scored import Scores, where_left
from jaxprune.inspecting.batch_norms import batch_norms
from jaxprune.keep.check import check_keep
from jaxprune.select.removal import Keep, Order, keep_of, removal_order, widths_after
from jaxprune.select.removal import share as share_of
from jaxprune.select.ties import Ties, check_ties, removed


def of_remaining(
    graph: ChannelGraph,
    scores: Scores,
    *,
    prune_ratio: float,
    members: Mapping[str, int] | None = None,
    ties: Ties | None = None,
    **constraints: Unpack[Constraints],
) -> Keep:
    """Returns the keep after one round more: the lowest scores of what `within` kept go.

    Of the N channels in scope that are left, floor(N * prune_ratio) go, at least one, and on top of
    that the channels of score 0, which do nothing. Where floors leave fewer, all of these go. What
    is gone stays gone. Ratios and floors are of the dense network, not of what is left; with
    `multiple_of` the count is the first reachable one at or beyond the quota.

    Args:
      graph: what `jaxprune.trace` returned.
      scores: {group: f32[n]}, higher means keep; those of channels that are gone do not matter.
      prune_ratio: of the channels left, in (0, 1).
      members: {group: how many a channel of it counts for}, in N and in what goes; 1 where it is
        absent. `jaxprune.select.members(graph)` counts the BatchNorms, as the paper's code does.
      ties: from the sorted scores and the count to the number removed. None is the count;
        `jaxprune.select.pytorch_author`, the rule of the paper's code too, removes one more, and
        all that tie, `lua_author` the count and what ties with it.
      **constraints: see `Constraints`; the same in every round.

    Returns:
      {group: bool[n]} for every group in `scores` and in `within`.

    Raises:
      BudgetError: `prune_ratio` or a constraint makes no sense, the earlier keep is none that the
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
    >>> of_remaining(graph, {"first": [3.0, 1.0, 0.5, 4.0]}, prune_ratio=0.5, within=keep)
    {'first': array([ True, False, False,  True])}
    """
    ratio = plain(prune_ratio)
    if not (is_number(ratio) and 0 < ratio < 1):
        raise BudgetError(f"prune_ratio must be in (0, 1), got {ratio!r}.\nFix: prune_ratio=0.002.")
    check_graph(graph)
    counts = check_members(graph, members)
    if ties is not None:
        check_ties(ties)
    check_options(constraints, Constraints, "of_remaining")
    within = check_keep(graph, constraints.pop("within", {}))
    order = removal_order(graph, sunk(graph, scores, within), constraints)
    start = taken(order, within)
    if not any(values[np.isfinite(values)].any() for values in order.scores.values()):
        raise ScoreError(
            "all scores are 0, so they tell no channel from another.\n"
            "Fix: pass the gradients of the loss by the variables that it reads."
        )
    weight = {
        first: sum(layers * counts.get(name, 1) for name, layers in each.items())
        for first, each in order.layers.items()
    }
    widths = widths_after(order, start)
    left = sum(weight[name] * widths[name] for name in order.counts)
    highest = order.highest[start:]
    worth = order.removed[start:] * np.array(list(weight.values()))[order.owner[start:]]
    wanted = max(1, share_of(left, ratio))
    quota = np.where(highest == 0, 0, worth)
    if not worth.any():
        raise BudgetError(
            f"no channel can go any more: the constraints hold all of {left} that are left.\n"
            "Fix: stop here, or relax min_channels, min_keep_ratio, max_prune_ratio, multiple_of, "
            "equal, protect or only."
        )
    if ties is not None and wanted < quota.sum():
        wanted = removed(ties, np.repeat(highest, quota), wanted)
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
    check_graph(graph)
    scales = {norm.scale for norm in batch_norms(graph).values()}
    counts = {
        name: sum(slot.path in scales for slot in group.slots)
        for name, group in graph.groups.items()
    }
    return {name: count for name, count in counts.items() if count}


def check_members(graph: ChannelGraph, counts: Any) -> dict[str, int]:
    """Returns the counts of `of_remaining`, as Python's ints; none of None.

    Raises:
      BudgetError: a group is unknown, or what it counts for is not a count.
    """
    what = "{group: how many a channel of it counts for}"
    found = {} if counts is None else dict(check_mapping(counts, "members", what, BudgetError))
    bad = [
        f"members name {name!r}, which is not a group of the graph; "
        f"near: {near(name, graph.groups)}"
        for name in found
        if name not in graph.groups
    ]
    if not all(map(is_count, found.values())):
        bad.append(f"members must be counts, at least 1, got {found}")
    if bad:
        raise BudgetError("\n".join([*bad, "Fix: members=jp.select.members(graph); leave 0 out."]))
    return {name: plain(count) for name, count in found.items()}


def sunk(graph: ChannelGraph, scores: Scores, within: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the scores with -inf for the channels that are gone: the removal order begins there.

    A group of which one channel is left may have no score, as in a graph that was traced again.

    Raises:
      KeepError: `within` does not fit the graph.
      ScoreError: a channel that is left has an infinite score, or a group that has lost channels
        has none.
    """
    lost = {name: kept for name, kept in check_keep(graph, within).items() if not np.all(kept)}
    found = where_left(graph, scores, lost, -np.inf)
    last = {name for name, kept in lost.items() if name not in found and np.sum(kept) == 1}
    found |= {
        name: np.where(lost[name], np.zeros(graph.groups[name].shape), -np.inf) for name in last
    }
    failures = [
        f"group {name!r} has lost channels and has no scores" for name in lost if name not in found
    ]
    for name, values in found.items():
        fits = isinstance(values, np.ndarray) and name in graph.groups
        if fits and values.shape == graph.groups[name].shape:
            left = np.where(lost.get(name, True), values, 0)
            failures += [f"group {name!r} has infinite scores"] if np.isinf(left).any() else []
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
    firsts = {name: first for first, unit in order.units.items() for name in unit}
    widths = {name: np.shape(order.scores[name])[-1] for name in firsts} | _widths(within)
    for name, width in widths.items():
        size = np.shape(within[name])[-1] if name in within else width
        first = firsts.get(name, name)
        counts = order.counts.get(first, np.zeros(0))
        if width < size and width not in counts:
            failures.append(f"group {name!r} has {width} of {size} channels left")
        elif width != widths[first]:
            left = f"{width} and {widths[first]} channels left"
            failures.append(f"groups {name!r} and {first!r} should be equal, and have {left}")
        elif width < size and name == first:
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
