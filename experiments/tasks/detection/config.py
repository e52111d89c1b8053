"""What a run of detection can be asked for."""

from dataclasses import dataclass
from typing import Literal

import tyro

from experiments.runner import config as configuration
from experiments.runner.config import Common

NAME = "detection"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train a slimmable backbone to classify, then a detector on it, all widths at once."""

    preset: str = "shapes"
    """Settings to start from, a name among the presets; every other flag overrides it."""
    name: str = NAME
    """Name of the run; a name that is taken gets a number."""
    dataset: str = "shapes"
    """Data set: shapes, which is made here, or a name in experiments/data/boxed.py."""
    checkpoint_every: tyro.conf.Suppress[int] = 1
    workers: tyro.conf.Suppress[int] = 0
    mobile: tyro.conf.Suppress[bool] = False
    image_size: int = 64
    """Height and width in pixels that images are made or scaled to; a multiple of 2 ** stages."""
    flip: bool = False
    """Mirror half of the images that the detector is trained on."""
    model: Literal["fcos"] = "fcos"
    """The model."""
    widths: tuple[int, ...] = (16, 32, 64, 64)
    """Channels of every stage of the backbone."""
    neck: int = 32
    """Channels of neck and head."""
    frozen: int = 2
    """Convolutions of the backbone, from the first, that do not train in the detector."""
    batch_size: int = 32
    """Images in a step."""

    grid: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """Widths, the largest first."""
    divisor: int = 4
    """Widths are multiples of so many channels."""
    pretrain_epochs: int = 3
    """Passes over the images of one object."""
    epochs: int = 8
    """Passes over the images to detect in."""
    learning_rate: float = 0.02
    """Of the detector; of the classifier it is `pretrain_learning_rate`."""
    pretrain_learning_rate: float = 0.05
    """Both rise for a tenth of the steps and fall along a cosine."""
    weight_decay: float = 1e-4
    """On all that trains."""
    clip: float = 35.0
    """The gradients of the detector, summed over the widths, are cut to this norm."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        configuration.check(self, contradictions(self), positive=POSITIVE)


POSITIVE = ("epochs", "pretrain_epochs", "learning_rate", "neck", "divisor", "clip")


def contradictions(config: Config, *, stages: int = 2) -> list[str]:
    """Returns what contradicts what in a configuration, of a network of so many stages or more."""
    problems = []
    if list(config.grid) != sorted(set(config.grid), reverse=True):
        problems.append(f"grid={config.grid} must fall")
    if len(config.widths) < stages or config.image_size % 2 ** len(config.widths):
        problems.append(
            f"image_size={config.image_size} must be a multiple of 2 ** stages, and the stages "
            f"of widths={config.widths} {stages} or more"
        )
    return problems
