"""US-Net: one set of weights that runs at any width between the narrowest and the widest.

Paper:     Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques",
           ICCV 2019, https://arxiv.org/abs/1903.05134
Command:   python -m experiments.us_slimmable
           python -m experiments.us_slimmable --no-distill
           python -m experiments.us_slimmable --preset resnet20-cifar10 --data-dir DIR
Device:    CPU, 2 cores
CPU time:  320 s, with compilation
Expected:  test accuracy in percent, the range of the seeds 0 to 4; their means, and what
           calibration, sandwich rule and distillation are worth, are in
           benchmarks/results/supernets.md:

           width                 MACs       slimmable           alone
           1.0              1,042,048  98.25 to 99.25  98.75 to 99.50
           0.9 (not drawn)    837,868  98.75 to 99.25  99.00 to 99.50
           0.8 (not drawn)    681,054  98.25 to 99.50  98.75 to 99.25
           0.7 (not drawn)    501,858  98.25 to 99.75  98.00 to 99.50
           0.6 (not drawn)    382,628  98.50 to 99.50  99.00 to 99.50
           0.5                262,976  98.50 to 99.00  99.00 to 99.75
           0.45 (not drawn)   206,498  98.25 to 99.00  98.50 to 99.25
           0.4                165,932  98.00 to 99.00  98.50 to 99.50
           0.35 (not drawn)   133,060  98.50 to 99.25  98.00 to 99.25
           0.25                66,976  98.25 to 99.25  97.50 to 99.00
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from experiments.methods.slimmable import V2
from experiments.procedures import curves, supernet
from experiments.procedures.curves import Curves
from experiments.procedures.rounds import scaled
from experiments.procedures.supernet import Method
from experiments.runner import config as configuration
from experiments.runner import presets
from experiments.runner.config import Slim
from experiments.runner.experiment import Experiment, execute
from experiments.runner.run import Run
from experiments.runner.task import Task
from experiments.tasks import classification
from jaxprune import slimmable
from jaxprune.schedule import Training, stepped

NAME = "us_slimmable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Slim):
    """Train a network at all widths of a range, and evaluate it at some, trained or not."""

    name: str = NAME
    """Name of the run; a name that is taken gets a number."""
    low: float = 0.25
    """Multiplier of the narrowest width."""
    grid: float = 0.025
    """Between two multipliers that are drawn."""
    evaluated: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.25)
    """Multipliers that are calibrated and evaluated."""
    unseen: tuple[float, ...] = ()
    """Multipliers that no step draws, to see that a width needs no training of its own."""
    number: int = 4
    """Widths of a step, the narrowest and the widest among them."""
    sandwich: bool = True
    """Whether every step has the narrowest and the widest width; else all but one are drawn."""
    distill: bool = True
    """Whether the widest teaches the others, in place of the labels."""
    execution: Literal["mask", "slice"] = "mask"
    """Drawn widths run at full cost in one program, or as small networks, one program for each."""
    calibration_batches: int = 1
    """Batches that give each width its statistics."""
    calibration_size: int = 1024
    """Training images in such a batch."""
    uncalibrated: bool = False
    """Whether to evaluate the widths with the statistics of the widest too."""
    alone: bool = True
    """Whether to train the evaluated widths by themselves too."""
    training: Training = Training(epochs=160, rates=stepped(0.1), weight_decay=1e-4)  # noqa: RUF009
    """Of the slimmable network, and of each by itself."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = []
        if not all(0 < self.low <= width <= 1 for width in self.evaluated):
            problems.append(f"evaluated={self.evaluated} must lie in [low={self.low}, 1]")
        if self.number < 2 + self.sandwich:
            problems.append(f"number={self.number} draws no width")
        if not {1.0, self.low}.isdisjoint(self.unseen):
            problems.append(f"unseen={self.unseen} must not name the ends, which every step has")
        configuration.check(
            self, problems, positive=("grid", "calibration_batches", "calibration_size")
        )


_V2 = V2 | {"low": 0.35, "evaluated": (1.0, 0.9, 0.8, 0.75, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35)}
_IMAGENET = {
    "dataset": "imagenet2012",
    "widths": (),
    "mobile": True,
    "batch_size": 1024,
    "calibration_batches": 5,
    "alone": False,
    "training": Training(epochs=250, rates=((0.0, 0.5), (1.0, 0.0)), weight_decay=1e-4),
}

PRESETS: presets.Presets = MappingProxyType(
    {
        "digits": {
            "widths": (16, 32, 64),
            "batch_size": 64,
            "divisor": 1,
            "unseen": (0.9, 0.8, 0.7, 0.6, 0.45, 0.35),
            "training": Training(epochs=20, rates=stepped(0.1), weight_decay=1e-4),
        },
        "cifar10-small": {
            "dataset": "cifar10",
            "limit": 10_000,
            "widths": (16, 32, 64),
            "batch_size": 64,
            "divisor": 4,
            "execution": "slice",
            "training": Training(epochs=15, rates=stepped(0.1), weight_decay=1e-4),
        },
        **{
            f"{model}-{dataset}": {"dataset": dataset, "model": model, "widths": (), **fields}
            for dataset in ("cifar10", "cifar100")
            for model, fields in (
                ("resnet20", {"divisor": 4}),
                ("resnet56", {"divisor": 4}),
                ("vgg16", {}),
                ("mobilenet_v1_cifar", {}),
                ("mobilenet_v2_cifar", _V2),
            )
        },
        "mobilenet_v1-imagenet": _IMAGENET | {"model": "mobilenet_v1"},
        "mobilenet_v2-imagenet": _IMAGENET | _V2 | {"model": "mobilenet_v2"},
    }
)
"""Name -> what differs from the defaults of `Config`."""


def multipliers(config: Config) -> list[float]:
    """Returns those that steps draw, rising from the lowest to 1."""
    count = max(1, round((1 - config.low) / config.grid))
    widths = [round(float(width), 6) for width in np.linspace(config.low, 1, count + 1)]
    widths[0] = config.low  # of any number of digits
    return [width for width in widths if width not in config.unseen]


def method(config: Config, task: Task) -> Method:
    """Returns how the network trains."""
    prefix = partial(slimmable.prefix, task.graph, **config.rounding())
    grid = {str(width): prefix(width) for width in multipliers(config)}
    ends = ["1.0", str(config.low)] if config.sandwich else ["1.0"]
    fixed = {name: grid[name] for name in ends}
    distill = slimmable.distillation() if config.distill else None
    drawn = config.number - len(fixed)
    how = Method(fixed, slimmable.statistics, distill=distill)
    if config.execution == "slice":
        return how._replace(grid=grid, number=drawn)
    return how._replace(draw=supernet.draws(list(grid.values()), drawn))


def procedure(config: Config, run: Run[Config]) -> Curves:
    """Returns the networks of the run."""
    task, (how,) = run.task, scaled(config, config.training)
    prefix = partial(slimmable.prefix, task.graph, **config.rounding())
    widths = {str(width): prefix(width) for width in config.evaluated}
    trained = curves.trained(run, method(config, task), how)
    ready = supernet.calibrated(
        task,
        trained,
        widths,
        trained={str(width): prefix(width) for width in (1.0, config.low)},
        batches=config.calibration_batches,
        size=config.calibration_size,
    )
    networks = {"universally slimmable": curves.cut(run, "us", ready, widths)}
    if config.uncalibrated:
        before = supernet.borrowed(trained, "1.0")
        networks["before calibration"] = curves.cut(run, "uncalibrated", before, widths)
    if config.alone:
        networks["alone"] = curves.alone(run, "alone", widths, how)
    return networks


EXPERIMENT = Experiment(
    name=NAME,
    config=Config(),
    presets=PRESETS,
    task=classification.task,
    method=curves.procedure(procedure),
    report=curves.report,
)


def main(config: Config) -> Path:
    """Runs the experiment and returns the directory of the run."""
    return execute(EXPERIMENT, config)
