"""All widths by one factor: against every factor, with shapes of their own and branches."""

from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from chains import chain
from jaxprune.errors import BudgetError
from jaxprune.plan import Problem, problem, uniform
from test_level_swaps import PROBLEMS, switched


def by_hand(found: Problem, shape: dict[str, int]) -> dict[str, int]:
    """The widths at the largest of all factors in small steps, branches whole."""
    best: dict[str, int] = {}
    for factor in np.arange(0, 8.001, 1 / 240):
        widths = {}
        for choice in found.choices:
            full = shape.get(choice.name, choice.widths[0])
            within = [n for n in choice.widths if n <= factor * full + 1e-9] or [choice.widths[-1]]
            widths[choice.name] = 1 if choice.branch else within[0]
        picks = [choice.widths.index(widths[choice.name]) for choice in found.choices]
        if found.holds(found.keep(picks)):
            best = widths
    return best


@pytest.mark.parametrize("which", ["chain", "tied", "rounded"])
@pytest.mark.parametrize("shape", [{}, {"layer_0/kernel": 2, "layer_1/kernel": 5}])
def test_no_larger_factor_is_within_the_limits(which: str, shape: dict[str, int]) -> None:
    found = PROBLEMS[which]()
    plan = uniform(found, widths=shape or None)
    assert plan.widths == by_hand(found, shape)
    assert found.holds(plan.keep)
    assert plan.value == found.value([c.widths.index(plan.widths[c.name]) for c in found.choices])


def test_a_keep_says_the_shape_and_what_is_wide_stays_whole() -> None:
    graph = chain(8, 8)[0]
    scores = {name: np.arange(1.0, 9) for name in graph.groups}
    found = problem(graph, scores, bounds={jp.cost.macs: 0.6})
    keep = {"layer_0/kernel": np.arange(8) < 1}
    plan = uniform(found, widths=keep)
    assert plan.widths["layer_1/kernel"] == 8
    assert plan.widths["layer_0/kernel"] == by_hand(found, {"layer_0/kernel": 1})["layer_0/kernel"]


def test_branches_stay_or_it_is_an_error() -> None:
    assert uniform(switched()).widths["+d0"] == 1
    graph = switched().graph
    scores = {name: np.ones(group.size) for name, group in graph.groups.items()}
    options: dict[str, Any] = {"branches": dict.fromkeys(jp.branches(graph), 1.0)}
    tight = problem(graph, scores, bounds={jp.cost.macs: jp.Absolute(5)}, **options)
    with pytest.raises(BudgetError, match="only without branches, which uniform keeps"):
        uniform(tight)
