"""All methods side by side: one dense network, every method, the same budgets and recovery.

A cell is a method with its own defaults, a budget and a seed. What is measured is not measured
again; cells come from any number of machines, in any order.

Command:   python -m experiments compare
           python -m experiments compare --preset cifar10-small --data-dir DIR --budgets 0.5
           python -m experiments compare --methods l1 fpgm netadapt --seeds 0
           python -m experiments compare --minutes 0  (writes the page anew from what is there)
Device:    CPU, 2 cores
Writes:    compare/PRESET/METHOD/SHARE-SEED.json below `--out` after every cell; compare_PRESET.md
           and compare/PRESET.png at the end
"""

import sys
import time
from pathlib import Path
from typing import Any

import jax

from experiments.comparing import bench as benches
from experiments.comparing import cells, measuring, page, registry, timing
from experiments.comparing.cells import Cell
from experiments.comparing.config import PRESETS, Config
from experiments.runner import devices, directory, processes
from experiments.runner.command import one_line, parsed
from experiments.runner.fit import DivergedError
from jaxprune.errors import JaxpruneError


def main(config: Config) -> Path:
    """Measures the cells that are missing, and returns the page.

    Raises:
      ValueError: a method is unknown, or there is no such network.
    """
    if problems := registry.unknown(config.methods):
        raise ValueError("\n".join([*problems, "Fix: names of experiments/comparing/registry.py."]))
    jax.config.update("jax_compilation_cache_dir", str((config.root / "programs").absolute()))
    with devices.using(config):
        return _followed(config)


def _followed(config: Config) -> Path:
    bench = benches.opened(config)
    config, planned = bench.task.config, list(cells.planned(config))
    end = time.monotonic() + 60 * config.minutes
    for cell in planned:
        if processes.shared(lambda: time.monotonic() >= end):
            break
        if cells.read(config, cell, bench.digest) is None:
            cells.write(config, cell, bench.digest, entry := made(bench, cell))
            print(cell.name, told(entry), flush=True)
    times = processes.shared(
        lambda: timing.measured(bench, planned) if config.latency else timing.read(config)
    )
    return page.write(config, bench, planned, times)


def made(bench: benches.Bench, cell: Cell) -> dict[str, Any]:
    """Returns the entry of a cell; of one that the network or the budget rules out, why."""
    facts = directory.provenance()
    known = {name: facts[name] for name in ("commit", "device", "cpu", "versions")}
    root = bench.task.config.root / bench.task.config.name
    try:
        return measuring.measured(bench, cell, root) | {"made": known}
    except (JaxpruneError, DivergedError) as error:
        return {"cell": cell._asdict(), "failed": str(error)[:400], "made": known}


def told(entry: dict[str, Any]) -> str:
    """Returns the line of a cell.

    >>> told({"accuracy": 0.5, "macs": 0.25, "cpu_s": 1.5})
    '50.00 % at 25.0 % of the MACs, 1.5 CPU s'
    """
    if "failed" in entry:
        return f"failed: {entry['failed']}".partition("\n")[0]
    accuracy, macs = f"{entry['accuracy']:.2%}", f"{entry['macs']:.1%}"
    return f"{accuracy} at {macs} of the MACs, {entry['cpu_s']} CPU s".replace("%", " %")


if __name__ == "__main__":
    with one_line():
        main(parsed("python -m experiments compare", PRESETS, Config(), sys.argv[1:]))
