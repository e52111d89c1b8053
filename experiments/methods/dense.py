"""Dense: a network of images or of text is trained and not pruned; other work starts from it.

Command:   python -m experiments dense
           python -m experiments dense --preset resnet20-cifar10 --data-dir DIR --name first
           python -m experiments dense --preset resnet20-cifar10-again --data-dir DIR --start
           runs/first
           python -m experiments dense --preset resnet50-imagenet --data-dir DIR --name imagenet
           python -m experiments dense --preset resnet50-birds --data-dir DIR --start runs/imagenet
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

from rich.console import Console
from rich.table import Table

from experiments.procedures import dense, rounds, starting, steps
from experiments.runner import config as configuration
from experiments.runner import training
from experiments.runner.config import Common
from experiments.runner.experiment import Experiment, Summary
from experiments.runner.presets import Presets
from experiments.runner.run import Run
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
    """Directory of a finished run of this experiment, whose network trains on, with a new
    classifier where the number of classes differs; none begins anew."""

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

_RESNET50 = {"model": "resnet50", "widths": ()}

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
        "resnet50-imagenet": {
            **_RESNET50,
            "dataset": "imagenet2012",
            "batch_size": 256,
            "dense": Training(
                epochs=100, rates=stepped(0.1, at=(0.3, 0.6, 0.9)), weight_decay=1e-4
            ),
        },
        "resnet50-birds": {**_RESNET50, **classification.BIRDS},
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
"""Name -> what differs from the defaults of `Config`.

`resnet50-imagenet` has the settings of Slimmable Neural Networks; `resnet50-birds` is for
`--start`.
"""


def method(run: Run[Config]) -> Summary:
    """Trains the network, and measures it on all that it was not trained on."""
    task = run.task
    optimizer = OPTIMIZERS[task.config.optimizer]
    train = steps.Step("dense", partial(dense.trained, task, optimizer=optimizer))
    begun = starting.network(task, task.config.start)
    network = steps.follow(run, [train], begun)["dense"]
    (how,), first = rounds.scaled(task.config, task.config.dense), starting.made(task.config.start)
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
