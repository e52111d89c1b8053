"""Run directories: what was asked, what happened, what came out.

A run is `runs/<name>/` with `config.json`, `metrics.jsonl`, `summary.json`, checkpoints and plots.
"""

import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import flax
import jax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.training import Epoch, OnEpoch

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"


def create(root: Path, name: str, *, overwrite: bool = False) -> Path:
    """Returns a new, empty directory for a run.

    Args:
      root: where the runs are.
      name: the wished name. If it is taken, the run is called `<name>-2`, or -3, and so on.
      overwrite: delete the run of that name instead.

    Raises:
      ValueError: `name` is not a plain name, or what would be overwritten is not a run.
    """
    if Path(name).name != name or name in ("", ".."):
        raise ValueError(
            f"{name!r} is not a name for a run.\nFix: no slashes; root={root} is apart."
        )
    path = root / name
    if overwrite and path.exists():
        if not (path / CONFIG).is_file():
            raise ValueError(
                f"{path} is not a run (no {CONFIG}), so it is not overwritten.\n"
                "Fix: choose another name, or remove it by hand."
            )
        shutil.rmtree(path)
    number = 1
    while True:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
            path = root / f"{name}-{number}"
        else:
            return path


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """Returns the value of a JSON file of a run.

    Raises:
      ValueError: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"cannot read {path}: {error}.\nFix: give the directory of a finished run."
        ) from error


def append_metrics(run: Path, record: Mapping[str, Any]) -> None:
    """Adds a line to `metrics.jsonl`."""
    with (run / METRICS).open("a") as file:
        file.write(json.dumps(record) + "\n")


@contextmanager
def progress(run: Path, phase: str, epochs: int) -> Iterator[OnEpoch]:
    """Yields a callback that shows a bar with loss, accuracy and ETA, and writes the metrics."""
    numbers = "loss {task.fields[loss]:.4f}  validation {task.fields[accuracy]:.2%}  ETA"
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn(numbers), TimeRemainingColumn()) as bar:
        task = bar.add_task(phase, total=epochs, loss=math.nan, accuracy=math.nan)

        def on_epoch(epoch: Epoch) -> None:
            record = {
                "phase": phase,
                "epoch": epoch.number,
                "train": epoch.train._asdict(),
                "validation": epoch.validation._asdict(),
            }
            append_metrics(run, record)
            bar.update(task, advance=1, loss=epoch.train.loss, accuracy=epoch.validation.accuracy)

        yield on_epoch


def provenance() -> dict[str, Any]:
    """Returns what one needs to do it again: commit, command, device, versions, time."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cpu_count": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": flax.__version__,
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git(*arguments: str) -> str | None:
    """Returns what git says about the repository of this file; None where there is none."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
