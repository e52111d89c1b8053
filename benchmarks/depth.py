"""A network pruned in width only, in depth only, and in both, at equal MACs or equal latency.

*Depth*: residual branches go, one after the other, each time that without which the loss on
training examples is least (`jp.select.depth`), until a share of the MACs is left. *Width*: the
channels of the least scores go, the same share of all streams and hidden units or as they rank over
the network, heads too, whichever has the smaller loss on these examples, until no more MACs are
left than there; with `--equal latency`, until it takes no longer than the other one. *Both*:
branches until half of that is gone, then channels. Each is measured as it is cut, and after the
same short training. A cell that is measured is not measured again.

Command:   python -m benchmarks.depth text --data-dir FILE
           python -m benchmarks.depth resnet20-cifar10 --data-dir DIR
           python -m benchmarks.depth text --data-dir FILE --equal latency
           python -m benchmarks.depth  (writes the page anew from what is there)
Device:    CPU, 2 cores
Writes:    benchmarks/results/depth/NAME.json after every cell, benchmarks/results/depth.md; the
           losses of all test examples under `--root`, which the intervals are made of
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

import jaxprune as jp
from benchmarks import dense, depth_page
from benchmarks.depth_cells import WAYS, Bench, Cell, Recovery
from benchmarks.journals import Losses, journals, missing
from experiments.report.bootstrap import interval
from experiments.runner import directory

STAGES = ("before", "after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Measure what is missing of the cells of one network, seed after seed."""

    network: Annotated[str, tyro.conf.Positional] = ""
    """A name in benchmarks/results/dense; none writes only the page."""
    data_dir: Path | None = None
    """Where its data are."""
    equal: Literal["macs", "latency"] = "macs"
    """What all ways have in common."""
    shares: tuple[float, ...] = (0.75, 0.5)
    """Of the MACs that depth alone leaves at most."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the examples that choose and train."""
    criterion: str = "mean_activation"
    """Of channels, as `python -m experiments agp --score` has them."""
    recovery: Recovery = field(default_factory=Recovery)
    """The short training."""
    minutes: float = float("inf")
    """After so many no further cell is begun."""
    root: Path = Path("runs/depth")
    """Where the losses of single examples are."""
    out: Path = Path(__file__).parent / "results"
    """Where the results go."""


def cells(equal: str, shares: Sequence[float], seeds: Sequence[int]) -> Iterator[Cell]:
    """Yields all cells of one comparison: one seed of all first."""
    for seed in seeds:
        for share in shares:
            yield from (Cell(equal, share, way, seed) for way in WAYS)


def run(config: Config) -> None:
    """Measures the cells of a network that the journal does not hold."""
    found = dense.load(config.network)
    bench = Bench(
        dense.task(found, config.data_dir),
        found.variables,
        criterion=config.criterion,
        recovery=config.recovery,
    )
    sha256 = found.about["sha256"]
    losses = Losses(config.root / f"{config.network}-{sha256[:8]}")
    file = config.out / "depth" / f"{config.network}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = {"dense": {}, "cells": {}, "planned": []}
    journal = directory.read_json(file) if file.exists() else fresh
    how = {"sha256": sha256, "criterion": config.criterion, **asdict(config.recovery)}
    if journal["cells"] and journal["how"] != how:
        raise ValueError(
            f"{file} holds cells of {journal['how']}, these would be of {how}.\n"
            "Fix: remove it, and measure again."
        )
    command = f"python -m benchmarks.depth {config.network} --data-dir DIR"
    journal |= {"how": how, "about": {**found.about, **directory.provenance(), "command": command}}
    planned = [*cells(config.equal, config.shares, config.seeds)]
    journal["planned"] = [*dict.fromkeys([*journal["planned"], *(each.name for each in planned)])]
    if "loss" not in journal["dense"]:
        values, right = bench.evaluate(bench.dense())
        losses.write("dense", values)
        journal["dense"] = {"loss": float(values.mean()), "accuracy": float(right.mean())}
    for cell in missing(planned, journal["cells"], config.minutes):
        journal["cells"][cell.name] = made = measured(bench, cell, losses)
        print(cell.name, made, flush=True)
        compare(journal, losses)
        directory.write_json(file, journal)


def measured(bench: Bench, cell: Cell, losses: Losses) -> dict[str, Any]:
    """Returns the entry of a cell in the journal."""
    start = time.process_time()
    found = bench.measure(cell)
    stages = dict(zip(STAGES, (found.before, found.after), strict=True))
    for stage, (values, _) in stages.items():
        losses.write(f"{cell.name}/{stage}", values)
    known = jp.branches(bench.graph)
    return {
        "macs": jp.cost.macs(bench.graph, found.keep) / bench.macs,
        "params": jp.cost.params(bench.graph, found.keep) / jp.cost.params(bench.graph),
        "branches": [n for n in known if n in found.keep and not np.all(found.keep[n])],
        **{stage: float(values.mean()) for stage, (values, _) in stages.items()},
        **{f"{stage}_accuracy": float(right.mean()) for stage, (_, right) in stages.items()},
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def compare(journal: dict[str, Any], losses: Losses) -> None:
    """Enters the means over seeds, and the paired intervals over the test examples."""
    rows: dict[str, dict[str, Any]] = {}
    for name in journal["cells"]:
        equal, share, way, _ = name.split("/")
        rows.setdefault(f"{equal}/{share}", {}).setdefault(way, []).append(name)
    journal["rows"] = {
        place: {
            f"{way}/{stage}": entry
            for way in ways
            for stage in STAGES
            if (entry := _entry(losses, ways, way, stage)) is not None
        }
        for place, ways in rows.items()
    }


def _entry(
    losses: Losses, ways: Mapping[str, Sequence[str]], way: str, stage: str
) -> dict[str, Any] | None:
    """The interval of the loss of a way, and of what it is beyond that of width alone."""
    ours = _mean(losses, ways[way], stage)
    if ours is None:
        return None
    seeds = {name.rpartition("/")[2] for name in ways[way]}
    others = [name for name in ways.get("width", ()) if name.rpartition("/")[2] in seeds]
    theirs = _mean(losses, others, stage) if len(others) == len(seeds) else None
    found = {"seeds": len(seeds), "loss": interval(ours)}
    if way != "width" and theirs is not None:
        found["to_width"] = interval(ours - theirs)
    return found


def _mean(losses: Losses, names: Sequence[str], stage: str) -> np.ndarray | None:
    """Returns the losses of the test examples, mean over seeds; None if some are not there."""
    each = [losses.read(f"{name}/{stage}") for name in names]
    if not each or any(values is None for values in each):
        return None
    return np.mean(np.stack([values for values in each if values is not None]), axis=0)


def main(config: Config) -> None:
    """Measures what is missing, and writes the page."""
    if config.network:
        run(config)
    (config.out / "depth.md").write_text(depth_page.page(journals(config.out / "depth")), "utf-8")


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.depth"))
