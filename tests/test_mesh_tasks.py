"""Every task and every kind of procedure gives on many devices what it gives on one."""

import json
from typing import Any

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import mesh_runs
import task_runs
from experiments.data import Split
from experiments.runner import devices, training
from experiments.runner.config import Common
from processes import in_two_processes
from same_runs import Interrupted

TWO = """
import task_runs
from mesh_runs import say

for name in task_runs.TWICE:
    say({name: task_runs.found(name, f"{given[0]}/{name}", distributed=True)})
try:
    share = (0.5, 0.4)[jax.process_index()]
    task_runs.found("compare", f"{given[0]}/unlike", distributed=True, budgets=(share,))
except ValueError as error:
    say({"unlike": str(error)})
"""


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The devices that have each array of the state at the end of each training on a mesh."""
    gathered, found = devices.gathered, []

    def told(state: Any) -> Any:
        if devices.current().mesh is not None:
            arrays = [leaf for leaf in jax.tree.leaves(state) if np.ndim(leaf)]
            found.extend(len(leaf.sharding.device_set) for leaf in arrays)
        return gathered(state)

    monkeypatch.setattr(devices, "gathered", told)
    return found


@pytest.mark.parametrize("name", task_runs.RUNS)
def test_a_run_on_eight_devices_finds_the_same(name, placed, tmp_path) -> None:
    expected = task_runs.found(name, str(tmp_path / "one"))
    found = task_runs.found(name, str(tmp_path / "eight"), mesh="data=8")
    task_runs.check(found, expected)
    assert set(placed) == {8}


def test_a_run_in_two_processes_finds_the_same(tmp_path) -> None:
    expected = {name: task_runs.found(name, str(tmp_path / name)) for name in task_runs.TWICE}
    for lines in in_two_processes(TWO, str(tmp_path / "two"), devices=2):
        *found, unlike = (json.loads(line) for line in lines if line.startswith('{"'))
        task_runs.check({n: each for own in found for n, each in own.items()}, expected)
        text = "process 1 runs something else than process 0:\nbudgets is [0.4], in process 0 [0.5]"
        assert text in unlike["unlike"]


@pytest.mark.parametrize("name", mesh_runs.RUNS)
def test_the_first_20_steps_in_float32_are_those_of_one_device(name, tmp_path, monkeypatch) -> None:
    found, train_epoch = [], training.train_epoch

    def told(*args: Any, **options: Any) -> Any:
        found.append([metrics.loss for metrics in train_epoch(*args, **options)[1]])
        raise Interrupted

    monkeypatch.setattr(training, "train_epoch", told)
    for mesh in ("", "data=8"):
        with pytest.raises(Interrupted):
            mesh_runs.found(name, str(tmp_path / f"on {mesh}"), limit=640, mesh=mesh)
    assert [len(each) for each in found] == [20, 20]
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_every_example_is_seen_by_itself_whatever_the_devices_divide() -> None:
    random = np.random.default_rng(0)
    part, seen = Split(random.integers(0, 9, (21, 2, 2, 1)), random.integers(0, 9, 21)), []

    def run(factor: Any, images: Any, labels: Any) -> Any:
        seen.append({array.addressable_data(0).shape[0] for array in (images, labels)})
        return {"labels": labels, "sums": factor * images.sum(axis=(1, 2, 3))}

    with devices.using(Common(mesh="data=4")):
        found = devices.of_each(run, np.float32(2), *part, most=12)
    assert seen == [{3}, {3}], "two times twelve, of which each device has three"
    np.testing.assert_array_equal(found["labels"], part.labels)
    np.testing.assert_array_equal(found["sums"], 2 * part.images.sum(axis=(1, 2, 3)))
