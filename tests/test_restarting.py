"""Training anew after a cut: from initial or new weights, for as many epochs or MACs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jaxprune as jp
from experiments.methods import agp
from experiments.procedures import rounds
from experiments.runner.fit import QUIET, Journal
from experiments.tasks import classification
from jaxprune.schedule import Training, constant

ONCE = Training(epochs=1, rates=constant(0.05))
SMALL: dict[str, Any] = {
    **{"limit": 64, "model": "mlp", "widths": (12, 10), "batch_size": 32, "rounds": 1},
    **{"dense": Training(epochs=2, rates=constant(0.05)), "train": ONCE, "finetune": (ONCE,)},
}


def test_a_cut_network_trains_anew() -> None:
    """One task, one dense network: what stands at the commit, and how many epochs follow."""
    task = classification.task(agp.Config(**SMALL))
    initial, found, lengths = rounds.untrained(task).variables, {}, {}
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
    kept = jp.slice(task.graph, initial, cut.progress.total)
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


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="retrain='again' is not one of finetune, rewind"):
        agp.Config(**SMALL, retrain="again")  # pyright: ignore[reportArgumentType]
