"""What a run of instance segmentation or of keypoints can be asked for."""

from dataclasses import dataclass
from types import MappingProxyType

import tyro

from experiments.runner import config as configuration
from experiments.runner.presets import Presets
from experiments.tasks import detection
from experiments.tasks.detection.config import POSITIVE, contradictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(detection.Config):
    """Train a backbone, a detector with a head of parts on it, cut it, fine-tune it."""

    dataset: str = "shapes"
    """Data set: shapes, which is made here, or coco."""
    name: str = "instances"
    """Name of the run; a name that is taken gets a number."""
    grid: tuple[float, ...] = (1.0,)
    """Widths of the backbone before it is cut, the largest first: of several it is slimmable."""
    boxes: int = 2
    """Boxes of an image that the head of parts sees in a step, at most, and in its MACs."""
    jitter: float = 0.1
    """Of its height or width, how far an edge of these boxes, the true ones, is moved at most."""
    keep_macs: float = 0.5
    """Share of the MACs of the widest network that stays."""
    min_keep_ratio: float = 0.1
    """Of its channels, how many every group keeps."""
    finetune_epochs: int = 4
    """Passes over the images after the cut."""
    finetune_learning_rate: float = 0.01
    """It rises and falls as that of the detector."""
    workers: tyro.conf.Suppress[int] = 0

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = contradictions(self, stages=3)
        if not 0 < self.keep_macs < 1:
            problems.append(f"keep_macs={self.keep_macs} must be between 0 and 1")
        if not 0 <= self.jitter < 0.5:
            problems.append(f"jitter={self.jitter} must be from 0 to 0.5")
        positive = (*POSITIVE, "boxes", "finetune_epochs", "finetune_learning_rate")
        configuration.check(self, problems, positive=positive)


PRESETS: Presets = MappingProxyType(
    {
        "shapes": {},
        "coco": detection.LARGE
        | {"dataset": "coco", "pretrain_epochs": 10, "epochs": 40, "boxes": 8},
    }
)
"""Name -> what differs from the defaults of `Config`. That of photographs is not tuned."""
