"""One cell: the method, the recovery that is the same for all, and what the test images say.

It is a run of its own until it is measured: killed, it goes on to the bit.
"""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import jaxprune as jp
from experiments.comparing import cells
from experiments.comparing.bench import Bench, Work, begun
from experiments.comparing.cells import Cell
from experiments.comparing.registry import METHODS
from experiments.runner import checkpoints, directory, processes
from experiments.runner.run import Run
from experiments.runner.task import Network
from jaxprune.errors import BudgetError
from jaxprune.schedule import Training

PRUNED, RECOVERED = "pruned", "recovered"
_FACTS = "pruned.json"


def measured(bench: Bench, cell: Cell, root: Path) -> dict[str, Any]:
    """Returns the entry of a cell.

    Args:
      bench: the dense network.
      cell: what is measured.
      root: where the run of the cell is, until it is finished.

    Raises:
      JaxpruneError: the method does not fit the network, or ends above the budget.
      DivergedError: a loss is not finite.
    """
    task = bench.task._replace(config=replace(bench.task.config, seed=cell.seed))
    path = root / cells.hashed(cells.asked(task.config, cell.method, bench.digest)) / cell.name
    path.mkdir(parents=True, exist_ok=True)
    run, start = Run(path, task), time.process_time()
    pruned, facts = _pruned(bench, cell, run)
    how = task.config.finetune
    if facts["retrain"]:
        how = replace(task.config.dense, epochs=facts["retrain"])
    network = _recovered(bench, run, pruned, how, taught=not facts["retrain"])
    _, before = bench.evaluate(pruned)
    losses, right = bench.evaluate(network)
    channels = {n: kept for n, kept in network.keep.items() if n in bench.graph.groups}
    widths = jp.widths(bench.graph, channels)
    gone = [n for n, kept in network.keep.items() if n not in widths and not np.all(kept)]
    entry = {
        "cell": cell._asdict(),
        "macs": bench.left(network.keep),
        "parameters": jp.cost.params(bench.graph, network.keep) / jp.cost.params(bench.graph),
        "epochs": {"before": facts["epochs"], "after": how.epochs},
        "cut_accuracy": float(before.mean()),
        "accuracy": float(right.mean()),
        "loss": float(losses.mean()),
        "images": len(right),
        "right": cells.packed(right),
        "widths": widths,
        "without": gone,
        "cpu_s": round(time.process_time() - start, 2),
    }
    processes.shared(lambda: shutil.rmtree(path))
    return entry


def _pruned(bench: Bench, cell: Cell, run: Run[Any]) -> tuple[Network, dict[str, Any]]:
    """Returns the network before its recovery, and how it came about."""
    path, task = run.path, run.task
    if not checkpoints.metadata(path, PRUNED):
        found = METHODS[cell.method].prune(Work(bench, task, cell.share, run))
        found = found._replace(keep=processes.adopted(found.keep))
        left = bench.left(found.keep)
        if left > cell.share + 1e-6:  # as `jp.select.budget` rounds
            raise BudgetError(
                f"{cell.method} leaves {left:.4f} of the MACs, the budget is {cell.share}.\n"
                "Fix: a method that ends within its budget."
            )
        facts = {"epochs": found.epochs, "retrain": found.retrain}
        processes.shared(lambda: directory.write_json(path / _FACTS, facts))
        checkpoints.save(path, task, PRUNED, begun(bench, found))
    facts = processes.shared(lambda: directory.read_json(path / _FACTS))
    return checkpoints.load(path, task, PRUNED), facts


def _recovered(
    bench: Bench, run: Run[Any], pruned: Network, how: Training, *, taught: bool
) -> Network:
    def made(journal: Any) -> Network:
        return bench.trained(run.task, pruned, how, RECOVERED, journal=journal, distill=taught)

    with run.going_on():
        return run.network(RECOVERED, made, pruned.keep)
