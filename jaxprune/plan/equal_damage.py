"""The allocation where every choice does the same damage alone."""

import numpy as np

from jaxprune.plan.allocation import Allocation, Decision, allocation
from jaxprune.plan.problems import Problem, check_problem


def sensitivity(problem: Problem) -> Allocation:
    """Returns the allocation of the lowest threshold of damage that is within all limits.

    The damage of a width is by how much its value is below that of the full width; with measured
    values it is the rise of the loss where this choice alone is narrower. Each choice takes its
    narrowest width of at most the threshold. A width does at least the damage of every wider one,
    so that noise lets no choice skip a width that hurts. The threshold is found by bisection among
    all damages.

    It knows what each choice does alone, and nothing of how much a width saves: where choices cost
    unlike amounts, `milp` finds more value within the same limits, from the same values.

    Args:
      problem: `jp.plan.replace_one(...).problem`, or any of `jp.plan.problem`.

    Raises:
      JaxpruneError: `problem` is not one.

    Costs: no evaluation; of each limit about as many calls as the number of widths has digits in
    binary.

    Source: the search of FastNAS (NVIDIA Model Optimizer), which bisects a threshold of measured
    sensitivities until a network meets its bound.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 4)), "third": np.ones((4, 3))}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"] @ v["third"], v, np.ones((1, 2)))
    >>> scores = {"first": [9.0, 8.0, 1.0, 1.0], "second": [4.0, 3.0, 2.0, 1.0]}
    >>> found = jp.plan.problem(graph, scores, bounds={jp.cost.macs: 0.5})
    >>> print(jp.plan.sensitivity(found))
    choice  groups  of  kept  share
    -------------------------------
    first        1   4     2    50%
    second       1   4     2    50%
    -------------------------------
    macs: 14 of 36 (38.9%), bound 18
    value: 24
    """
    check_problem(problem)
    damages = [
        np.maximum.accumulate(choice.values[0] - choice.values) for choice in problem.choices
    ]
    thresholds = np.unique(np.concatenate(damages))
    trace: list[Decision] = []

    def holds(place: int) -> bool:
        picks = _within(damages, thresholds[place])
        trace.append(Decision(f"damage {thresholds[place]:.6g}", problem.value(picks)))
        return problem.holds(problem.keep(picks))

    low, high = 0, len(thresholds) - 1  # at the last all widths are the smallest, within the limits
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return allocation(problem, _within(damages, thresholds[high]), trace=trace)


def _within(damages: list[np.ndarray], threshold: float) -> list[int]:
    return [int(np.searchsorted(each, threshold, side="right")) - 1 for each in damages]
