"""A run that is killed at any moment goes on and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jax
from jax.experimental.compilation_cache import compilation_cache

import jaxprune as jp
import same_runs
from experiments.methods import network_slimming
from experiments.methods.network_slimming.config import Config
from experiments.runner import checkpoints, directory
from experiments.runner import config as configuration
from same_runs import Interrupted, interrupt

ROOT = Path(__file__).parents[1]
TINY = Config(
    name="tiny",
    limit=128,
    model="mlp",
    widths=(8, 6),
    epochs=3,
    finetune_epochs=2,
    prune_ratio=0.5,
    recalibration_batches=1,
    resume=True,
)
STAGES = ["dense", "pruned", "recalibrated", "finetuned"]

KILLED = """
import os, signal, sys
from experiments.runner import config
from experiments.methods import network_slimming

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def nth_call(module, name, number, *, before):
    original, calls = getattr(module, name), []
    def counted(*args, **kwargs):
        calls.append(None)
        if before and len(calls) == number:
            kill()
        result = original(*args, **kwargs)
        if len(calls) == number:
            kill()
        return result
    setattr(module, name, counted)

what, number = sys.argv[2], int(sys.argv[3])
if what == "rename":  # inside a save: the new arrays are there, the old manifest too
    nth_call(os, "replace", number, before=True)
elif what == "arrays":  # inside a save, in the middle of the arrays
    from orbax.checkpoint import v1
    nth_call(v1, "save_checkpointables_async", number, before=False)
elif what == "metrics":  # between the line of an epoch and its checkpoint
    from experiments.runner import directory
    nth_call(directory, "append_metrics", number, before=False)
value = __import__("json").loads(sys.argv[1])
network_slimming.main(config.from_json(value, network_slimming.Config))
"""


def run_process(programs: dict[str, str], config: Config, what: str, number: int) -> int:
    """Runs a configuration in a process that kills itself at the `number`-th `what`."""
    arguments = [json.dumps(configuration.to_json(config)), what, str(number)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | programs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    """Compiles every program once for all runs of this file, in whatever process."""
    values = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield {name.upper(): str(value) for name, value in values.items()}
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(network_slimming.report, "draw", lambda *_: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nothing interrupts."""
    return network_slimming.main(replace(TINY, root=tmp_path_factory.mktemp("whole")))


def check_same(one: Path, other: Path) -> None:
    """Both runs have the same parameters to the bit, accuracies and epochs."""
    records = same_runs.check_same(one, other, ["curve", "widths", "macs"])
    assert [(r["phase"], r["epoch"]) for r in records] == [
        *(("dense", epoch) for epoch in (1, 2, 3)),
        *(("finetuned", epoch) for epoch in (1, 2)),
    ]


def test_a_run_killed_three_times_ends_like_one_that_was_not(programs, whole, tmp_path):
    config = replace(TINY, root=tmp_path)
    kills = [("metrics", 2), ("rename", 3), ("arrays", 2)]
    assert [run_process(programs, config, *kill) for kill in kills] == [-signal.SIGKILL] * 3
    assert not (tmp_path / "tiny" / "summary.json").exists()
    check_same(network_slimming.main(config), whole)


@pytest.mark.parametrize(
    ("changes", "moments"),
    [
        ({}, [("metrics", 1), ("rename", 1), ("rename", 2), ("rename", 6), ("metrics", 2)]),
        ({"checkpoint_every": 2}, [("metrics", 3), ("metrics", 1), ("rename", 2)]),
    ],
    ids=["every epoch", "every second epoch"],
)
def test_other_moments_and_intervals(whole, tmp_path, monkeypatch, changes, moments):
    config = replace(TINY, root=tmp_path, **changes)
    for what, number in moments:
        with monkeypatch.context() as patch:
            if what == "rename":
                interrupt(patch, os, "replace", number, before=True)
            else:
                interrupt(patch, directory, "append_metrics", number, before=False)
            with pytest.raises(Interrupted):
                network_slimming.main(config)
    check_same(network_slimming.main(config), whole)


def test_masks_and_a_sliced_momentum_go_on_too(tmp_path, monkeypatch):
    for name, changes, number in (
        ("masks", {"method": "mask"}, 2),
        ("momentum", {"momentum": "sliced", "epochs": 1}, 2),
    ):
        config = replace(TINY, name=name, **changes)
        once = network_slimming.main(replace(config, root=tmp_path / "once"))
        config = replace(config, root=tmp_path / "twice")
        with monkeypatch.context() as patch:
            interrupt(patch, directory, "append_metrics", number, before=False)
            with pytest.raises(Interrupted):
                network_slimming.main(config)
        twice = network_slimming.main(config)
        final = directory.read_json(once / "summary.json")["final"]
        trees = [jp.restore(run / "checkpoints" / final).variables for run in (once, twice)]
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, *trees))), name


def test_a_finished_run_is_reported_and_not_touched(whole, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert network_slimming.main(replace(TINY, root=whole.parent)) == whole
    assert "test accuracy" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_another_configuration_is_an_error(whole):
    with pytest.raises(
        ValueError, match=r"(?s)cannot go on.*epochs was 3, is 4\nseed was 0, is 5\n.*Fix"
    ):
        network_slimming.main(replace(TINY, root=whole.parent, seed=5, epochs=4))


def test_before_any_training_the_configuration_may_change(tmp_path, monkeypatch):
    config = replace(TINY, root=tmp_path)
    with monkeypatch.context() as patch:
        interrupt(patch, network_slimming.steps, "follow", 1, before=True)
        with pytest.raises(Interrupted):
            network_slimming.main(replace(config, seed=5))
    run = checkpoints.begin(config, configuration.to_json(config))
    assert directory.read_json(run / "config.json")["seed"] == config.seed


def test_what_is_no_run_does_not_go_on(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"tiny is not a run .*\nFix: choose another name"):
        network_slimming.main(replace(TINY, root=tmp_path))


def test_a_line_that_was_cut_off_is_dropped(tmp_path):
    for epoch in (1, 2, 3):
        directory.append_metrics(tmp_path, {"phase": "dense", "epoch": epoch})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "dense", "ep')
    assert [record["epoch"] for record in directory.read_metrics(tmp_path)] == [1, 2, 3]
    directory.drop_metrics(tmp_path, {"dense": 2})
    directory.append_metrics(tmp_path, {"phase": "dense", "epoch": 3})
    assert [record["epoch"] for record in directory.read_metrics(tmp_path)] == [1, 2, 3]
    directory.drop_metrics(tmp_path, {})
    assert directory.read_metrics(tmp_path) == []
