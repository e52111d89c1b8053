"""Training anew after a cut: from initial or new weights, for as many epochs or MACs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jaxprune as jp
from experiments.methods import agp
from experiments.procedures import kept_rounds, rounds
from experiments.runner import directory
from experiments.runner.experiment import execute
from experiments.runner.fit import QUIET, Journal
from experiments.runner.task import initial
from experiments.tasks import classification
from jaxprune.schedule import Training, constant
from same_runs import Interrupted, check_same, interrupt

ONCE = Training(epochs=1, rates=constant(0.05))
SMALL: dict[str, Any] = {
    **{"limit": 64, "model": "mlp", "widths": (12, 10), "batch_size": 32, "rounds": 1},
    **{"dense": Training(epochs=2, rates=constant(0.05)), "train": ONCE, "finetune": (ONCE,)},
}


def test_a_cut_network_trains_anew() -> None:
    """One task, one dense network: what stands at the commit, and how many epochs follow."""
    task = classification.task(agp.Config(**SMALL))
    fresh, found, lengths = initial(task).variables, {}, {}
    method = agp.method(agp.Config(**SMALL))
    before = rounds.initial(task, method)
    for state in rounds.rounds(task, method, before):
        if state.done and state.done.commit:
            break
        before = state
    for how in ("finetune", "rewind", "scratch-e", "scratch-b"):
        method, heard = agp.method(agp.Config(**SMALL, retrain=how)), []

        @contextmanager
        def during(*_: Any, heard: list[int] = heard) -> Iterator[Journal]:
            yield QUIET._replace(on_epoch=lambda epoch, _: heard.append(epoch.total))

        found[how], _ = rounds.rounds(task, method, before, during)  # the commit, the training
        lengths[how] = heard[0]
    cut = found["rewind"]
    kept = jp.slice(task.graph, fresh, cut.progress.total)
    jax.tree.map(np.testing.assert_array_equal, cut.variables, kept)
    kernels = {how: jax.tree.leaves(state.variables["params"]) for how, state in found.items()}
    for how in ("finetune", "scratch-e"):
        same = [np.array_equal(a, b) for a, b in zip(kernels[how], kernels["rewind"], strict=True)]
        assert not all(same)
    shapes = {how: [leaf.shape for leaf in each] for how, each in kernels.items()}
    assert all(each == shapes["rewind"] for each in shapes.values())
    left = found["scratch-b"].progress.left()
    assert left < 0.8
    assert lengths == {
        "finetune": 1,
        "rewind": 2,
        "scratch-e": 2,
        "scratch-b": round(2 / left),
    }


def test_a_network_is_pruned_before_it_trains() -> None:
    config = agp.Config(**SMALL, start="untrained", score="random")
    task, method = classification.task(config), agp.method(config)
    states = []
    for state in rounds.rounds(task, method, rounds.initial(task, method)):
        states.append(state)
        if state.done and state.done.commit:
            break
    assert [rounds.label(state.done) for state in states] == ["dense", "ramp-1", "commit-1"]
    first = initial(task).variables
    jax.tree.map(np.testing.assert_array_equal, states[0].variables, first)
    cut, kept = states[-1], jp.slice(task.graph, first, states[-1].progress.total)
    jax.tree.map(np.testing.assert_array_equal, cut.variables, kept)
    after = method.plan(cut.done, cut.progress.left())
    assert after is not None
    assert after.training == config.dense


def test_a_fine_tuning_learns_from_the_dense_network_and_goes_on_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_rounds, "draw", lambda *_: None)
    few: dict[str, Any] = {
        **SMALL,
        "finetune": (Training(epochs=2, rates=constant(0.05)),),
        "resume": True,
    }
    ends = {}
    for name, mix, at in (("plain", 0.0, None), ("whole", 0.5, None), ("broken", 0.5, 4)):
        config = agp.Config(**few, distill=mix, root=tmp_path / name)
        if at:
            with monkeypatch.context() as patch:  # in the middle of the fine-tuning
                interrupt(patch, directory, "append_metrics", at, before=False)
                with pytest.raises(Interrupted):
                    execute(agp.EXPERIMENT, config)
        ends[name] = execute(agp.EXPERIMENT, config)
    check_same(ends["broken"], ends["whole"], ["rounds", "widths"])
    trees = [
        jp.restore(ends[name] / "checkpoints" / "finetune-1").variables
        for name in ("plain", "whole")
    ]
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, *trees)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"start": "later"}, "start='later' is not one of trained, untrained"),
        ({"start": "untrained", "distill": 0.5}, "start=untrained has no dense network"),
        ({"start": "untrained", "retrain": "rewind"}, "start=untrained has no dense network"),
        ({"distill": 1.5}, "distill=1.5 is not a share"),
        ({"distill": 0.5, "temperature": -1.0}, "temperature=-1.0 must be above 0"),
    ],
)
def test_contradictions_are_errors(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        agp.Config(**SMALL, **changes)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="retrain='again' is not one of finetune, rewind"):
        agp.Config(**SMALL, retrain="again")  # pyright: ignore[reportArgumentType]
