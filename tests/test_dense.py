"""`experiments dense`: a network trains on from a finished run, and is packed with its making."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.dense import pack
from experiments.methods import dense
from experiments.procedures import starting
from experiments.runner import directory, packed
from experiments.runner.experiment import execute
from experiments.tasks import classification
from jaxprune.schedule import Training, constant

SMALL = replace(
    dense.Config(),
    widths=(3,),
    limit=64,
    batch_size=32,
    dense=Training(epochs=1, rates=constant(0.1)),
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return execute(dense.EXPERIMENT, replace(SMALL, root=tmp_path_factory.mktemp("runs")))


def test_a_network_trains_on_and_is_packed(first: Path, tmp_path: Path) -> None:
    again = replace(
        SMALL, root=tmp_path, start=first, dense=Training(epochs=2, rates=constant(0.1))
    )
    before = starting.network(classification.task(again), first)
    run = execute(dense.EXPERIMENT, again)
    one, two = (directory.read_json(each / directory.SUMMARY) for each in (first, run))
    assert (one["epochs"], two["epochs"]) == (1, 3)
    assert one["start"] is None
    assert two["start"] == {n: one[n] for n in ("command", "commit", "epochs", "train_s", "start")}
    file = pack(first, "one", root=tmp_path)
    assert packed.load("one", root=tmp_path).about["epochs"] == 1
    jax.tree.map(
        np.testing.assert_array_equal, before.variables, packed.load("one", root=tmp_path).variables
    )
    about = packed.load(pack(run, "two", root=tmp_path).stem, root=tmp_path).about
    assert (about["epochs"], about["start"]) == (3, two["start"])
    assert about["loss"] == two["loss"]["test"] != one["loss"]["test"]
    assert "start" not in about["config"]
    assert file.exists()


def test_only_a_finished_run_of_the_same_network_is_trained_on(first: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"start=.*nowhere is not a finished run.\nFix: its dir"):
        starting.network(classification.task(SMALL), tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"of other shapes than 'convnet' of widths=\(4,\)"):
        starting.network(classification.task(replace(SMALL, widths=(4,))), first)
