"""The removal order: one sequence of steps from the full network down to its floors.

Within a group channels leave by (score, channel). A kept count is reachable if it respects the
floors and `multiple_of` (a multiple, or the full size); one step takes a group from a reachable
count to the next lower one. The steps of all groups are sorted by (highest score that leaves,
group order): the order of a threshold that rises, where a block of channels goes once all of it is
passed.

In a group of stacked layers every layer loses one channel at a time, its lowest; what they lose
together is scored by the mean over the layers (`threshold`: the highest). Groups that `equal`
ties are one unit, as if each were such a layer: they have one count, and lose channels together.

So floors, rounding and budgets never fight: at every point of the order the constraints hold, and
every cost falls along it. A channel under a floor is in no step, which is how a quota goes on to
the next lowest channel elsewhere.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.arguments.bounds import Absolute
from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.numbers import is_number, plain
from jaxprune.errors import BudgetError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups import equal
from jaxprune.groups.array_widths import multiple_for
from jaxprune.groups.constraints import (
    Constraints,
    Limits,
    check_constraints,
    multiples,
    scope,
)
from jaxprune.groups.equal import Unit
from jaxprune.groups.scored import Scores, check_scores
from jaxprune.program import stacked_layers

Keep = dict[str, np.ndarray]


class Order(NamedTuple):
    """The removal order. Groups in scope are those with scores that may lose channels."""

    limits: Limits
    scores: dict[str, np.ndarray]  # every scored group, in graph order: float64[*layers, n]
    present: dict[str, np.ndarray]  # which channels are there: bool[*layers, n]
    ranked: dict[str, np.ndarray]  # groups in scope: channels, lowest score first: [*layers, m]
    units: dict[str, Unit]  # the groups in scope that keep one count, by the first of them
    joint: dict[str, np.ndarray]  # units: float64[m], ascending, what goes together
    layers: dict[str, dict[str, int]]  # units: {group: how many of its layers lose channels}
    counts: dict[str, np.ndarray]  # units: reachable kept counts, from the full size down
    owner: np.ndarray  # int[steps]: index of the unit that a step narrows
    removed: np.ndarray  # int[steps]: how many channels leave every layer
    highest: np.ndarray  # float64[steps], ascending: the highest score that leaves


def removal_order(
    graph: ChannelGraph,
    scores: Scores,
    constraints: Constraints,
    across: Callable[..., np.ndarray] = np.mean,
) -> Order:
    """Returns the removal order of the groups in scope.

    `across` joins the scores of what stacked layers lose together, called with `axis=0`.

    Raises:
      JaxpruneError: an unknown constraint.
      BudgetError: a constraint makes no sense.
      ScoreError: NaN, a wrong length, an unknown group, no group at all.
      PatternError: a pattern matches nothing, nothing is left in scope, or `equal` ties what may
        lose channels to what may not.
    """
    check_graph(graph)
    limits = check_constraints(graph, constraints, "select")
    checked = check_scores(graph, scores, strict=limits.strict)
    names = scope(graph, list(checked), only=limits.only, protect=limits.protect)
    present = {name: np.ones(values.shape, bool) for name, values in checked.items()}
    present |= {
        name: np.broadcast_to(kept, graph.groups[name].shape).copy()
        for name, kept in limits.within.items()
    }
    ranked = {name: _ranked(checked[name], present[name]) for name in names}
    units = {unit[0]: unit for unit in equal.units(graph, names, limits.equal)}
    _check_present(units, ranked)
    joint = {
        first: _joint([(checked[name], ranked[name]) for name in unit], across)
        for first, unit in units.items()
    }
    counts = _counts(
        graph, limits, units, {name: int(row.shape[-1]) for name, row in joint.items()}
    )
    highest = [joint[name][c[0] - c[1:] - 1] for name, c in counts.items()]
    owner = np.repeat(np.arange(len(units)), [len(steps) for steps in highest])
    removed = np.concatenate([-np.diff(c) for c in counts.values()])
    by_score = np.argsort(np.concatenate(highest), kind="stable")
    return Order(
        limits=limits,
        scores=checked,
        present=present,
        ranked=ranked,
        units=units,
        joint=joint,
        layers={
            first: {name: graph.groups[name].layers or 1 for name in unit}
            for first, unit in units.items()
        },
        counts=counts,
        owner=owner[by_score],
        removed=removed[by_score],
        highest=np.concatenate(highest)[by_score],
    )


def widths_after(order: Order, steps: int) -> dict[str, int]:
    """Returns the kept count of each scored group after the first `steps` of the order."""
    gone = np.zeros(len(order.counts), int)
    np.add.at(gone, order.owner[:steps], order.removed[:steps])
    present = {name: int(kept.sum(axis=-1).flat[0]) for name, kept in order.present.items()}
    return present | {
        name: int(counts[0] - n)
        for (first, counts), n in zip(order.counts.items(), gone, strict=True)
        for name in order.units[first]
    }


def keep_of(order: Order, widths: Mapping[str, int]) -> Keep:
    """Returns {group: bool[n]} of what is left at the widths; the highest scores of each stay."""
    keep = {name: kept.copy() for name, kept in order.present.items()}
    for name, ranked in order.ranked.items():
        gone = ranked[..., : ranked.shape[-1] - widths[name]]
        np.put_along_axis(keep[name], gone, False, axis=-1)
    return keep


def _ranked(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Returns the channels that are present, the lowest score first."""
    channels = stacked_layers.rows(present)
    by_score = np.argsort(np.take_along_axis(scores, channels, axis=-1), axis=-1, kind="stable")
    return np.take_along_axis(channels, by_score, axis=-1)


def _joint(
    groups: Sequence[tuple[np.ndarray, np.ndarray]], across: Callable[..., np.ndarray]
) -> np.ndarray:
    """Returns the scores of the channels that are present, of all layers and groups together.

    `groups` are the scores and the ranks of each.
    """
    ascending = [np.take_along_axis(scores, ranked, axis=-1) for scores, ranked in groups]
    if len(ascending) == 1 and ascending[0].ndim == 1:
        return ascending[0]
    return across(np.concatenate([np.atleast_2d(rows) for rows in ascending]), axis=0)


def _check_present(units: Mapping[str, Unit], ranked: Mapping[str, np.ndarray]) -> None:
    """Raises BudgetError where an earlier pruning left groups that are equal other counts."""
    failures = [
        f"groups {unit[0]!r} and {name!r} should keep the same count, but within leaves "
        f"{ranked[unit[0]].shape[-1]} and {ranked[name].shape[-1]} channels"
        for unit in units.values()
        for name in unit
        if ranked[name].shape[-1] != ranked[unit[0]].shape[-1]
    ]
    if failures:
        raise BudgetError("\n".join([*failures, "Fix: the same equal= from the first round on."]))


def _counts(
    graph: ChannelGraph, limits: Limits, units: Mapping[str, Unit], sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Returns the reachable counts of every unit; of small ones first, which others build on."""
    multiple, tied = multiples(graph, limits), {name for unit in units.values() for name in unit}
    known = {
        name: int(np.sum(limits.within.get(name, np.ones(group.size, bool)), axis=-1).flat[0])
        for name, group in graph.groups.items()
        if name not in tied
    }
    reachable: dict[str, np.ndarray] = {}
    for first in sorted(units, key=lambda name: sizes[name]):
        each = [
            asked
            if isinstance(asked := multiple[name], int)
            else multiple_for(graph, name, asked.multiple, known)
            for name in units[first]
        ]
        least = max(graph.groups[name].least for name in units[first])
        reachable[first] = _reachable(sizes[first], limits, math.lcm(*each), least)
        known |= dict.fromkeys(units[first], math.gcd(*reachable[first].tolist()))
    return {first: reachable[first] for first in units}


def _reachable(size: int, limits: Limits, multiple: int, least: int) -> np.ndarray:
    """Returns the counts that a group may keep, descending from its size."""
    lowest = max(floor(size, limits), least)
    lower = np.arange((size - 1) // multiple * multiple, lowest - 1, -multiple)
    return np.concatenate([[size], lower])


def floor(size: int, limits: Limits) -> int:
    """Returns the least count that a group of `size` must keep, rounding apart."""
    kept = -share(-size, limits.min_keep_ratio)
    return min(size, max(limits.min_channels, kept, size - share(size, limits.max_prune_ratio)))


def share(total: int, ratio: float) -> int:
    """Returns floor(total * ratio), and 29 for 29 % of 100 although 100 * 0.29 is below it."""
    return math.floor(total * ratio + 1e-6)


def limit_of(bound: Any, dense: Any, name: str) -> Any:
    """Returns the largest cost within a bound: whole numbers for a cost in whole numbers.

    Raises:
      BudgetError: the cost `name` of the dense network is not a finite number.
    """
    if not is_number(dense) or not math.isfinite(plain(dense)):
        raise BudgetError(
            f"{name}: the cost of the dense network is {kind_of(dense)}, not a finite number.\n"
            "Fix: a function (graph, widths) that returns one."
        )
    if isinstance(bound, Absolute):
        return bound.value
    return share(dense, bound.value) if isinstance(dense, int) else dense * bound.value


def down(ratio: float) -> float:
    """Returns `ratio` cut after four digits: a share that is reachable stays so as printed."""
    return math.floor(1e4 * ratio) / 1e4
