"""All widths by one factor, the largest that is within the limits: the control of every planner."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxprune.errors import BudgetError
from jaxprune.inspecting.closed_forms import split_widths
from jaxprune.plan.allocation import Allocation, Decision, allocation
from jaxprune.plan.problems import Problem, check_problem


def uniform(problem: Problem, *, widths: Mapping[str, Any] | None = None) -> Allocation:
    """Returns the allocation where every choice keeps the same share, the largest in the limits.

    Each takes the widest width of its ladder that is at most factor * width, or its narrowest; the
    factor is the largest that is within all limits. Branches stay. With `widths` these are
    multiplied and not the full ones, so that their proportions stay and the network grows or
    shrinks to the limits; `expand` goes beyond the network that was traced.

    It knows nothing of the network: what any other planner finds should be worth more.

    Args:
      problem: what `jp.plan.problem` returned.
      widths: {group: kept count} or a keep; groups that are absent have their full width. Of groups
        that `equal` ties, the first counts.

    Raises:
      JaxpruneError: `problem` is not one.
      BudgetError: only without branches are the smallest widths within the limits.
      KeepError: `widths` do not fit the graph.

    Costs: no evaluation; of each limit about as many calls as the number of widths has digits in
    binary.

    Source: the width multiplier of Howard et al., "MobileNets", 2017, section 3.3; with `widths`
    the expansion of Gordon et al., "MorphNet", CVPR 2018, algorithm 1, within the traced network.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 4)), "third": np.ones((4, 3))}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"] @ v["third"], v, np.ones((1, 2)))
    >>> scores = {"first": [9.0, 8.0, 1.0, 1.0], "second": [4.0, 3.0, 2.0, 1.0]}
    >>> found = jp.plan.problem(graph, scores, bounds={jp.cost.macs: 0.5})
    >>> jp.plan.uniform(found).widths, jp.plan.uniform(found, widths={"first": 1}).widths
    ({'first': 2, 'second': 2}, {'first': 1, 'second': 4})
    """
    check_problem(problem)
    asked = {} if widths is None else split_widths(problem.graph, widths)[0]
    shape = [asked.get(choice.name, choice.widths[0]) for choice in problem.choices]
    factors = {
        width / full
        for choice, full in zip(problem.choices, shape, strict=True)
        if choice.branch is None
        for width in choice.widths
    }
    ascending = [0.0, *sorted(factors)]
    trace: list[Decision] = []

    def picks(place: int) -> list[int]:
        return [
            0 if choice.branch is not None else _widest(choice.widths, ascending[place] * full)
            for choice, full in zip(problem.choices, shape, strict=True)
        ]

    def holds(place: int) -> bool:
        taken = picks(place)
        trace.append(Decision(f"factor {ascending[place]:.6g}", problem.value(taken)))
        return problem.holds(problem.keep(taken))

    if not holds(0):
        raise BudgetError(
            "the smallest widths are within the limits only without branches, which uniform keeps."
            "\nFix: a looser bound, or another planner."
        )
    low, high = 0, len(ascending) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return allocation(problem, picks(low), trace=trace)


def _widest(widths: tuple[int, ...], most: float) -> int:
    """The place of the widest width that is at most so much; of the narrowest if all are above."""
    within = np.flatnonzero(np.array(widths) <= most + 1e-9)
    return int(within[0]) if len(within) else len(widths) - 1
