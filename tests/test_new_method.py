"""A new method on a new task is one file of at most 60 lines; the runner does the rest."""

import io
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

from rich.console import Console

import toy_method
from experiments.procedures.rounds import Method
from experiments.runner import checkpoints, directory, progress, registry
from experiments.runner.command import command
from experiments.runner.experiment import execute
from experiments.runner.fit import Epoch
from same_runs import Interrupted, check_same, interrupt

ROOT = Path(__file__).parents[1]


def test_a_method_is_one_short_file() -> None:
    lines = Path(toy_method.__file__).read_text().splitlines()
    assert len(lines) <= 60
    assert isinstance(toy_method.method(toy_method.Config()), Method)


def test_it_trains_prunes_reports_and_goes_on_to_the_bit(tmp_path, monkeypatch, capsys) -> None:
    config = replace(toy_method.Config(), name="toy", resume=True)
    whole = execute(toy_method.EXPERIMENT, replace(config, root=tmp_path / "whole"))
    assert "test accuracy" in capsys.readouterr().out
    summary = directory.read_json(whole / directory.SUMMARY)
    assert summary["macs"]["pruned"] <= 0.6 * summary["macs"]["dense"]
    assert summary["final"] == "finetune-1"
    config = replace(config, root=tmp_path / "broken")
    for module, name, at, before in (
        (directory, "append_metrics", 3, False),
        (os, "replace", 4, True),
        (checkpoints, "save", 1, True),
    ):
        with monkeypatch.context() as patch:
            interrupt(patch, module, name, at, before=before)
            with pytest.raises(Interrupted):
                execute(toy_method.EXPERIMENT, config)
    again = execute(toy_method.EXPERIMENT, config)
    check_same(again, whole, ["rounds", "widths", "macs"])


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_list_has_every_experiment_in_one_line() -> None:
    done = run("experiments")
    assert done.returncode == 0
    for name, entry in registry.known().items():
        assert f"  {name} " in done.stdout
        assert entry.line.endswith(".")
        assert registry.load(name).name == name
        assert registry.load(name).config.preset in registry.load(name).presets
    commands = {
        "agp",
        "dense",
        "layerwise",
        "search",
        "sparse_training",
        "evaluate",
        "spectrum",
        "data",
    }  # python -m experiments agp
    for name in registry.known().keys() - commands:
        assert (ROOT / "experiments" / f"{name}.py").exists()


USER_ERRORS = {
    "preset": (["--preset", "vgg"], "no preset 'vgg'. Fix: one of ['digits']."),
    "data": (["--dataset", "cifar10", "--data-dir", "/nowhere"], "cifar10 is not prepared in"),
    "data set": (["--dataset", "cifar11"], "no data set 'cifar11'. Fix: one of"),
    "contradiction": (["--overwrite", "--resume"], "overwrite replaces a run"),
    "target": (["--final", "0.95"], "Fix: "),
    "ramp": (["--final", "1.5"], "the ramp must rise"),
}


@pytest.mark.parametrize(("flags", "text"), USER_ERRORS.values(), ids=USER_ERRORS)
def test_an_error_of_a_user_is_one_line_and_leaves_no_run(tmp_path, capsys, flags, text) -> None:
    agp = registry.load("agp")
    with pytest.raises(SystemExit) as error:
        command(agp, ["--root", str(tmp_path / "runs"), "--scale", "0.01", *flags])
    assert error.value.code == 2
    out = capsys.readouterr()
    assert out.err.startswith("error: ")
    assert text in out.err
    assert out.err.count("\n") == 1
    assert not any((tmp_path / "runs").glob("*"))


def test_an_error_of_the_program_keeps_its_traceback(tmp_path) -> None:
    broken = toy_method.EXPERIMENT._replace(task=lambda _: [][0])
    with pytest.raises(IndexError):
        command(broken, ["--root", str(tmp_path)])


def test_what_is_replaced_stays_where_its_data_cannot_be_read(tmp_path, capsys) -> None:
    old = tmp_path / "agp"
    old.mkdir()
    (old / directory.CONFIG).write_text("{}")
    flags = ["--root", str(tmp_path), "--overwrite", "--dataset", "cifar11"]
    with pytest.raises(SystemExit):
        command(registry.load("agp"), flags)
    assert (old / directory.CONFIG).exists()
    capsys.readouterr()


def test_the_help_lists_the_presets(capsys) -> None:
    for name in ("oicsr", "detection"):
        experiment = registry.load(name)
        with pytest.raises(SystemExit) as end:
            command(experiment, ["--help"])
        assert end.value.code == 0
        text = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
        assert f"every other flag overrides them: {', '.join(experiment.presets)}." in text


def test_without_a_terminal_an_epoch_is_a_line(tmp_path, capsys) -> None:
    config = replace(toy_method.Config(), root=tmp_path)
    execute(toy_method.EXPERIMENT, config)
    lines = [line for line in capsys.readouterr().out.splitlines() if " epoch " in line]
    assert len(lines) == len(directory.read_metrics(tmp_path / "run"))
    assert lines[0].split()[:4] == ["dense", "epoch", "1/2", "loss"]
    assert "\r" not in "".join(lines)


LAYERS = ("models", "data", "runner", "report", "procedures", "tasks", "methods")
"""The folders, each of which imports only itself and what is before it."""
ABOVE = {"tasks": {"methods"}}
"""But a task that is an experiment names the methods that it is pruned by."""


def test_folders_import_only_what_is_below_them() -> None:
    for place, folder in enumerate(LAYERS):
        for file in (ROOT / "experiments" / folder).rglob("*.py"):
            names = re.findall(r"^\s*from experiments\.(\w+)", file.read_text(), re.MULTILINE)
            below = {*LAYERS[: place + 1], *ABOVE.get(folder, ())}
            if file.name != "__main__.py":
                assert set(names) <= below, file


def test_in_a_terminal_the_bar_comes_with_the_first_step(monkeypatch) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", lambda: console)
    with progress.shown("dense") as shown:
        assert "dense" not in out.getvalue()
        shown.on_step(1, 40)
        until = time.monotonic() + 60  # a thread draws it
        while "dense" not in out.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
        assert "dense" in out.getvalue()
        shown.on_epoch(Epoch(1, 2, {"loss": 0.5}), 1.0)
    assert "1/2  loss 0.5000" in out.getvalue()
