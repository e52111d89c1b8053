"""What the parts of S-Net and US-Net are worth on digits, each against networks trained alone.

S-Net with BatchNorms of each width and with shared ones; US-Net at widths that it trained and at
widths that it did not, before and after the calibration, without the sandwich rule, and without
in-place distillation. Every row is a run of `experiments.slimmable` or `experiments.us_slimmable`.

Command:   python -m benchmarks.supernets
Device:    CPU, 2 cores
Writes:    benchmarks/results/supernets.{json,md}; the runs under `--root`, from which it goes on
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.methods import slimmable, us_slimmable
from experiments.runner import directory, presets


def _preset(module: Any) -> Any:
    return presets.config("digits", module.PRESETS, module.Config())


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Train slimmable networks with all their parts and without one of them."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of initial weights, order and drawn widths."""
    root: Path = Path("runs/supernets")
    """Directory of the runs."""
    switchable: slimmable.Config = field(default_factory=lambda: _preset(slimmable))
    """The S-Net."""
    universal: us_slimmable.Config = field(default_factory=lambda: _preset(us_slimmable))
    """The US-Net."""
    out: Path = Path(__file__).parent / "results" / "supernets"
    """Where to write, without the suffix."""


def variants(config: Config) -> dict[str, tuple[Any, Any]]:
    """Returns {name: (experiment, configuration)}."""
    plain, wide = config.switchable, config.universal
    ablated = replace(wide, alone=False)
    return {
        "slimmable": (slimmable, plain),
        "shared": (slimmable, replace(plain, batch_norm="shared", alone=False)),
        "universal": (us_slimmable, replace(wide, uncalibrated=True)),
        "no sandwich": (us_slimmable, replace(ablated, sandwich=False)),
        "no distillation": (us_slimmable, replace(ablated, distill=False)),
    }


def measure(config: Config) -> tuple[dict[str, list[dict[str, float]]], list[str]]:
    """Returns ({curve: for every seed {multiplier: test accuracy}}, commits of the runs)."""
    found: dict[str, list[dict[str, float]]] = {}
    commits = set()
    for seed in config.seeds:
        for name, (experiment, one) in variants(config).items():
            label = f"{name.replace(' ', '-')}-{seed}"
            changed = replace(one, seed=seed, name=label, root=config.root, resume=True)
            summary = directory.read_json(experiment.main(changed) / directory.SUMMARY)
            commits.add(summary["commit"])
            for curve, networks in summary["curves"].items():
                row = {each.rsplit("-", 1)[1]: summary["accuracy"][each] for each in networks}
                key = {"alone": f"alone, {name}", "before calibration": curve}.get(curve, name)
                found.setdefault(key, []).append(row)
    return found, sorted(commits)


def table(
    found: Mapping[str, Sequence[Mapping[str, float]]], curves: Sequence[str]
) -> Iterator[str]:
    """Yields the lines of a Markdown table: mean over seeds and its standard error, in percent."""
    yield f"| width | {' | '.join(curves)} |"
    yield "|---" * (len(curves) + 1) + "|"
    for width in found[curves[0]][0]:
        values = [[100 * row[width] for row in found[curve]] for curve in curves]
        yield f"| {width} | {' | '.join(map(_mean, values))} |"


def verdicts(config: Config, found: Mapping[str, Sequence[Mapping[str, float]]]) -> Iterator[str]:
    """Yields what the tables say about the claims of the papers."""
    plain, universal = "alone, slimmable", "alone, universal"

    def worse(curve: str, than: str) -> dict[str, float]:
        """Returns {width: points that the curve is below the other}."""
        pairs = zip(found[curve], found[than], strict=True)
        each = [{width: 100 * (b[width] - a[width]) for width in a} for a, b in pairs]
        return {width: float(np.mean([row[width] for row in each])) for width in each[0]}

    yield f"* S-Net below alone, points: {_each(worse('slimmable', plain))}."
    yield f"* Shared BatchNorm below alone: {_each(worse('shared', plain))}."
    yield f"* US-Net below alone: {_each(worse('universal', universal))}."
    yield f"* Before calibration below alone: {_each(worse('before calibration', universal))}."
    yield f"* Without sandwich below US-Net: {_each(worse('no sandwich', 'universal'))}."
    yield f"* Without distillation below US-Net: {_each(worse('no distillation', 'universal'))}."
    widths = sorted(found["universal"][0], key=float)
    falls = [[100 * (row[a] - row[b]) for row in found["universal"]] for a, b in pairwise(widths)]
    worst = max(range(len(falls)), key=lambda i: float(np.mean(falls[i])))
    yield (
        f"* US-Net from {widths[worst]} to {widths[worst + 1]}, its largest fall from a width to "
        f"the next: {_mean(falls[worst])} points."
    )
    unseen = ", ".join(map(str, config.universal.unseen))
    yield f"* No step of US-Net drew {unseen}."


def _mean(values: Sequence[float]) -> str:
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{np.mean(values):.2f} ± {error:.2f}"


def _each(values: Mapping[str, float]) -> str:
    return ", ".join(f"{width}: {value:.2f}" for width, value in values.items())


def main(config: Config) -> None:
    """Runs what is missing, and writes JSON and Markdown."""
    provenance = directory.provenance()
    found, commits = measure(config)
    text = [
        "# Slimmable networks on digits",
        "",
        f"{directory.made(provenance)} Runs of commit "
        f"{', '.join(commits)}; seeds {', '.join(map(str, config.seeds))}. Test accuracy in "
        "percent (400 images), mean over the seeds and its standard error. Before calibration all "
        "widths of the same US-Net have the statistics of the widest.",
        "",
        *table(found, ("slimmable", "alone, slimmable", "shared")),
        "",
        *table(
            found,
            (
                "universal",
                "alone, universal",
                "before calibration",
                "no sandwich",
                "no distillation",
            ),
        ),
        "",
        *verdicts(config, found),
    ]
    config.out.parent.mkdir(parents=True, exist_ok=True)
    directory.write_json(config.out.with_suffix(".json"), {"accuracy": found, **provenance})
    config.out.with_suffix(".md").write_text("\n".join(text) + "\n", "utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.supernets"))
