"""Equal damage everywhere: the lowest threshold within the limits, against all thresholds."""

from dataclasses import replace

import numpy as np
import pytest

import jaxprune as jp
from chains import chain
from jaxprune.plan import Problem, problem, sensitivity
from test_plan import random_problem


def noisy(seed: int) -> Problem:
    """A problem whose curves rise and fall, with ties, multiples, branches and several bounds."""
    random = np.random.default_rng(seed)
    found = random_problem(seed)
    drawn = [
        choice._replace(values=-random.choice([0.0, 0.1, 0.2, 0.3, 1.0], len(choice.widths)))
        for choice in found.choices
    ]
    return replace(found, choices=tuple(drawn))


@pytest.mark.parametrize("seed", range(12))
def test_no_lower_threshold_is_within_the_limits(seed: int) -> None:
    found = noisy(seed)
    damages = [
        [max(c.values[0] - c.values[: i + 1].min(), 0.0) for i in range(len(c.widths))]
        for c in found.choices
    ]
    every = sorted({damage for each in damages for damage in each})
    within = ([max(i for i, d in enumerate(each) if d <= t) for each in damages] for t in every)
    picks = next(picks for picks in within if found.holds(found.keep(picks)))
    plan = sensitivity(found)
    assert [*plan.widths.values()] == [
        c.widths[i] for c, i in zip(found.choices, picks, strict=True)
    ]
    assert plan.value == found.value(picks)
    assert found.holds(plan.keep)
    assert len(plan.trace) <= 5


def test_what_a_floor_holds_is_printed() -> None:
    graph = chain(8, 6)[0]
    scores = {name: np.arange(1.0, group.size + 1) for name, group in graph.groups.items()}
    found = problem(graph, scores, bounds={jp.cost.macs: 0.45}, min_channels=3)
    damages = {"layer_0/kernel": 1.0, "layer_1/kernel": 9.0}
    steps = [
        choice._replace(values=-damages[choice.name] * np.arange(len(choice.widths)))
        for choice in found.choices
    ]
    lines = str(sensitivity(replace(found, choices=tuple(steps)))).splitlines()
    assert lines[-2] == "at the narrowest width of its ladder: layer_0/kernel"
