"""Plain Flax models; none of them knows about pruning."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from flax import linen as nn
from jax.sharding import PartitionSpec

from experiments.models import decoder
from experiments.models.alexnet import AlexNet as AlexNet
from experiments.models.bottleneck_resnet import BottleneckResNet as BottleneckResNet
from experiments.models.convnet import ConvNet as ConvNet
from experiments.models.decoder import Decoder as Decoder
from experiments.models.densenet import DenseNet as DenseNet
from experiments.models.lenet import LeNet as LeNet
from experiments.models.mlp import Mlp as Mlp
from experiments.models.mobilenet import MobileNet as MobileNet
from experiments.models.mobilenet import mnasnet as mnasnet
from experiments.models.mobilenet import mobilenet_v1 as mobilenet_v1
from experiments.models.mobilenet import mobilenet_v1_cifar as mobilenet_v1_cifar
from experiments.models.mobilenet import mobilenet_v2 as mobilenet_v2
from experiments.models.mobilenet import mobilenet_v2_cifar as mobilenet_v2_cifar
from experiments.models.mobilenet import widened as widened
from experiments.models.preactsenet import PreActSENet as PreActSENet
from experiments.models.preresnet import PreResNet as PreResNet
from experiments.models.resnet import ResNet as ResNet
from experiments.models.resnet import projection as projection
from experiments.models.resnet import zero_padding as zero_padding
from experiments.models.shufflenet import ShuffleNet as ShuffleNet
from experiments.models.shufflenet import appended as appended
from experiments.models.shufflenet import appended_in_groups as appended_in_groups
from experiments.models.vgg import Vgg as Vgg

_RESNETS = (20, 32, 56, 110)

MOBILE = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v1_cifar": mobilenet_v1_cifar,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v2_cifar": mobilenet_v2_cifar,
    "mnasnet": mnasnet,
}

MODELS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "alexnet": AlexNet,
        "cifarnet": partial(LeNet, widths=(64, 64), hidden=(384, 192), padding=2),
        "convnet": ConvNet,
        "decoder": Decoder,
        "lenet5": LeNet,
        "mlp": Mlp,
        "preactsenet18": PreActSENet,
        "vgg11": partial(Vgg, layers=(1, 1, 2, 2, 2)),
        "vgg16": partial(Vgg, layers=(2, 2, 3, 3, 3)),
        "vgg19": partial(Vgg, layers=(2, 2, 4, 4, 4)),
        "vgga": partial(Vgg, layers=(1, 1, 2, 2, 2), hidden=(4096, 4096)),
        **{f"resnet{depth}": partial(ResNet, depth=depth) for depth in _RESNETS},
        **{
            f"resnet{depth}_padded": partial(ResNet, depth=depth, shortcut=zero_padding)
            for depth in _RESNETS
        },
        "preresnet164": partial(PreResNet, depth=164),
        "densenet40": partial(DenseNet, depth=40),
        **MOBILE,
        **{f"{name}_wide": widened(model, 1.5) for name, model in MOBILE.items()},
        "resnet50": partial(BottleneckResNet, blocks=(3, 4, 6, 3)),
        "shufflenet": ShuffleNet,
        "shufflenet_aligned": partial(
            ShuffleNet, widths=(24, 252, 504, 1008), join=appended_in_groups
        ),
    }
)

DIVIDED: Mapping[str, Mapping[str, PartitionSpec]] = MappingProxyType({"decoder": decoder.DIVIDED})
"""Name -> {end of the path of a variable, a pattern: how it is divided along the axis `model`}."""


def build(name: str, **fields: object) -> nn.Module:
    """Returns the model of that name, with other values for some of its fields.

    Raises:
      ValueError: there is no such model, or it has no such field.
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}.\nFix: one of {sorted(MODELS)}.")
    model = MODELS[name]
    known = inspect.signature(model).parameters.keys() - {"parent", "name"}
    if unknown := sorted(fields.keys() - known):
        raise ValueError(f"model {name!r} has no field {unknown}.\nFix: one of {sorted(known)}.")
    return model(**fields)
