"""Whole runs in float32 on eight devices and in two processes, beside the spread of five seeds.

The order of sums moves a threshold as another seed does, if less: a run on a mesh should lie where
runs on one device lie. Every cell is `python -m experiments NAME` at its defaults, in processes of
its own.

Command:   python -m benchmarks.mesh_spread  (--minutes 0 writes the page of what is there)
Device:    CPU, 2 cores, which the devices and the processes share
CPU time:  50 minutes
Writes:    benchmarks/results/mesh_spread.{json,md}; the runs under `--root`, from which it goes on
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from benchmarks import journals, seeds
from experiments.runner import directory

NAMES = ("network_slimming", "gate_decorator", "slimmable")
SEEDS = (0, 1, 2, 3, 4)
PLACES = {"8 devices": (1, 8), "2 processes": (2, 1)}
"""Name -> processes, and devices of each. Without a name there is one of one."""
FIGURES = {"accuracy": 100, "widths.pruned": 1}
"""Start of an entry of a summary -> what it is multiplied by; all have a spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Run experiments with five seeds on one device, and with seed 0 on several."""

    minutes: float = 600.0
    """After so many no further run is started."""
    root: Path = Path("runs/mesh_spread")
    """Directory of the runs."""
    out: Path = Path(__file__).parent / "results"
    """Where to write."""


class Cell(NamedTuple):
    """A run."""

    experiment: str
    place: str  # of PLACES, or ""
    seed: int

    @property
    def name(self) -> str:
        """Returns its place in the journal."""
        return f"{self.experiment} {self.place or f'seed {self.seed}'}"


def planned() -> Iterator[Cell]:
    """Yields all runs: those of seed 0 first."""
    for name in NAMES:
        yield from (Cell(name, place, 0) for place in ("", *PLACES))
    for name in NAMES:
        yield from (Cell(name, "", seed) for seed in SEEDS[1:])


def measured(cell: Cell, root: Path) -> dict[str, Any]:
    """Returns what a run found; one that was begun before goes on."""
    label, (count, each) = cell.name.replace(" ", "-"), PLACES.get(cell.place, (1, 1))
    flags = [f"--seed={cell.seed}", f"--name={label}", f"--root={root}", "--resume"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    if each > 1:
        flags.append(f"--mesh=data={each}")
    if count > 1:
        flags += ["--distributed", f"--coordinator={address}", f"--processes={count}"]
    devices = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={each}"
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "experiments", cell.experiment, *flags, *own],
            env=os.environ | {"XLA_FLAGS": devices},
        )
        for own in ([[f"--process={number}"] for number in range(count)] if count > 1 else [[]])
    ]
    if ends := [code for code in [run.wait() for run in runs] if code]:
        raise RuntimeError(f"{cell.name} ended with {ends}")
    summary = directory.read_json(root / label / directory.SUMMARY)
    return {"figures": dict(_figures(summary)), "commit": summary["commit"]}


def _figures(summary: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for path, value in seeds.flat(summary):
        for start, factor in FIGURES.items():
            if path.startswith(f"{start}."):
                yield path, value * factor


def page(made: Mapping[str, Any], cells: Mapping[str, Any]) -> str:
    """Returns the page, in Markdown: a section for each experiment of which all seeds are there."""
    commits = sorted({cell["commit"] for cell in cells.values()})
    lines = [
        "# Runs on a mesh, beside the spread of five seeds",
        "",
        f"{directory.made(made)} Runs of commit {', '.join(commits)}, in float32, on digits. "
        "Accuracies on test images are in percent; widths are the channels that stay. A run on a "
        "mesh has the seed 0; *out* marks what is below the least or above the most of the seeds "
        "on one device. Of a further seed 2 of n + 1 figures are out on the average, for n seeds "
        "that are all unlike.",
        "",
    ]
    for name in NAMES:
        if all(Cell(name, "", seed).name in cells for seed in SEEDS):
            lines += [f"## {name}", "", *_section(name, cells), ""]
    if left := [cell.name for cell in planned() if cell.name not in cells]:
        lines += [f"Not measured yet: {', '.join(left)}.", ""]
    return "\n".join(lines)


def _section(name: str, cells: Mapping[str, Any]) -> Iterator[str]:
    def there(named: Mapping[str, Cell]) -> dict[str, Any]:
        return {label: cells[cell.name] for label, cell in named.items() if cell.name in cells}

    one = there({f"seed {seed}": Cell(name, "", seed) for seed in SEEDS})
    mesh = there({place: Cell(name, place, 0) for place in PLACES})
    yield f"| figure | from | to | {' | '.join([*one, *mesh])} |"
    yield "|---" * (3 + len(one) + len(mesh)) + "|"
    outside = dict.fromkeys(mesh, 0)
    figures = list(next(iter(one.values()))["figures"])
    for path in figures:
        values = [each["figures"][path] for each in one.values()]
        low, high = min(values), max(values)
        row = [_text(path, value) for value in (low, high, *values)]
        for place, each in mesh.items():
            out = not low <= each["figures"][path] <= high
            outside[place] += out
            row.append(_text(path, each["figures"][path]) + " *out*" * out)
        yield f"| {path} | {' | '.join(row)} |"
    yield ""
    further = 2 * len(figures) / (len(one) + 1)
    for place, count in outside.items():
        yield (
            f"On {place} {count} of {len(figures)} figures are out; of a further seed "
            f"{further:.1f} would be, if none were equal."
        )


def _text(path: str, value: float) -> str:
    return f"{value:.2f}" if path.startswith("accuracy") else f"{value}"


def main(config: Config) -> None:
    """Runs what is missing, and writes the page."""
    made = directory.provenance()
    journal = config.out / "mesh_spread.json"
    cells = directory.read_json(journal)["cells"] if journal.exists() else {}
    for cell in journals.missing(planned(), cells, config.minutes):
        cells[cell.name] = measured(cell, config.root)
        directory.write_json(journal, {"cells": cells, **made})
        print(cell.name, flush=True)
    made = {name: value for name, value in directory.read_json(journal).items() if name != "cells"}
    text = page(made, cells)
    (config.out / "mesh_spread.md").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.mesh_spread"))
