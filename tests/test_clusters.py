"""Several processes are one run: the numbers of one process, and one error for all of them."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import mesh_runs
from processes import in_two_processes

TESTS = Path(__file__).parent
WHOLE = """
import mesh_runs
for name in mesh_runs.RUNS:
    root, asked = f"{given[0]}/{name}", {"distributed": True, "precision": "float64"}
    mesh_runs.say(mesh_runs.found(name, root, **asked))
"""
REFUSED = """
import dataclasses
import numpy as np
import mesh_runs
from experiments.runner import processes
from experiments.tasks import classification

second = jax.process_index() == 1
run, config = mesh_runs.RUNS["network_slimming"]
calls = {
    "seed": {"seed": int(second)},
    "batch": {"batch_size": 31},
    "mesh": {"mesh": "data=2"},
    "data": {},
    "missing": {"dataset": "cifar10" if second else "digits", "data_dir": "/nowhere"},
    "unseen": {},
}
load = run.EXPERIMENT.task
said = {}
for name, changes in calls.items():
    def task(config):
        found = load(config)
        train = found.dataset.train
        train = train._replace(images=train.images + np.uint8(name == "data" and second))
        return found._replace(dataset=dataclasses.replace(found.dataset, train=train))
    root = mesh_runs.Path(given[0]) / (f"{name}{jax.process_index()}" if name == "unseen" else name)
    asked = dataclasses.replace(config, root=root, distributed=True)
    try:
        asked = dataclasses.replace(asked, **changes)
        mesh_runs.execute(run.EXPERIMENT._replace(task=task), asked)
    except ValueError as error:
        said[name] = str(error)
    said[f"{name} is gone"] = not list(root.glob("*"))
mesh_runs.say(said)
mesh_runs.say([processes.shared(lambda: 1), processes.adopted(jax.process_index())])
"""


def test_two_processes_give_the_runs_of_one(tmp_path) -> None:
    expected = {
        name: mesh_runs.found(name, str(tmp_path / "one"), precision="float64")
        for name in mesh_runs.RUNS
    }
    for lines in in_two_processes(WHOLE, str(tmp_path / "two"), devices=1):
        found = [json.loads(line) for line in lines if line.startswith('{"widths')]
        for name, own in zip(mesh_runs.RUNS, found, strict=True):
            mesh_runs.check(own, expected[name])


def test_what_only_one_process_can_see_is_an_error_of_both(tmp_path) -> None:
    ends = in_two_processes(REFUSED, str(tmp_path), devices=2)
    first, second = (json.loads(lines[-2]) for lines in ends)
    texts = {
        "seed": "process 1 runs something else than process 0:\nseed is 1, in process 0 0\nFix: ",
        "batch": "batch_size=31 is not a multiple of the 4 devices along data",
        "mesh": "mesh='data=2' is of 2 devices, there are 4.\nFix: --mesh data=4",
        "data": "digest of the data is '",
        "missing": "cifar10 is not prepared in",
    }
    for name, text in texts.items():
        assert first[name] == second[name]
        assert text in first[name]
        assert first[f"{name} is gone"]
    assert [json.loads(lines[-1]) for lines in ends] == [[1, 0]] * 2


def started(root: Path, port: int, process: int, *flags: str) -> subprocess.Popen[str]:
    """Starts the command of one of two processes on one device each."""
    small = ["--limit=128", "--model=mlp", "--widths", "8", "6", "--batch-size=32", "--epochs=400"]
    small += ["--finetune-epochs=1", f"--root={root}", "--resume", "--heartbeat=10", *flags]
    cluster = [
        "--distributed",
        f"--coordinator=localhost:{port}",
        "--processes=2",
        f"--process={process}",
    ]
    one = "--xla_force_host_platform_device_count=1"
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", "network_slimming", *small, *cluster],
        env=os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {one}"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=TESTS.parent,
    )  # fmt: skip


def test_a_killed_process_ends_the_other_and_the_run_goes_on_in_one(tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = [started(tmp_path, port, process) for process in range(2)]
    try:
        assert both[0].stdout is not None
        for line in both[0].stdout:
            if "epoch 3/400" in line:
                break
        both[1].send_signal(signal.SIGKILL)
        _, said = both[0].communicate(timeout=600)
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert both[0].returncode not in (0, None)
    assert "another task died" in said or "goes on with --resume" in said
    run = tmp_path / "network_slimming"
    done = len((run / "metrics.jsonl").read_text().splitlines())
    assert done >= 3
    assert goes_on(tmp_path) >= done


def goes_on(root: Path) -> int:
    """Resumes the run in one process, and returns the epochs that it did not train again."""
    from dataclasses import replace

    from experiments.methods import network_slimming
    from experiments.runner import directory
    from same_runs import Interrupted, interrupt

    config: Any = replace(mesh_runs.SLIMMING, root=root, epochs=400, prune_ratio=0.75, resume=True)
    config = replace(config, recalibration_batches=4)
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, directory, "append_metrics", 1, before=False)
        with pytest.raises(Interrupted):
            network_slimming.main(config)
    return directory.read_metrics(root / "network_slimming")[-1]["epoch"]
