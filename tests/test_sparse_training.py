"""Training-time sparsities as one experiment, at a size of seconds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jax
import jax.numpy as jnp
import optax

import jaxprune as jp
from experiments.methods import sparse_training
from experiments.procedures import growing, kept_rounds
from experiments.procedures.sparsifying import SPARSITIES
from experiments.runner import directory
from experiments.runner.experiment import execute
from experiments.runner.task import initial
from experiments.tasks import classification
from jaxprune.schedule import Training, constant
from same_runs import Interrupted, check_same, interrupt

RATE = constant(0.05)
SMALL = sparse_training.Config(
    limit=128,
    model="mlp",
    widths=(12, 10),
    batch_size=32,
    keep_macs=0.5,
    dense=Training(epochs=1, rates=RATE),
    train=Training(epochs=3, rates=RATE),
    finetune=(Training(epochs=1, rates=RATE),),
    resume=True,
)


@pytest.mark.parametrize("method", ["asfp", "greg2"])
def test_it_cuts_to_the_target_and_goes_on_to_the_bit(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_rounds, "draw", lambda *_: None)
    config = replace(SMALL, method=method)
    whole = execute(sparse_training.EXPERIMENT, replace(config, root=tmp_path / "whole"))
    summary = directory.read_json(whole / directory.SUMMARY)
    assert summary["macs"]["pruned"] <= 0.5 * summary["macs"]["dense"]
    assert summary["final"] == "finetune-1"
    config = replace(config, root=tmp_path / "broken")
    with monkeypatch.context() as patch:  # after the second of the epochs with the method
        interrupt(patch, directory, "append_metrics", 3, before=False)
        with pytest.raises(Interrupted):
            execute(sparse_training.EXPERIMENT, config)
    again = execute(sparse_training.EXPERIMENT, config)
    records = check_same(again, whole, ["rounds", "widths", "macs"])
    assert [r["phase"] for r in records] == ["dense", *["score-1"] * 3, "finetune-1"]


TASK = classification.task(SMALL)
VARIABLES = initial(TASK).variables


@pytest.mark.parametrize("name", SPARSITIES)
def test_every_method_moves_weights_and_scores_every_group(name: str) -> None:
    method = sparse_training.method(replace(SMALL, method=name, strength=0.5))
    how = replace(SMALL.train, strength=0.5)
    assert method.wrap is not None
    tx = optax.with_extra_args_support(method.wrap(optax.sgd(0.05), how, 1, TASK.graph))
    params = VARIABLES["params"]
    state, zeros = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(tx.update)
    for _ in range(2):  # epochs of one step; the ramp of asfp begins at zero
        updates, state = update(zeros, state, params)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(updates))
    after = VARIABLES | {"params": optax.apply_updates(params, updates)}
    scores = method.score.read(TASK.graph, after, None, jax.random.key(0), TASK)
    assert scores.keys() == TASK.graph.groups.keys()


@pytest.mark.parametrize(
    ("spread", "updates"), [(0, ([[0, 0.5]], [[0, 3]])), (1, ([[1.5, 0.5]], [[1, 0]]))]
)
def test_growing_decay_chooses_once(spread: int, updates: Any) -> None:
    """At the start, or after it rose on all channels; what is left alone has no decay then."""
    first, then = ({"a": jnp.array([row]), "b": jnp.ones((2, 1))} for row in ([3.0, 1.0], [1.0, 3]))
    variables, x = {"params": first}, jnp.ones((1, 1))
    graph = jp.trace(lambda v, x: x @ v["params"]["a"] @ v["params"]["b"], variables, x)
    tx = growing.growing(graph, keep_ratio=0.5, delta=0.5, period=1, spread=spread)
    state, zeros = tx.init(first), jax.tree.map(jnp.zeros_like, first)
    for params, expected in zip((first, then), updates, strict=True):
        found, state = tx.update(zeros, state, params)
        np.testing.assert_allclose(found["a"], expected)


def test_contradictions_are_errors() -> None:
    for changes, text in (
        ({"method": "sfq"}, "method='sfq' is not one of sfp, "),
        ({"strength": 0.0}, "strength=0.0 must be above 0"),
        ({"train": replace(SMALL.train, strength=1.0)}, "that of --strength"),
    ):
        with pytest.raises(ValueError, match=text):
            replace(SMALL, **changes)
    with pytest.raises(jp.errors.JaxpruneError, match="prune_ratio"):  # before anything trains
        sparse_training.method(replace(SMALL, strength=2.0)).begin(TASK.graph)
