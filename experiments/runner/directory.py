"""Run directories: what was asked, what happened, what came out.

A run is `runs/<name>/` with `config.json`, `metrics.jsonl`, `summary.json`, checkpoints and plots.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from experiments.runner import processes
from experiments.runner.provenance import made as made
from experiments.runner.provenance import provenance as provenance

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
    path = _named(root, name)
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


def resume(root: Path, name: str, config: Mapping[str, Any], *, free: Collection[str]) -> Path:
    """Returns the directory of the run of that name, to go on with; a new one if there is none.

    Args:
      root: where the runs are.
      name: that of the run.
      config: its configuration, a JSON value.
      free: fields of it that may differ from those that the run began with; all may, before
        anything is trained.

    Raises:
      ValueError: `name` is not a plain name, the run began with another configuration, or there is
        something else in its place.
    """
    path = _named(root, name)
    path.mkdir(parents=True, exist_ok=True)
    if not (path / CONFIG).exists():
        if any(not entry.name.endswith(".tmp") for entry in path.iterdir()):
            raise ValueError(f"{path} is not a run (no {CONFIG}).\nFix: choose another name.")
        return path
    before = read_json(path / CONFIG)
    other = [
        f"{field} was {before.get(field)!r}, is {config.get(field)!r}"
        for field in sorted((before.keys() | config.keys()) - set(free))
        if before.get(field) != config.get(field)
    ]
    if other and (read_metrics(path) or (path / "checkpoints").exists()):
        raise ValueError(
            f"{path} cannot go on, it began with another configuration:\n"
            + "\n".join(other)
            + "\nFix: give the command that began it, or another --name."
        )
    return path


def _named(root: Path, name: str) -> Path:
    if Path(name).name != name or name in ("", ".."):
        raise ValueError(
            f"{name!r} is not a name for a run.\nFix: no slashes; root={root} is apart."
        )
    return root / name


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    _replace(path, json.dumps(value, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
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


def read_config(run: Path) -> dict[str, Any]:
    """Returns the configuration of a run, a JSON value, without the name of its experiment."""
    return {n: v for n, v in read_json(run / CONFIG).items() if n not in ("experiment", "search")}


def append_metrics(run: Path, record: Mapping[str, Any]) -> None:
    """Adds a line to `metrics.jsonl`; it is on the disk when this returns."""
    with (run / METRICS).open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Returns the records of `metrics.jsonl`; a last line that was cut off is left out."""
    path = run / METRICS
    if not path.exists():
        return []
    whole, _, _ = path.read_text("utf-8").rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def drop_metrics(run: Path, epochs: Mapping[str, float]) -> None:
    """Drops the records of all epochs beyond those given by phase, and a line that was cut off."""
    path = run / METRICS
    if not path.exists():
        return
    records = (r for r in read_metrics(run) if r["epoch"] <= epochs.get(r["phase"], 0))
    _replace(path, "".join(json.dumps(record) + "\n" for record in records))


def summarized(run: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the summary of a run: what `make` finds, and how it was done; written at the end.

    That of a finished run is read, and nothing is made.
    """
    if not processes.shared((run / SUMMARY).exists):
        start, before = time.perf_counter(), provenance()
        summary = {**make(), **before}

        def write() -> None:
            seconds = sum(record["seconds"] for record in read_metrics(run))
            summary["train_s"] = round(seconds, 1)  # also of the epochs before an interruption
            summary["wall_time_s"] = round(time.perf_counter() - start, 1)
            write_json(run / SUMMARY, summary)

        processes.shared(write)
    return processes.shared(lambda: read_json(run / SUMMARY))
