"""What the experiments print at their defaults, or of a preset, as ranges over seeds.

A threshold meets float noise, so that a run gives other digits on another machine: what another one
will see is a range. Every seed is `python -m experiments NAME --seed SEED` in a process of its own.

Command:   python -m benchmarks.seeds  (--only network_slimming oicsr, --seeds 0 1 2 3 4)
           python -m benchmarks.seeds --only segmentation --preset camvid --data-dir DIR --seeds 0
Device:    CPU, 2 cores
CPU time:  seeds times that of each experiment, see their docstrings
Writes:    benchmarks/results/seeds/NAME.{json,md} or NAME-PRESET.{json,md}; the runs under
           `--root`, from which it goes on
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.runner import directory, registry

FIGURES = {
    "accuracy.*": 100,
    "*.miou": 100,
    "networks.*.accuracy": 100,
    "psnr.*": 1,
    "bicubic": 1,
    "precision.*": 100,
    "alone.*": 100,
    "average_precision.*": 100,
    "macs_pruned": 100,
    "macs.*": 1,
    "parameters.*": 1,
    "networks.*.macs": 1,
}
"""Pattern of an entry of a summary -> what it is multiplied by: shares are printed in percent."""
PSNR = ("super_resolution",)
"""Experiments whose figures are in dB, not shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Run experiments with several seeds."""

    only: tuple[str, ...] = tuple(registry.known())
    """Names of experiments."""
    preset: str = ""
    """Of these experiments; none has their defaults."""
    data_dir: Path | None = None
    """Where its data are."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of initial weights, order and augmentation."""
    root: Path = Path("runs/seeds")
    """Directory of the runs."""
    out: Path = Path(__file__).parent / "results" / "seeds"
    """Where to write."""


def summary(config: Config, name: str, seed: int) -> Mapping[str, Any]:
    """Returns the summary of a run, which goes on if it was begun before."""
    label = f"{titled(config, name)}-{seed}"
    flags = ["--seed", str(seed), "--name", label, "--root", str(config.root), "--resume"]
    flags += ["--preset", config.preset] if config.preset else []
    flags += ["--data-dir", str(config.data_dir)] if config.data_dir else []
    subprocess.run([sys.executable, "-m", "experiments", name, *flags], check=True)
    return directory.read_json(config.root / label / directory.SUMMARY)


def titled(config: Config, name: str) -> str:
    """Returns what the results of an experiment are called."""
    return f"{name}-{config.preset}" if config.preset else name


def flat(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yields (dotted path, number) of a summary; classes of objects are given by their mean.

    >>> dict(flat({"accuracy": {"dense": 0.5}, "precision": {"1.0": {"disk": 0.5, "bar": 1.0}}}))
    {'accuracy.dense': 0.5, 'precision.1.0': 0.75}
    """
    if isinstance(value, Mapping):
        if path.split(".")[0] in ("precision", "alone") and "." in path:
            yield path, float(np.mean(list(value.values())))
            return
        for key, each in value.items():
            yield from flat(each, f"{path}.{key}" if path else key)
    elif isinstance(value, (int, float)):
        yield path, value


def figures(name: str, found: Mapping[str, Any]) -> dict[str, float]:
    """Returns {entry of a summary: its figure, shares in percent}."""
    values = {}
    for path, value in flat(found):
        for pattern, factor in FIGURES.items():
            if fnmatchcase(path, pattern):
                values[path] = value * (1 if name in PSNR else factor)
    return values


def table(seeds: Sequence[int], found: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """Yields the lines of a Markdown table: every figure, its range and its seeds."""
    yield f"| figure | from | to | {' | '.join(f'seed {seed}' for seed in seeds)} |"
    yield "|---" * (len(seeds) + 3) + "|"
    for path in found[0]:
        values = [each[path] for each in found]
        cells = [_text(value) for value in (min(values), max(values), *values)]
        yield f"| {path} | {' | '.join(cells)} |"


def _text(value: float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"


def main(config: Config) -> None:
    """Runs what is missing, and writes JSON and Markdown for each experiment."""
    made = directory.provenance()
    config.out.mkdir(parents=True, exist_ok=True)
    for name in config.only:
        runs = [summary(config, name, seed) for seed in config.seeds]
        title = titled(config, name)
        how = f"with `--preset {config.preset}`" if config.preset else "at its defaults"
        minutes = ", ".join(f"{run['wall_time_s'] / 60:.0f}" for run in runs)
        found = [figures(name, run) for run in runs]
        commits = sorted({str(run["commit"]) for run in runs})
        text = [
            f"# {name} {how}",
            "",
            f"{directory.made(made)} Runs of commit {', '.join(commits)}, which took {minutes} "
            "minutes. Shares are in percent; only the seed varies.",
            "",
            *table(config.seeds, found),
        ]
        record = {"seeds": config.seeds, "figures": found, **made}
        directory.write_json(config.out / f"{title}.json", record)
        (config.out / f"{title}.md").write_text("\n".join(text) + "\n", "utf-8")
        print("\n".join(text), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.seeds"))
