"""What is to be planned: choices with their ladders and values, and limits of costs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Unpack

import jax
import numpy as np

from jaxprune.arguments import paths
from jaxprune.arguments.bounds import Bound, typed_costs
from jaxprune.arguments.checks import check_callable, check_mapping, kind_of
from jaxprune.arguments.numbers import check_count, is_count, is_integer, is_number, plain
from jaxprune.errors import BudgetError, JaxpruneError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.constraints import Constraints
from jaxprune.groups.scored import Scores, real
from jaxprune.inspecting import cost
from jaxprune.inspecting.branches import branches as branches_of
from jaxprune.select.one_call import FLOOR
from jaxprune.select.removal import Order, keep_of, limit_of, removal_order, widths_after

STEPS = 8
"""The default number of widths in a ladder."""


class Choice(NamedTuple):
    """What takes one width: a group, groups that `equal` ties, or a branch in one step of a scan.

    widths: from the full one down; of a branch 1 and 0. values: f64, what each of them is worth.
    branch: None, or (branch, step).
    """

    name: str
    members: tuple[str, ...]
    widths: tuple[int, ...]
    values: np.ndarray
    branch: tuple[str, int] | None = None


class Limit(NamedTuple):
    """A bound of a cost in its unit: at most `value`, of `dense`."""

    name: str
    cost: cost.Cost
    value: Any
    dense: Any

    def left(self, graph: ChannelGraph, keep: Mapping[str, Any]) -> Any:
        """Returns what a keep costs.

        Raises:
          BudgetError: it is not a finite number.
        """
        cost = self.cost(graph, keep)
        if not is_number(cost) or not math.isfinite(plain(cost)):
            raise BudgetError(
                f"{self.name} of a keep is {cost!r}, not a finite number.\n"
                "Fix: a finite one above the bound where a keep must not be."
            )
        return cost


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What all planners take; made by `jp.plan.problem`.

    `floor`: the share that every group keeps by default, None where a constraint says it.
    """

    graph: ChannelGraph = field(repr=False)
    order: Order = field(repr=False)
    choices: tuple[Choice, ...]
    limits: tuple[Limit, ...]
    floor: float | None = None

    def keep(self, picks: Sequence[int]) -> dict[str, np.ndarray]:
        """Returns the keep where every choice takes the width at its place of the ladder.

        Raises:
          BudgetError: there is not one place for every choice.
        """
        picks = self._checked(picks)
        widths, known = widths_after(self.order, 0), branches_of(self.graph)
        stay: dict[str, np.ndarray] = {}
        for choice, pick in zip(self.choices, picks, strict=True):
            if choice.branch is None:
                widths |= dict.fromkeys(choice.members, choice.widths[pick])
            else:
                name, step = choice.branch
                kept = stay.setdefault(name, np.ones(known[name].steps or 1, bool))
                kept[step] = bool(choice.widths[pick])
        shaped = {name: kept.reshape(known[name].shape) for name, kept in stay.items()}
        return keep_of(self.order, widths) | shaped

    def value(self, picks: Sequence[int]) -> float:
        """Returns the sum of the values of the picks; arguments and errors as of `keep`."""
        pairs = zip(self.choices, self._checked(picks), strict=True)
        return float(sum(choice.values[pick] for choice, pick in pairs))

    def holds(self, keep: Mapping[str, Any]) -> bool:
        """Whether a keep is within every limit, by the costs themselves."""
        return all(limit.left(self.graph, keep) <= limit.value for limit in self.limits)

    def _checked(self, picks: Any) -> list[int]:
        lengths = [len(choice.widths) for choice in self.choices]
        given = list(picks) if isinstance(picks, Sequence | np.ndarray | jax.Array) else []
        fits = len(given) == len(lengths) and all(map(is_integer, given))
        if not fits or not all(0 <= n < end for n, end in zip(given, lengths, strict=True)):
            raise BudgetError(
                f"picks must be a place in the ladder of every choice, got {kind_of(picks)}.\n"
                f"Fix: {len(lengths)} ints from 0 to below {lengths}."
            )
        return [plain(n) for n in given]


def check_problem(value: Any) -> None:
    """Raises JaxpruneError unless this is a problem."""
    if not isinstance(value, Problem):
        raise JaxpruneError(
            f"problem must be a Problem, got {kind_of(value)}.\n"
            "Fix: jp.plan.problem(graph, scores, bounds={jp.cost.macs: 0.5})."
        )


def problem(
    graph: ChannelGraph,
    scores: Scores,
    *,
    bounds: Mapping[cost.Cost, Bound],
    ladder: int | Mapping[str, Iterable[int]] = STEPS,
    values: Mapping[str, Mapping[int, float]] | None = None,
    branches: Mapping[str, Any] | None = None,
    **constraints: Unpack[Constraints],
) -> Problem:
    """Returns what planners plan: one width of a ladder for every group, within bounds of costs.

    Args:
      graph: what `jaxprune.trace` returned.
      scores: {group: f32[n]}, higher means keep: which channels stay at a width. The value of a
        width is the sum of the scores that stay; scores of different groups are added as they are
        (`jp.scores.normalized`). Groups without scores stay whole.
      bounds: {cost: bound}, of costs such as `jp.cost.macs` or of yours, (graph, keep) -> number:
        below 1 the share of dense that stays, above 1 an absolute value; `jp.Share` and
        `jp.Absolute` say which it is.
      ladder: how many widths a group may take, at least 2, spread evenly from the full one to its
        floor; or {pattern: widths}, among them the full one, and 8 for groups without a pattern.
      values: {group: {width: value}}, such as measured ones, in the place of sums of scores: for
        every width of its ladder. Of groups that `equal` ties they add up.
      branches: {branch: value of keeping it, or one for each step}: what may go beside channels.
      **constraints: see `jp.select.Constraints`. What `equal` ties is one choice. Without
        `min_channels`, `min_keep_ratio` and `max_prune_ratio` a group keeps a tenth, so that no
        layer is emptied; a printed `Allocation` names the groups that this held.

    Raises:
      BudgetError: no bound, a bound that no choice of the smallest widths meets (all such are
        named, with the nearest that is reachable), a ladder without the full width or with one
        that the constraints rule out, `equal` groups of unlike sizes, values that are missing, or a
        cost that gives no finite number, or 0 for the dense network.
      ScoreError, PatternError: as those of `jp.select.budget`.

    >>> from jaxprune import plan, trace
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 4)), "third": np.ones((4, 3))}
    >>> graph = trace(lambda v, x: x @ v["first"] @ v["second"] @ v["third"], v, np.ones((1, 2)))
    >>> scores = {"first": [9.0, 8.0, 1.0, 1.0], "second": [4.0, 3.0, 2.0, 1.0]}
    >>> print(plan.milp(plan.problem(graph, scores, bounds={cost.macs: 0.5}), gap=0.0))
    choice  groups  of  kept  share
    -------------------------------
    first        1   4     3    75%
    second       1   4     2    50%
    -------------------------------
    macs: 18 of 36 (50.0%), bound 18
    value: 25, gap 0.00%
    """
    asked = _typed(bounds)
    floor = None if _FLOORS & constraints.keys() else FLOOR
    floors: Constraints = {} if floor is None else {"min_keep_ratio": floor}
    order = removal_order(graph, scores, {**floors, **constraints})
    cost.warn_uncounted(graph, list(asked), stacklevel=2)
    ladders = _ladders(order, ladder)
    given = {} if values is None else check_mapping(values, "values", _VALUES, BudgetError)
    _check_groups(given, order)
    choices = [
        Choice(name, order.units[name], widths, _values(order, name, widths, given))
        for name, widths in ladders.items()
    ]
    choices += _branch_choices(graph, branches)
    limits = []
    for price, bound in asked.items():
        dense = price(graph, None)
        name = getattr(price, "__name__", "a cost")
        limits.append(Limit(name, price, limit_of(bound, dense, name), dense))
        if not dense:
            raise BudgetError(f"{name} of the dense network is 0.\nFix: leave this bound out.")
    names = [limit.name for limit in limits]
    limits = [
        limit._replace(name=f"{limit.name}#{names[:i].count(limit.name) + 1}")
        if limit.name in names[:i]
        else limit
        for i, limit in enumerate(limits)
    ]
    made = Problem(
        graph=graph, order=order, choices=tuple(choices), limits=tuple(limits), floor=floor
    )
    _check_reachable(made)
    return made


_FLOORS = {"min_channels", "min_keep_ratio", "max_prune_ratio"}
_VALUES = "{group: {width: value}}"


def _typed(bounds: Any) -> dict[cost.Cost, Any]:
    given = check_mapping(bounds, "bounds", "{cost: bound}", BudgetError)
    for price in given:
        check_callable(price, "bounds: a cost", "bounds={jp.cost.macs: 0.5}.", BudgetError)
    if not given:
        raise BudgetError("there is no bound.\nFix: bounds={jp.cost.macs: 0.5} keeps half.")
    return typed_costs(given)


def _ladders(order: Order, ladder: Any) -> dict[str, tuple[int, ...]]:
    """{choice: its widths, from the full one down}."""
    several = isinstance(ladder, Mapping)
    steps = STEPS if several else check_count(ladder, "ladder", "ladder=8.", BudgetError, least=2)
    ladders = {}
    for name, counts in order.counts.items():
        places = np.unique(np.linspace(0, len(counts) - 1, min(steps, len(counts))).round())
        ladders[name] = tuple(int(counts[int(i)]) for i in places)
    failures = []
    if several:
        members = {member: name for name, unit in order.units.items() for member in unit}
        paths.require(ladder, members, what="ladder pattern")
        for pattern, widths in ladder.items():
            for name in {members[m] for m in members if paths.matches(pattern, m)}:
                listed = list(widths) if isinstance(widths, Iterable) else [widths]
                if wrong := [width for width in listed if not is_count(width)]:
                    failures.append(f"the ladder of {name!r} holds {wrong}, not counts")
                    continue
                given = sorted({plain(width) for width in listed}, reverse=True)
                reachable = {int(count) for count in order.counts[name]}
                full = int(order.counts[name][0])
                if full not in given:
                    failures.append(f"the ladder of {name!r} lacks its full width, {full}: {given}")
                elif wrong := [w for w in given if w not in reachable]:
                    failures.append(
                        f"the ladder of {name!r} holds {wrong}, which its size, floors or "
                        "multiple_of rule out"
                    )
                ladders[name] = tuple(given)
    if failures:
        fix = "Fix: the full width, and others from the floor up in the multiples asked for."
        raise BudgetError("\n".join([*failures, fix]))
    return ladders


def _check_groups(given: Mapping[str, Any], order: Order) -> None:
    free = {member for unit in order.units.values() for member in unit}
    if unknown := [name for name in given if name not in free]:
        raise BudgetError(
            f"values name {unknown}, which are not groups that may lose channels.\n"
            f"Fix: leave them out; the groups are {sorted(free)[:5]}."
        )


def _values(
    order: Order, name: str, widths: Sequence[int], given: Mapping[str, Mapping[int, float]]
) -> np.ndarray:
    """What every width of a choice is worth."""
    worth = np.zeros(len(widths))
    for member in order.units[name]:
        if member in given:
            entry = check_mapping(
                given[member], f"values of {member!r}", "{width: value}", BudgetError
            )
            row = {plain(width): value for width, value in entry.items()}
            if missing := [width for width in widths if width not in row]:
                raise BudgetError(
                    f"values of {member!r} lack the widths {missing} of its ladder.\n"
                    f"Fix: one value for each of {list(widths)}."
                )
            each = real([row[width] for width in widths])
        else:
            sums = np.take_along_axis(order.scores[member], order.ranked[member], axis=-1)
            lost = np.cumsum(np.atleast_2d(sums).sum(0))
            gone = [widths[0] - width for width in widths]
            each = lost[-1] - np.array([lost[n - 1] if n else 0.0 for n in gone])
        if each is None or each.shape != worth.shape or not np.isfinite(each).all():
            raise BudgetError(f"values of {member!r} are not finite numbers.\nFix: finite ones.")
        worth += each
    return worth


def _branch_choices(graph: ChannelGraph, asked: Any) -> list[Choice]:
    """One choice for every branch that may go, or for each of its steps."""
    given = {} if asked is None else check_mapping(asked, "branches", _BRANCHES, BudgetError)
    known = branches_of(graph)
    paths.require(given, known, what="branch")
    choices = []
    for name, value in given.items():
        item, worth = known.get(name), real(value)
        if item is None or worth is None or worth.shape not in {(), item.shape}:
            raise BudgetError(
                f"branches[{name!r}] is {kind_of(value)}, not a number or one for each step of one "
                "branch.\nFix: the name of a branch, as jp.branches(graph) has it, and its value."
            )
        for step, each in enumerate(np.broadcast_to(worth, item.shape).reshape(-1)):
            if not np.isfinite(each):
                raise BudgetError(f"branches[{name!r}] is {each}, not finite.\nFix: a number.")
            label = name if item.steps is None else f"{name}[{step}]"
            choices.append(Choice(label, (name,), (1, 0), np.array([each, 0.0]), (name, step)))
    return choices


_BRANCHES = "{branch: value of keeping it}"


def _check_reachable(problem: Problem) -> None:
    """Raises BudgetError if the smallest widths are not within the limits."""
    least = problem.keep([len(choice.widths) - 1 for choice in problem.choices])
    failures = []
    for limit in problem.limits:
        reached = limit.left(problem.graph, least)
        if reached > limit.value:
            failures.append(
                f"{limit.name} may be {limit.value:,} of {limit.dense:,}, but at the smallest "
                f"widths of the ladders it is {reached:,}: jp.Absolute({reached}) is the nearest "
                "bound that can be reached"
            )
    if failures:
        fix = (
            "Fix: a looser bound, ladders that go further down, or relax min_channels, "
            "min_keep_ratio, max_prune_ratio, multiple_of, protect or only."
        )
        raise BudgetError("\n".join([*failures, fix]))
