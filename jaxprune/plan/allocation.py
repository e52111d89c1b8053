"""What a planner returns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxprune.groups.constraints import few
from jaxprune.inspecting.aligned import ruled, table
from jaxprune.plan.problems import Problem


class Decision(NamedTuple):
    """One step of a planner: what it took, and the value that it then had."""

    what: str
    value: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Allocation:
    """How much is cut where; `print` shows it as a table.

    Attributes:
      keep: {group: bool[n], branch: bool or bool[steps]}, for `jp.slice` and `jp.narrow`.
      widths: {first group of a choice, or branch: kept count}; 1 and 0 for a branch.
      costs: {cost: what is left of it}, of the bounds of the problem, by the closed form.
      value: what the planner maximized.
      gap: by which share of the value above the least another allocation could be better at most;
        None where the planner does not know.
      trace: the decisions, in order.
      variables: in the full shapes, as the recovery of the planner left them; None if it had none.
    """

    problem: Problem = field(repr=False)
    keep: Mapping[str, np.ndarray]
    widths: Mapping[str, int]
    costs: Mapping[str, Any]
    value: float
    gap: float | None = None
    trace: Sequence[Decision] = ()
    variables: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        """One line per choice, one per bound, and one on what a floor holds."""
        head = ("choice", "groups", "of", "kept", "share")
        rows = [
            (
                choice.name,
                f"{len(choice.members)}",
                f"{choice.widths[0]:,}",
                f"{self.widths[choice.name]:,}",
                f"{self.widths[choice.name] / choice.widths[0]:.0%}",
            )
            for choice in self.problem.choices
        ]
        lines = list(ruled(table([head, *rows], numbers={1, 2, 3, 4}), after=(0, len(rows))))
        for limit in self.problem.limits:
            left, dense = self.costs[limit.name], limit.dense
            beyond = ", not held" if left > limit.value else ""
            bound = f"bound {limit.value:,}{beyond}"
            lines.append(f"{limit.name}: {left:,} of {dense:,} ({left / dense:.1%}), {bound}")
        lines += self._held()
        gap = "" if self.gap is None else f", gap {self.gap:.2%}"
        return "\n".join([*lines, f"value: {self.value:.6g}{gap}"])

    def _held(self) -> Iterator[str]:
        """Lines on the choices that only the default floor, or their ladder, kept from less."""
        floor, counts = self.problem.floor, self.problem.order.counts
        ends = [
            choice
            for choice in self.problem.choices
            if choice.branch is None and 1 < self.widths[choice.name] == choice.widths[-1]
        ]
        held = [c.name for c in ends if floor is not None and c.widths[-1] == counts[c.name][-1]]
        if held:
            yield (
                f"the default floor, {floor:.0%} of a group, holds {len(held)}: {few(held)}; "
                "min_keep_ratio= says another"
            )
        if rest := [choice.name for choice in ends if choice.name not in held]:
            yield f"at the narrowest width of its ladder: {few(rest)}"


def allocation(
    problem: Problem,
    picks: Sequence[int],
    *,
    value: float | None = None,
    gap: float | None = None,
    trace: Sequence[Decision] = (),
    variables: Any = None,
) -> Allocation:
    """Returns the allocation of a pick, the place in its ladder, for every choice.

    Its value is the sum of the values of the widths, or `value`.
    """
    keep = problem.keep(picks)
    return Allocation(
        problem=problem,
        keep=keep,
        widths={c.name: c.widths[pick] for c, pick in zip(problem.choices, picks, strict=True)},
        costs={limit.name: limit.cost(problem.graph, keep) for limit in problem.limits},
        value=problem.value(picks) if value is None else value,
        gap=gap,
        trace=trace,
        variables=variables,
    )
