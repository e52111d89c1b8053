"""Every criterion with every reconstruction, with no training after the cut but BatchNorm's.

A dense network of `benchmarks.dense` loses channels until a share of its MACs is left; the order is
that of one criterion, and the readers are made up for by one reconstruction. Masks, which equal the
slices, so that one program evaluates all. A cell that is measured is not measured again.

Command:   python -m benchmarks.criteria resnet20-cifar10 --data-dir DIR
           python -m benchmarks.criteria text --data-dir FILE
           python -m benchmarks.criteria  (writes the page anew from what is there)
Device:    CPU, 2 cores
Writes:    benchmarks/results/criteria/NAME.json after every cell, benchmarks/results/criteria.md;
           the losses of all test examples under `--root`, which the intervals are made of
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from benchmarks import criteria_page, dense
from benchmarks.criterion_cells import OWN, RECOVERIES, Bench, Cell
from benchmarks.journals import Losses, journals, missing
from experiments.procedures import scoring
from experiments.report.bootstrap import interval
from experiments.runner import directory
from jaxprune.errors import JaxpruneError


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Measure what is missing of the cells of one network, most telling first."""

    network: Annotated[str, tyro.conf.Positional] = ""
    """A name in benchmarks/results/dense; none writes only the page."""
    data_dir: Path | None = None
    """Where its data are."""
    shares: tuple[float, ...] = (0.5, 0.3)
    """Of the MACs that stay."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of random channels."""
    minutes: float = float("inf")
    """After so many no further cell is begun."""
    root: Path = Path("runs/criteria")
    """Where the losses of single examples and compiled programs are."""
    out: Path = Path(__file__).parent / "results"
    """Where the results go."""


def cells(
    shares: Sequence[float], seeds: Sequence[int], alone: Sequence[str] = ()
) -> Iterator[Cell]:
    """Yields all cells: no reconstruction and the same widths for all first.

    Args:
      shares: of the MACs, or of the channels of kinds, that stay.
      seeds: of random channels.
      alone: kinds of groups that lose channels alone.
    """
    first, *others = RECOVERIES
    for recovery in (first, "least_squares"):
        for share in shares:
            yield from _row(share, "uniform", recovery, seeds)
        for kind in alone:
            yield from _row(shares[0], kind, recovery, seeds)
    for share in shares:
        yield from (Cell(share, "uniform", own, own) for own in OWN)
    for share in shares:
        yield from _row(share, "global", first, seeds)
    for recovery in others:
        if recovery != "least_squares":
            for share in shares:
                yield from _row(share, "uniform", recovery, seeds)


def _row(share: float, widths: str, recovery: str, seeds: Sequence[int]) -> Iterator[Cell]:
    yield from (Cell(share, widths, "random", recovery, seed) for seed in seeds)
    names = [name for name in scoring.SCORES if name != "random"]
    yield from (Cell(share, widths, name, recovery) for name in names)


def run(config: Config) -> None:
    """Measures the cells of a network that the journal does not hold."""
    found = dense.load(config.network)
    bench = Bench(dense.task(found, config.data_dir), found.variables)
    sha256 = found.about["sha256"]
    losses = Losses(config.root / f"{config.network}-{sha256[:8]}")
    file = config.out / "criteria" / f"{config.network}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    journal = directory.read_json(file) if file.exists() else {"dense": {}, "cells": {}}
    if journal["cells"] and journal["about"]["sha256"] != sha256:
        raise ValueError(f"{file} is of another network.\nFix: remove it, and measure again.")
    command = f"python -m benchmarks.criteria {config.network} --data-dir DIR"
    journal["about"] = {**found.about, **directory.provenance(), "command": command}
    planned = list(cells(config.shares, config.seeds, bench.alone))
    journal["planned"] = [each.name for each in planned]
    if "loss" not in journal["dense"] or losses.read("dense") is None:
        values, right = bench.evaluate(found.variables)
        losses.write("dense", values)
        journal["dense"] = {"loss": float(values.mean()), "accuracy": float(right.mean())}
    for cell in missing(planned, journal["cells"], config.minutes):
        journal["cells"][cell.name] = made = measured(bench, cell, losses, config.seeds)
        directory.write_json(file, journal)
        print(cell.name, made, flush=True)


def measured(bench: Bench, cell: Cell, losses: Losses, seeds: Sequence[int]) -> dict[str, Any]:
    """Returns the entry of a cell in the journal."""
    start = time.perf_counter()
    try:
        values, right, macs = bench.measure(cell)
    except JaxpruneError as error:
        return {"failed": str(error).partition("\n")[0][:200]}
    losses.write(cell.name, values)
    randoms = [cell._replace(criterion="random", seed=seed) for seed in seeds]
    if cell.recovery in OWN:
        randoms = [each._replace(recovery="none") for each in randoms]
    chance = [losses.read(each.name) for each in randoms]
    plain = losses.read(cell._replace(recovery="none").name)
    found: dict[str, Any] = {
        "loss": float(values.mean()),
        "accuracy": float(right.mean()),
        "macs": macs,
        "loss_interval": interval(values),
    }
    if cell.criterion != "random" and not any(each is None for each in chance):
        found["to_random"] = interval(values - np.mean(np.stack(chance), axis=0))
    if cell.recovery != "none" and plain is not None:
        found["to_none"] = interval(values - plain)
    return found | {"seconds": round(time.perf_counter() - start, 1)}


def main(config: Config) -> None:
    """Measures what is missing, and writes the page."""
    if config.network:
        jax.config.update("jax_compilation_cache_dir", str((config.root / "programs").absolute()))
        run(config)
    page = criteria_page.page(journals(config.out / "criteria"))
    (config.out / "criteria.md").write_text(page, "utf-8")


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.criteria"))
