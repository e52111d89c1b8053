"""Energy-aware: what takes most energy first, under an allowance that doubles; resumed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import CheckpointError
from jaxprune.plan import Problem, energy_aware
from jaxprune.plan.energy_order import by_energy
from test_level_swaps import PROBLEMS, picks_of, small
from test_measured_plans import Dying

ENERGY = jp.cost.energy({jp.cost.macs: 1.0, jp.cost.params: 6.0, jp.cost.activation_bytes: 50.0})


def additive(found: Problem, seed: int = 0) -> Any:
    """A loss that is a sum over the choices."""
    random = np.random.default_rng(seed)
    rows = [random.uniform(size=len(c.widths)).cumsum() for c in found.choices]
    return lambda keep: float(
        sum(row[i] - row[0] for row, i in zip(rows, picks_of(found, keep), strict=True))
    )


def by_hand(found: Problem, loss: Any, rise: float) -> list[list[int]]:
    """Every width that is taken, written out."""
    size = len(found.choices)
    alone = [
        [len(c.widths) - 1 if i == j else 0 for j in range(size)]
        for i, c in enumerate(found.choices)
    ]
    left = [ENERGY(found.graph, found.keep(picks)) for picks in alone]
    picks, path = [0] * size, []
    while not found.holds(found.keep(picks)):
        for i in np.argsort(left, kind="stable"):
            for pick in range(picks[i] + 1, len(found.choices[i].widths)):
                after = [*picks[:i], pick, *picks[i + 1 :]]
                if found.holds(found.keep(picks)) or loss(found.keep(after)) > rise:
                    break
                picks = after
                path.append(picks)
        rise *= 2
    return path


@pytest.mark.parametrize("rise", [0.05, 1.0, 50.0])
@pytest.mark.parametrize("which", PROBLEMS)
def test_the_order_and_the_allowance_are_those_by_hand(which: str, rise: float) -> None:
    found = PROBLEMS[which]()
    loss = additive(found)
    plan = energy_aware(found, ENERGY, loss, rise=rise)
    path = by_hand(found, loss, rise)
    assert picks_of(found, plan.keep) == path[-1]
    assert [step.value for step in plan.trace] == [-loss(found.keep(picks)) for picks in path]
    assert found.holds(plan.keep)
    assert plan.value == -loss(plan.keep)


def test_what_takes_most_energy_comes_first() -> None:
    found = small()

    def second(_: jp.ChannelGraph, keep: Any = None) -> float:
        return float(np.sum(keep["layer_1/kernel"]))

    assert by_energy(found, second) == [1, 0, 2]
    assert by_energy(found, jp.cost.macs) == by_energy(found, lambda *a: 2 * jp.cost.macs(*a))


def test_a_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    found = small()
    loss = additive(found)

    def recover(variables: Any, keep: Any) -> Any:
        return [*variables, picks_of(found, keep)]

    def evaluate(keep: Any, variables: Any) -> float:
        return loss(keep) - 0.01 * len(variables)

    options: Any = {"recover": recover, "variables": [], "rise": 0.1}
    counted = Dying(evaluate)
    whole = energy_aware(found, ENERGY, counted, **options, journal=tmp_path / "whole")
    assert len(whole.variables) == len(whole.trace) > 3
    assert whole.variables[-1] == picks_of(found, whole.keep)
    for after in (1, counted.calls // 2, counted.calls - 1):
        path = tmp_path / f"{after}"
        with pytest.raises(KeyboardInterrupt):
            energy_aware(found, ENERGY, Dying(evaluate, after), **options, journal=path)
        again = energy_aware(found, ENERGY, evaluate, **options, journal=path)
        assert (again.widths, again.trace) == (whole.widths, whole.trace)
        assert again.variables == whole.variables
        assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    options["rise"] = 0.2
    with pytest.raises(CheckpointError, match=r"rise is 0\.1, here 0\.2"):
        energy_aware(found, ENERGY, evaluate, **options, journal=tmp_path / "1")
