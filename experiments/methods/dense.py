"""Dense: a network of images or of text is trained and not pruned; other work starts from it.

Command:   python -m experiments dense
           python -m experiments dense --preset resnet20-cifar10 --data-dir DIR --name first
           python -m experiments dense --preset resnet20-cifar10-again --data-dir DIR --start
           runs/first
           python -m experiments dense --preset text
           python -m experiments dense --preset text --data-dir FILE
Device:    CPU, 2 cores
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.procedures import dense, rounds, steps
from experiments.runner import checkpoints, directory, training
from experiments.runner import config as configuration
from experiments.runner.config import Common
from experiments.runner.experiment import Experiment, Summary
from experiments.runner.presets import Presets
from experiments.runner.run import Run
from experiments.runner.task import Network, Task, initial
from experiments.tasks import classification
from jaxprune.schedule import Training, stepped, triangular

OPTIMIZERS: Mapping[str, dense.Optimizer] = MappingProxyType({"sgd": dense.sgd, "adam": dense.adam})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train a network, measure it, and write it down."""

    name: str = "dense"
    """Name of the run; a name that is taken gets a number."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """SGD with momentum, or AdamW."""
    dense: Training = Training(epochs=15, rates=stepped(0.1))  # noqa: RUF009
    """How it trains."""
    start: Path | None = None
    """Directory of a finished run of this experiment, whose network trains on; none begins anew."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        configuration.check(self, [])


_WARMED = ((0.0, 0.02), (0.2, 0.2), (1.0, 0.001))
_WARMED_AGAIN = ((0.0, 0.01), (0.1, 0.1), (1.0, 0.0005))
_RESNET = {
    "dataset": "cifar10",
    "model": "resnet20",
    "widths": (16, 32, 64),
    "batch_size": 128,
}

PRESETS: Presets = MappingProxyType(
    {
        "digits": {"widths": (16, 32, 64)},
        "resnet20-cifar10": {
            **_RESNET,
            "dense": Training(epochs=16, rates=_WARMED, weight_decay=5e-4),
        },
        "resnet20-cifar10-again": {
            **_RESNET,
            "dense": Training(epochs=8, rates=_WARMED_AGAIN, weight_decay=5e-4),
        },
        "text": {
            "dataset": "text",
            "model": "decoder",
            "widths": (128, 128, 128, 128),
            "batch_size": 16,
            "optimizer": "adam",
            "dense": Training(epochs=10, rates=triangular(2e-4, 4e-3), weight_decay=0.1),
        },
    }
)
"""Name -> what differs from the defaults of `Config`."""


def method(run: Run[Config]) -> Summary:
    """Trains the network, and measures it on all that it was not trained on."""
    task = run.task
    optimizer = OPTIMIZERS[task.config.optimizer]
    train = steps.Step("dense", partial(dense.trained, task, optimizer=optimizer))
    network = steps.follow(run, [train], begun(task))["dense"]
    (how,), first = rounds.scaled(task.config, task.config.dense), _first(task.config.start)
    summary: dict[str, Any] = {
        "final": "dense",
        "seed": task.config.seed,
        "start": first,
        "epochs": how.epochs + (first["epochs"] if first else 0),
        "accuracy": {},
        "loss": {},
    }
    for split in ("validation", "test"):
        part = getattr(task.dataset, split)
        metrics = training.evaluate(network.model, network.variables, task.dataset, part)
        summary["loss"][split] = metrics.loss
        summary["accuracy"]["dense" if split == "test" else split] = metrics.accuracy
    return summary


def begun(task: Task[Config]) -> Network:
    """Returns the network before its training.

    Raises:
      ValueError: the run to start from is not finished, or its network is another.
    """
    anew, run = initial(task), task.config.start
    if run is None:
        return anew
    if not (run / directory.SUMMARY).exists():
        raise ValueError(
            f"start={run} is not a finished run.\nFix: its directory, with {directory.SUMMARY}."
        )
    network = checkpoints.load(run, task, "dense")
    got, expected = (jax.tree.map(np.shape, each.variables) for each in (network, anew))
    if got != expected:
        raise ValueError(
            f"start={run} holds a network of other shapes than {task.config.model!r} of "
            f"widths={task.config.widths}.\nFix: the model and the widths of that run."
        )
    return network


def _first(run: Path | None) -> Mapping[str, Any] | None:
    """Returns how the network was made that the training began with."""
    if run is None:
        return None
    summary = directory.read_json(run / directory.SUMMARY)
    return {name: summary[name] for name in ("command", "commit", "epochs", "train_s", "start")}


def report(run: Path, summary: Summary) -> None:
    """Prints loss and accuracy."""
    loss, accuracy, table = summary["loss"], summary["accuracy"], Table(title=str(run))
    for column in ("", "loss, nats", "accuracy"):
        table.add_column(column)
    table.add_row("validation", f"{loss['validation']:.4f}", f"{accuracy['validation']:.2%}")
    table.add_row("test", f"{loss['test']:.4f}", f"{accuracy['dense']:.2%}")
    console = Console()
    console.print(table)
    console.print(f"{summary['train_s']:.0f} s of training")


EXPERIMENT = Experiment(
    name="dense",
    config=Config(),
    presets=PRESETS,
    task=classification.task,
    method=method,
    report=report,
)
