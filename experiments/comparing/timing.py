"""How long the networks of a comparison take, cut, on the machine that measures them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.comparing import cells
from experiments.comparing.bench import Bench
from experiments.comparing.cells import Cell
from experiments.comparing.config import Config
from experiments.report import results
from experiments.runner import directory
from experiments.runner.task import Network

FILE = "latency.json"
Times = Mapping[str, float]
"""{name of a cell: milliseconds of 64 images}; empty where none was measured."""


def read(config: Config) -> Times:
    """Returns the times that are there."""
    path = cells.folder(config) / FILE
    return directory.read_json(path)["milliseconds"] if path.exists() else {}


def measured(bench: Bench, planned: Sequence[Cell]) -> Times:
    """Returns the times of all cells that are measured, one for each network of the same widths."""
    config, known, times = bench.task.config, dict[str, float](), dict[str, float]()
    for cell in planned:
        entry = cells.read(config, cell, bench.digest)
        if entry is None or "widths" not in entry:
            continue
        widths = repr((entry["widths"], entry["without"]))
        if widths not in known:
            known[widths] = 1e3 * results.latency(bench.task, _network(bench, entry)).median
        times[cell.name] = known[widths]
    device = directory.provenance()
    facts = {name: device[name] for name in ("device", "cpu", "versions", "commit")}
    directory.write_json(cells.folder(config) / FILE, {"made": facts, "milliseconds": times})
    return times


def _network(bench: Bench, entry: Mapping[str, Any]) -> Network:
    """Returns a network of these widths; which channels it keeps does not matter for the time."""
    keep: dict[str, Any] = dict.fromkeys(entry["without"], np.array(False))
    for name, width in entry["widths"].items():
        shape = bench.graph.groups[name].shape
        keep[name] = np.broadcast_to(np.arange(shape[-1]) < width, shape)
    return bench.cut(bench.variables, keep)
