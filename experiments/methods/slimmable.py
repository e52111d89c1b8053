"""S-Net: one set of weights that runs at several widths, each with BatchNorm of its own.

Paper:     Yu et al., "Slimmable Neural Networks", ICLR 2019, https://arxiv.org/abs/1812.08928
Command:   python -m experiments.slimmable
           python -m experiments.slimmable --batch-norm shared
           python -m experiments.slimmable --preset resnet20-cifar10 --data-dir DIR
Device:    CPU, 2 cores
CPU time:  160 s, with compilation
Expected:  test accuracy in percent, the range of the seeds 0 to 4; their means and what shared
           BatchNorms do are in benchmarks/results/supernets.md:

           width       MACs       slimmable           alone
           1.0    1,042,048  98.75 to 99.75  98.75 to 99.50
           0.75     588,000  98.75 to 99.75  99.00 to 99.75
           0.5      262,976  99.00 to 99.50  99.00 to 99.75
           0.25      66,976  98.00 to 98.50  97.50 to 99.00
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from experiments.procedures import curves
from experiments.procedures.curves import Curves
from experiments.procedures.rounds import scaled
from experiments.procedures.supernet import Method
from experiments.runner import config as configuration
from experiments.runner import presets
from experiments.runner.config import Slim
from experiments.runner.experiment import Experiment, execute
from experiments.runner.run import Run
from experiments.tasks import classification
from jaxprune import slimmable
from jaxprune.schedule import Training, stepped

NAME = "slimmable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Slim):
    """Train a network at several widths at once, compare each with one trained by itself."""

    name: str = NAME
    """Name of the run; a name that is taken gets a number."""
    multipliers: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """Of the channels of every layer, falling; 1 is the model itself."""
    batch_norm: Literal["switchable", "shared"] = "switchable"
    """One for each width, or one for all, which the paper shows to fail."""
    alone: bool = True
    """Whether to train a network of each width by itself too."""
    training: Training = Training(epochs=160, rates=stepped(0.1), weight_decay=1e-4)  # noqa: RUF009
    """Of the slimmable network, and of each by itself."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        falling = sorted(set(self.multipliers), reverse=True) == list(self.multipliers)
        wrong = f"multipliers={self.multipliers} must fall, from 1"
        first = bool(self.multipliers) and self.multipliers[0] == 1
        configuration.check(self, [] if falling and first else [wrong])


V2 = {"protect": ("Conv_1/kernel",), "expansion": (("Inverted_*/Conv_0/kernel", 6),)}
"""How MobileNet v2 slims: its last convolution does not."""
_IMAGENET = {"dataset": "imagenet2012", "widths": ()}
_MOBILE = {
    "mobile": True,
    "batch_size": 160,
    "training": Training(
        epochs=480,
        rates=tuple((epoch / 480, 0.045 * 0.98**epoch) for epoch in range(481)),
        weight_decay=1e-4,
    ),
}

PRESETS: presets.Presets = MappingProxyType(
    {
        "digits": {
            "widths": (16, 32, 64),
            "batch_size": 64,
            "divisor": 4,
            "training": Training(epochs=20, rates=stepped(0.1), weight_decay=1e-4),
        },
        "cifar10-small": {
            "dataset": "cifar10",
            "limit": 10_000,
            "widths": (16, 32, 64),
            "batch_size": 64,
            "divisor": 4,
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
                ("mobilenet_v2_cifar", V2 | {"multipliers": (1.0, 0.75, 0.5, 0.35)}),
            )
        },
        "mobilenet_v1-imagenet": _IMAGENET | _MOBILE | {"model": "mobilenet_v1"},
        "mobilenet_v2-imagenet": _IMAGENET
        | _MOBILE
        | V2
        | {"model": "mobilenet_v2", "multipliers": (1.0, 0.75, 0.5, 0.35)},
        "shufflenet-imagenet": _IMAGENET
        | {
            "model": "shufflenet_aligned",
            "widths": (48, 504, 1008, 2016),
            "multipliers": (1.0, 0.5, 0.25),
            "divisor": 1,
            "mobile": True,
            "batch_size": 1024,
            "training": Training(epochs=250, rates=((0.0, 0.5), (1.0, 0.0)), weight_decay=1e-4),
        },
        "resnet50-imagenet": _IMAGENET
        | {
            "model": "resnet50",
            "divisor": 1,
            "batch_size": 256,
            "training": Training(
                epochs=100, rates=stepped(0.1, at=(0.3, 0.6, 0.9)), weight_decay=1e-4
            ),
        },
    }
)
"""Name -> what differs from the defaults of `Config`.

The paper has none for CIFAR: these train for 160 epochs, the learning rate falling from 0.1 to a
tenth after a half and three quarters. Its ShuffleNet is `shufflenet_aligned` here, of twice the
channels, as the channels of the paper's do not divide.
"""


def procedure(config: Config, run: Run[Config]) -> Curves:
    """Returns the networks of the run."""
    task, (how,) = run.task, scaled(config, config.training)
    prefix = partial(slimmable.prefix, task.graph, **config.rounding())
    widths = {str(width): prefix(width) for width in config.multipliers}
    switchable = config.batch_norm == "switchable"
    method = Method(widths, slimmable.switchable if switchable else lambda _: ())
    trained = curves.trained(run, method, how)
    alone = {"alone": curves.alone(run, "alone", widths, how)} if config.alone else {}
    return {"slimmable": curves.cut(run, "slimmable", trained, widths)} | alone


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
