"""What a run of Network Slimming can be asked for."""

from dataclasses import dataclass
from typing import Literal

from experiments.runner.config import Common, check


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train with L1 on the BatchNorm scales, prune, recalibrate, retrain, and write it down."""

    name: str = "network_slimming"
    """Name of the run; a name that is taken gets a number."""
    weight_decay: float = 1e-4
    """L2 penalty on all parameters."""
    epochs: int = 20
    """Passes over the training images with the penalty."""
    learning_rate: float = 0.1
    """Of these epochs; it falls to a tenth at every milestone."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of a training after which the learning rate falls."""
    penalty: Literal["l1", "smooth-l1", "proximal-l1"] = "l1"
    """How the scales are drawn to zero."""
    strength: float = 0.015
    """Of the penalty. Few steps need a high one: the paper takes 1e-4 for 160 CIFAR epochs."""
    smooth_width: float = 0.01
    """Scales below this shrink in proportion to themselves, with smooth-l1."""

    passes: int = 1
    """How often to train with the penalty, prune and retrain; each pass prunes what is left."""
    prune_ratio: float = 0.75
    """Share of the channels to remove in a pass."""
    scope: Literal["global", "layer"] = "global"
    """Whether the ratio is of all channels together or of each layer."""
    target_macs: float | None = None
    """Share of the dense MACs that stays in the end; replaces the ratio."""
    rule: Literal["exact_count", "lua_author", "pytorch_author"] = "exact_count"
    """Threshold, by its name in `jp.select`: exactly the ratio, or as in the authors' two codes."""
    max_prune_ratio: float | None = None
    """What a layer loses at most in a pass: 0.5 of it with several passes, else no limit."""
    min_channels: int = 1
    """What every layer keeps."""
    method: Literal["slice", "mask"] = "slice"
    """Cut pruned channels out, or hold them at zero until the end."""
    recalibration_batches: int = 4
    """Batches of 256 training images that give the statistics of BatchNorm after pruning."""

    retrain: Literal["finetune", "scratch-e", "scratch-b", "rewind"] = "finetune"
    """After pruning go on; or train from new weights, for as many epochs or for as many MACs; or
    from the initial weights."""
    momentum: Literal["fresh", "sliced"] = "fresh"
    """Whether fine-tuning of a sliced network takes over the momentum of what stays."""
    finetune_epochs: int = 10
    """Passes over the training images in fine-tuning, without the penalty."""
    finetune_learning_rate: float = 0.02
    """Of these epochs, with the same milestones."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = []
        if self.method == "mask" and self.momentum == "sliced":
            problems.append("momentum=sliced is for sliced networks: with masks the old momentum")
            problems[-1] += " of a pruned channel would bring it back"
        check(self, problems, positive=("epochs", "finetune_epochs", "passes"))
