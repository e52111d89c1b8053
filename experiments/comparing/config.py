"""What a comparison of methods can be asked for, and its presets."""

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from experiments.procedures import distilling
from experiments.runner import checkpoints
from experiments.runner import config as configuration
from experiments.runner.config import Common
from experiments.runner.presets import Presets
from jaxprune.schedule import Training, stepped, triangular

OUT = Path(__file__).parents[2] / "benchmarks" / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Prune one dense network by every method, recover all alike, and write the table."""

    name: str = "compare"
    """Of the directory below the root where a cell that was interrupted goes on."""
    network: str = ""
    """A name in benchmarks/results/dense, whose data and model come with it; none: `dense` trains
    it first."""
    budgets: tuple[float, ...] = (0.5, 0.25)
    """Shares of the dense MACs that stay."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the order of the images, of the batches that scores are measured on, and of what is
    drawn."""
    methods: tuple[str, ...] = ()
    """Names in experiments/comparing/registry.py; all by default."""
    min_keep_ratio: float = 0.1
    """Of its channels, how many every group keeps."""
    dense: Training = Training(epochs=15, rates=stepped(0.1))  # noqa: RUF009
    """Of the dense network, and of what trains from new or initial weights."""
    train: Training = Training(epochs=4, rates=triangular(1e-3, 2e-2))  # noqa: RUF009
    """Of a method that trains before it cuts."""
    finetune: Training = Training(epochs=4, rates=triangular(1e-3, 2e-2))  # noqa: RUF009
    """The recovery, of every method the same."""
    distill: float = 0.0
    """In the recovery, the share of the loss that learns from the logits of the dense network."""
    temperature: float = 4.0
    """Of these logits."""
    evaluations: int = 400
    """About how many networks a search may look at."""
    cut: bool = False
    """Recover the networks cut, each with a program of its own; by default by masks, in one."""

    latency: bool = False
    """Measure the time of 64 images too, on this machine."""
    minutes: float = float("inf")
    """After so many no further cell is begun; 0 writes only the page."""
    out: Path = OUT
    """Where compare/PRESET/, a file for each cell, and the page compare_PRESET.md are."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = [f"budgets: {b} is not a share below 1" for b in self.budgets if not 0 < b < 1]
        problems += distilling.unknown(self.distill, self.temperature)
        if self.overwrite or self.resume:
            problems.append("a comparison always goes on; to measure a cell again, remove its file")
        configuration.check(self, problems, positive=("evaluations",))


FREE = (
    *checkpoints.FREE,
    *("preset", "seed", "budgets", "seeds", "methods", "latency", "minutes", "out"),
)
"""Fields that a cell does not depend on."""

_CIFAR: dict[str, Any] = {"dataset": "cifar10", "widths": (), "batch_size": 128, "cut": True}
_LONG = Training(epochs=40, rates=triangular(1e-3, 1e-2), weight_decay=5e-4)

PRESETS: Presets = MappingProxyType(
    {
        "digits": {"network": "digits", "checkpoint_every": 1000},
        "cifar10-small": {
            "network": "resnet20-cifar10",
            "batch_size": 128,
            "train": Training(epochs=1, rates=triangular(1e-3, 2e-2), weight_decay=5e-4),
            "finetune": Training(epochs=1, rates=triangular(1e-3, 2e-2), weight_decay=5e-4),
            "evaluations": 100,
            "cut": True,
        },
        **{
            f"{model}-cifar10": _CIFAR
            | {
                "model": model,
                "budgets": (0.5, 0.3),
                "dense": Training(epochs=160, rates=stepped(0.1), weight_decay=5e-4),
                "train": _LONG,
                "finetune": _LONG,
                "evaluations": 2000,
            }
            for model in ("resnet56", "vgg19")
        },
        "resnet50-imagenet": {
            "dataset": "imagenet2012",
            "model": "resnet50",
            "widths": (),
            "batch_size": 256,
            "cut": True,
            "budgets": (0.5, 0.25),
            "dense": Training(epochs=90, rates=stepped(0.1, at=(0.34, 0.67))),
            "train": Training(epochs=10, rates=triangular(1e-4, 1e-2)),
            "finetune": Training(epochs=30, rates=triangular(1e-4, 1e-2)),
            "evaluations": 2000,
        },
    }
)
"""Name -> what differs from the defaults of `Config`; those of whole networks have not been run."""
