"""The planners that `--planner` names: each within its budget, and runs that go on."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jaxprune as jp
from experiments.methods import agp, sparse_training
from experiments.procedures import planning, rounds, scoring
from experiments.runner import checkpoints, directory
from experiments.runner.experiment import execute
from experiments.runner.task import initial
from experiments.tasks import classification
from jaxprune.schedule import Prune, Quota, Training, constant
from same_runs import Interrupted, check_same, interrupt
from test_restarting import ONCE, SMALL

TINY: dict[str, Any] = {**SMALL, "dense": ONCE, "planner": "sensitivity", "final": 0.4}


@pytest.fixture(scope="module")
def given() -> scoring.Given:
    task = classification.task(agp.Config(**SMALL))
    return scoring.Given(task, task.graph, initial(task).variables, jax.random.key(0))


@pytest.mark.parametrize("name", planning.PLANNERS)
def test_every_planner_is_within_the_budget_and_plans_the_same_again(
    name: str, given: scoring.Given, tmp_path: Path
) -> None:
    scores = scoring.scores("l2", given)
    bounds = {jp.cost.macs: 0.5, jp.cost.params: 0.6}
    options: dict[str, Any] = {"journal": tmp_path / "losses", "evaluations": 20, "ladder": 4}
    plans = [
        planning.planned(name, planning.asked(given, scores, bounds, **options)) for _ in range(2)
    ]
    assert jp.cost.macs(given.graph, plans[0].keep) <= 0.5 * jp.cost.macs(given.graph)
    assert jp.cost.params(given.graph, plans[0].keep) <= 0.6 * jp.cost.params(given.graph)
    assert plans[0].widths == plans[1].widths
    assert plans[0].trace == plans[1].trace


def test_a_short_recovery_lowers_the_loss_of_the_masked_network(given: scoring.Given) -> None:
    keep = {name: np.arange(group.size) % 2 == 0 for name, group in given.graph.groups.items()}
    images, labels = scoring.batches(given.task)[0]

    def loss(variables: Any) -> float:
        outputs = given.graph.fn(jp.mask(given.graph, variables, keep), images)
        return float(given.task.loss(outputs, labels))

    tuned = planning.tuned(given, steps=5)(given.variables, keep)
    assert loss(tuned) < loss(given.variables)
    again = planning.tuned(given, steps=5)(given.variables, keep)
    jax.tree.map(np.testing.assert_array_equal, again, tuned)


def test_the_rounds_reach_shares_of_the_macs_and_respect_the_floors(given: scoring.Given) -> None:
    allocate = planning.after("uniform", 0.4)
    assert allocate is not None
    scores = scoring.scores("l2", given)
    progress = jp.schedule.begin(given.graph, min_keep_ratio=0.4)
    for share in (0.2, 0.4, 0.6):
        prune = Prune(prune_ratio=share, of=Quota.MACS)
        keep = allocate(progress, prune, scores, given, None)
        narrower = [not np.any(keep[name] & ~progress.keep[name]) for name in keep]
        progress = replace(progress, keep=keep)
        assert all(narrower)
        assert progress.left() <= 1 - share + 1e-9
    assert all(kept.sum() >= 0.4 * kept.size for kept in progress.keep.values())
    with pytest.raises(ValueError, match=r"a planner needs a share of the MACs"):
        allocate(progress, Prune(prune_ratio=0.5, of=Quota.CHANNELS), scores, given, None)


def test_a_run_with_a_planner_goes_on_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(agp.Config(**TINY), rounds=2, resume=True)
    whole = execute(agp.EXPERIMENT, replace(config, root=tmp_path / "whole"))
    assert directory.read_json(whole / directory.SUMMARY)["macs"]["pruned"] > 0
    for module, name, at, before in (
        (os, "fsync", 3, True),  # of the journal of losses
        (checkpoints, "save", 2, True),
    ):
        with monkeypatch.context() as patch:
            interrupt(patch, module, name, at, before=before)
            with pytest.raises(Interrupted):
                execute(agp.EXPERIMENT, replace(config, root=tmp_path / "broken"))
    again = execute(agp.EXPERIMENT, replace(config, root=tmp_path / "broken"))
    check_same(again, whole, ["rounds", "widths", "macs"])
    names = {path.name for path in (whole / "plans").iterdir()}
    assert names == {"ramp-1.jsonl", "ramp-2.jsonl"}
    left = [record["macs"] for record in directory.read_json(whole / "summary.json")["rounds"]]
    assert left[-1] <= 0.6


def test_the_sparse_training_takes_one_too() -> None:
    config = sparse_training.Config(planner="uniform", keep_macs=0.4, dense=Training(
        epochs=1, rates=constant(0.1)))  # fmt: skip
    found = sparse_training.method(config)
    assert found.allocate is not None
    assert rounds.Method(plan=found.plan, dense=found.dense, score=found.score).allocate is None


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="planner='best' is not one of none, uniform, expand"):
        agp.Config(**SMALL, planner="best")
