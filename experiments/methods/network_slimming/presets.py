"""Settings by name: every row of table 1 of the paper, and two for a small machine.

Source: Liu et al., Network Slimming, ICCV 2017, sections 4.2 and 4.3 and table 1.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from experiments.runner.presets import Presets

_PAPER = {
    "widths": (),
    "batch_size": 64,
    "epochs": 160,
    "learning_rate": 0.1,
    "strength": 1e-5,
    "finetune_epochs": 160,
    "finetune_learning_rate": 0.1,
}
_VGG = _PAPER | {"model": "vgg19", "strength": 1e-4}
_RESNET = _PAPER | {"model": "preresnet164", "prune_ratio": 0.4}
_DENSENET = _PAPER | {"model": "densenet40", "prune_ratio": 0.4}
_SVHN = {"dataset": "svhn_cropped", "epochs": 20, "finetune_epochs": 20}
_THIRDS = {"batch_size": 256, "milestones": (1 / 3, 2 / 3)}

PRESETS: Presets = MappingProxyType(
    {
        "digits": {},
        "cifar10-small": {
            "dataset": "cifar10",
            "limit": 10_000,
            "widths": (16, 32, 64),
            "batch_size": 64,
            "epochs": 15,
            "strength": 1e-3,
            "target_macs": 0.5,
            "finetune_epochs": 8,
            "finetune_learning_rate": 0.02,
        },
        "vgg19-cifar10": _VGG | {"dataset": "cifar10", "prune_ratio": 0.7},
        "vgg19-cifar100": _VGG | {"dataset": "cifar100", "prune_ratio": 0.5},
        "vgg19-svhn": _VGG | _SVHN | {"prune_ratio": 0.6},
        "resnet164-cifar10": _RESNET | {"dataset": "cifar10"},
        "resnet164-cifar100": _RESNET | {"dataset": "cifar100"},
        "resnet164-svhn": _RESNET | _SVHN,
        "densenet40-cifar10": _DENSENET | {"dataset": "cifar10"},
        "densenet40-cifar100": _DENSENET | {"dataset": "cifar100"},
        "densenet40-svhn": _DENSENET | _SVHN,
        "vgg19-cifar10-passes": _VGG | {"dataset": "cifar10", "prune_ratio": 0.5, "passes": 6},
        "vgg19-cifar100-passes": _VGG | {"dataset": "cifar100", "prune_ratio": 0.5, "passes": 6},
        "mlp-mnist": _PAPER
        | _THIRDS
        | {
            "dataset": "mnist",
            "model": "mlp",
            "epochs": 30,
            "strength": 2e-3,
            "prune_ratio": 0.8,
            "scope": "layer",
            "finetune_epochs": 30,
            "finetune_learning_rate": 0.01,
        },
        "vgga-imagenet": _PAPER
        | _THIRDS
        | {
            "dataset": "imagenet2012",
            "model": "vgga",
            "epochs": 60,
            "prune_ratio": 0.5,
            "finetune_epochs": 5,
            "finetune_learning_rate": 1e-3,
        },
    }
)
"""Name -> what differs from the defaults of `Config`.

On MNIST the paper names neither the penalty nor the rate of fine-tuning; these were chosen on
validation images.
"""


class Row(NamedTuple):
    """A row of table 1 of the paper, in percent."""

    dense_error: float  # trained without the penalty
    error: float  # fine-tuned
    params: float  # share removed
    flops: float | None  # share removed


PAPER: Mapping[tuple[str, float], Row] = MappingProxyType(
    {
        ("vgg19-cifar10", 0.7): Row(6.34, 6.20, 88.5, 51.0),
        ("densenet40-cifar10", 0.4): Row(6.11, 5.19, 35.7, 28.4),
        ("densenet40-cifar10", 0.7): Row(6.11, 5.65, 65.2, 55.0),
        ("resnet164-cifar10", 0.4): Row(5.42, 5.08, 14.9, 23.7),
        ("resnet164-cifar10", 0.6): Row(5.42, 5.27, 35.2, 44.9),
        ("vgg19-cifar100", 0.5): Row(26.74, 26.52, 75.1, 37.1),
        ("densenet40-cifar100", 0.4): Row(25.36, 25.28, 37.5, 30.3),
        ("densenet40-cifar100", 0.6): Row(25.36, 25.72, 54.6, 47.1),
        ("resnet164-cifar100", 0.4): Row(23.37, 22.87, 15.5, 33.3),
        ("resnet164-cifar100", 0.6): Row(23.37, 23.91, 29.7, 50.6),
        ("vgg19-svhn", 0.6): Row(2.17, 2.06, 84.8, 50.1),
        ("densenet40-svhn", 0.4): Row(1.89, 1.79, 36.3, 30.8),
        ("densenet40-svhn", 0.6): Row(1.89, 1.81, 56.6, 49.8),
        ("resnet164-svhn", 0.4): Row(1.78, 1.85, 14.5, 31.1),
        ("vgga-imagenet", 0.5): Row(36.69, 36.66, 82.5, 30.4),
        ("mlp-mnist", 0.8): Row(1.43, 1.49, 84.4, None),
    }
)
"""(preset, prune_ratio) -> the paper's numbers. Its ImageNet FLOPs are known to be wrong."""
