"""What a run of super-resolution can be asked for."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import tyro

from experiments.runner import config as configuration
from experiments.runner.config import Common
from experiments.runner.presets import Presets

NAME = "super_resolution"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train all widths of a WDSR at once, the smallest alone too, and measure both."""

    preset: str = "shapes"
    """Settings to start from, a name among the presets; every other flag overrides it."""
    name: str = NAME
    """Name of the run; a name that is taken gets a number."""
    dataset: str = "shapes"
    """Data set: shapes, which is made here, div2k, or a name in experiments/data/__init__.py."""
    tests: tuple[str, ...] = ()
    """Folders in data-dir, such as Set5 and Set14, on whose pictures all is measured too."""
    checkpoint_every: tyro.conf.Suppress[int] = 1
    workers: tyro.conf.Suppress[int] = 0
    mobile: tyro.conf.Suppress[bool] = False
    image_size: int = 48
    """Height and width in pixels of generated pictures; even."""
    patch: int = 12
    """Height and width in pixels of what the network sees of a picture in training."""
    patches: int = 1
    """Patches of a picture in an epoch."""
    model: Literal["wdsr"] = "wdsr"
    """The model."""
    widths: tuple[int, int] = (16, 64)
    """Channels of the stream, and inside of the blocks."""
    blocks: int = 3
    """Residual blocks."""
    batch_size: int = 16
    """Patches in a step."""

    grid: tuple[float, ...] = (1.0, 0.75, 0.5, 0.375, 0.25)
    """Widths to train, the largest first."""
    others: tuple[float, ...] = (0.875, 0.625)
    """Widths that are measured and were never trained."""
    sandwich: int = 4
    """Widths in a step: the largest, the smallest, and random ones between."""
    divisor: int = 2
    """Widths are multiples of so many channels."""
    mix: float = 0.0
    """In-place distillation: the share of the largest width, and not of the picture, in what all
    others learn from; 0 is none."""
    epochs: int = 8
    """Passes over the patches of the training pictures."""
    learning_rate: float = 3e-3
    """Of Adam, at the start; it falls to 0 along a cosine."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = []
        if len(self.grid) < 2 or list(self.grid) != sorted(set(self.grid), reverse=True):
            problems.append(f"grid={self.grid} must be two widths or more, falling")
        if not 0 <= self.mix <= 1:
            problems.append(f"mix={self.mix} must be in [0, 1]")
        positive = ("epochs", "learning_rate", "patch", "patches", "blocks", "divisor")
        configuration.check(self, problems, positive=positive)


PRESETS: Presets = MappingProxyType(
    {
        "shapes": {},
        "cifar10": {
            "dataset": "cifar10",
            "widths": (32, 128),
            "blocks": 8,
            "divisor": 4,
            "epochs": 20,
            "learning_rate": 1e-3,
        },
        "div2k": {
            "dataset": "div2k",
            "patch": 48,
            "patches": 100,
            "widths": (32, 128),
            "blocks": 16,
            "divisor": 4,
            "epochs": 300,
            "learning_rate": 1e-3,
        },
    }
)
"""Name -> what differs from the defaults of `Config`. That of CIFAR-10 is not tuned.

That of DIV2K has network, patches, rate and length of the released code of a co-author of WDSR,
https://github.com/ychfan/wdsr, whose 30 epochs have 1,000 patches of a picture each; there the rate
falls in two steps, here along the cosine. US-Net's paper names no settings for it.
"""
