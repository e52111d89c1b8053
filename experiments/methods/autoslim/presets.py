"""The settings of the paper, and those that fit into minutes."""

from types import MappingProxyType

from experiments.methods.slimmable import V2
from experiments.runner import presets
from jaxprune.schedule import Training, stepped

_LINEAR = ((0.0, 0.5), (1.0, 0.0))
_IMAGENET = {
    "dataset": "imagenet2012",
    "widths": (),
    "mobile": True,
    "batch_size": 2048,
    "held_out": 2048,
    "searches": ("greedy",),
    "smoothing": 0.1,
    "supernet": Training(epochs=50, rates=_LINEAR, weight_decay=1e-4),
    "training": Training(epochs=300, rates=_LINEAR, weight_decay=1e-4),
}

PRESETS: presets.Presets = MappingProxyType(
    {
        "digits": {
            "widths": (12, 24, 48),
            "batch_size": 64,
            "divisor": 2,
            "held_out": 400,
            "supernet": Training(epochs=20, rates=stepped(0.1), weight_decay=1e-4),
            "training": Training(epochs=20, rates=stepped(0.1), weight_decay=1e-4),
        },
        "cifar10-small": {
            "dataset": "cifar10",
            "limit": 10_000,
            "widths": (24, 48, 96),
            "batch_size": 64,
            "divisor": 4,
            "held_out": 1000,
            "keep_macs": (0.5,),
            "searches": ("greedy", "uniform"),
            "supernet": Training(epochs=5, rates=stepped(0.1), weight_decay=1e-4),
            "training": Training(epochs=15, rates=stepped(0.1), weight_decay=1e-4),
        },
        **{
            f"{model}-{dataset}": {"dataset": dataset, "model": model} | fields
            for dataset in ("cifar10", "cifar100")
            for model, fields in (
                ("resnet20", {"widths": (24, 48, 96), "divisor": 4}),
                ("resnet56", {"widths": (24, 48, 96), "divisor": 4}),
                ("vgg16", {"widths": (96, 192, 384, 768, 768)}),
            )
        },
        **{
            f"{model}-{dataset}": {"dataset": dataset, "model": f"{model}_cifar_wide", "widths": ()}
            | fields
            for dataset in ("cifar10", "cifar100")
            for model, fields in (
                ("mobilenet_v1", {}),
                ("mobilenet_v2", {"expansion": V2["expansion"]}),
            )
        },
        "mobilenet_v1-imagenet": _IMAGENET
        | {"model": "mobilenet_v1_wide", "keep_macs": (1.006, 0.572, 0.264)},
        "mobilenet_v2-imagenet": _IMAGENET
        | {"expansion": V2["expansion"]}
        | {"model": "mobilenet_v2_wide", "keep_macs": (1.679, 1.015, 0.689)},
        "mnasnet-imagenet": _IMAGENET
        | {
            "model": "mnasnet_wide",
            "expansion": (
                ("Inverted_*/Conv_0/kernel", 6),
                *((f"Inverted_{block}/Conv_0/kernel", 3) for block in range(1, 7)),
            ),
            "keep_macs": (1.692, 1.002, 0.691),
        },
        "resnet50-imagenet": _IMAGENET
        | {
            "model": "resnet50",
            "widths": (96, 192, 384, 768),
            "mobile": False,
            "batch_size": 256,
            "keep_macs": (0.734, 0.49, 0.245, 0.14),
            "supernet": Training(epochs=50, rates=((0.0, 0.1), (1.0, 0.0)), weight_decay=1e-4),
            "training": Training(
                epochs=100, rates=stepped(0.1, at=(0.3, 0.6, 0.9)), weight_decay=1e-4
            ),
        },
    }
)
"""Name -> what differs from the defaults of `Config`. Their models are supernets, of 1.5 times the
channels."""
