"""MobileNet v1, MobileNet v2 and MnasNet: stages of depthwise and 1x1 convolutions."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
from flax import linen as nn

from experiments.models import layers


class Stage(NamedTuple):
    """The blocks of one width.

    Attributes:
      blocks: how many.
      expansion: channels inside of a block for one of its input; None is the block of MobileNet v1.
      size: height and width of the depthwise kernels.
    """

    blocks: int
    expansion: int | None = None
    size: int = 3


class Separable(nn.Module):
    """A depthwise and a 1x1 convolution, BatchNorm and ReLU6 after each."""

    width: int
    stride: int
    size: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns f32[n, h / stride, w / stride, width]."""
        x = nn.relu6(layers.depthwise(x, self.size, train=train, stride=self.stride))
        return nn.relu6(layers.normed(x, self.width, 1, train=train))


class Inverted(nn.Module):
    """An inverted residual: 1x1 to many channels, depthwise, and 1x1 to few without activation.

    An expansion of 1 leaves the first convolution out.
    """

    width: int
    stride: int
    expansion: int
    size: int
    shortcut: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns f32[n, h / stride, w / stride, width]."""
        y = x
        if self.expansion != 1:
            y = nn.relu6(layers.normed(y, self.expansion * x.shape[-1], 1, train=train))
        y = nn.relu6(layers.depthwise(y, self.size, train=train, stride=self.stride))
        y = layers.normed(y, self.width, 1, train=train)
        return x + y if self.shortcut else y


class MobileNet(nn.Module):
    """A 3x3 convolution, stages of blocks, one more 1x1 convolution or none, and the mean.

    All blocks of a stage but the first have stride 1 and, if inverted, a shortcut.

    Source: Howard et al., MobileNets, 2017, table 1; Sandler et al., MobileNetV2, 2018, table 2;
    Tan et al., MnasNet, 2019; all in the form of the code of Slimmable Neural Networks, 2019, and
    of AutoSlim, 2019, `models/`: ReLU6 everywhere and no dropout. MobileNet v1 and MnasNet have
    ReLU in their papers. This MnasNet is without squeeze and excitation.

    Attributes:
      stages: what the blocks of each stage are.
      widths: channels of the first convolution and of each stage.
      strides: of the first convolution and of the first block of each stage.
      classes: number of logits.
      last: channels of the 1x1 convolution after the stages, None for no such convolution.
    """

    stages: tuple[Stage, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    classes: int = 1000
    last: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits, f32[batch, classes], of images f32[batch, height, width, channels].

        Raises:
          ValueError: `stages`, `widths` and `strides` are about different numbers of stages.
        """
        self._check()
        x = nn.relu6(layers.normed(x, self.widths[0], 3, train=train, stride=self.strides[0]))
        for stage, width, first in zip(self.stages, self.widths[1:], self.strides[1:], strict=True):
            for block in range(stage.blocks):
                stride = first if block == 0 else 1
                if stage.expansion is None:
                    module = Separable(width, stride, stage.size)
                else:
                    module = Inverted(width, stride, stage.expansion, stage.size, block > 0)
                x = module(x, train=train)
        if self.last is not None:
            x = nn.relu6(layers.normed(x, self.last, 1, train=train))
        return layers.classify(x, self.classes)

    def _check(self) -> None:
        count = 1 + len(self.stages)
        if not count == len(self.widths) == len(self.strides):
            raise ValueError(
                f"{len(self.stages)} stages, but widths {self.widths} and strides {self.strides}.\n"
                f"Fix: {count} of each, one for the first convolution and one for each stage."
            )


mobilenet_v1 = partial(
    MobileNet,
    stages=(Stage(1), Stage(2), Stage(2), Stage(6), Stage(2)),
    widths=(32, 64, 128, 256, 512, 1024),
    strides=(2, 1, 2, 2, 2, 2),
)
mobilenet_v2 = partial(
    MobileNet,
    stages=(
        Stage(1, 1),
        Stage(2, 6),
        Stage(3, 6),
        Stage(4, 6),
        Stage(3, 6),
        Stage(3, 6),
        Stage(1, 6),
    ),
    widths=(32, 16, 24, 32, 64, 96, 160, 320),
    strides=(2, 1, 2, 2, 2, 1, 2, 1),
    last=1280,
)
mnasnet = partial(
    MobileNet,
    stages=(
        Stage(1, 1),
        Stage(3, 3),
        Stage(3, 3, 5),
        Stage(3, 6, 5),
        Stage(2, 6),
        Stage(4, 6, 5),
        Stage(1, 6),
    ),
    widths=(32, 16, 24, 40, 80, 96, 192, 320),
    strides=(2, 1, 2, 2, 2, 1, 2, 1),
    last=1280,
)

# For images of 32x32, with the strides of https://github.com/kuangliu/pytorch-cifar, `models/`. Its
# MobileNet v2 has ReLU, an expansion of 1 that convolves, and shortcuts that convolve; not this.
mobilenet_v1_cifar = partial(mobilenet_v1, strides=(1, 1, 2, 2, 2, 2), classes=10)
mobilenet_v2_cifar = partial(mobilenet_v2, strides=(1, 1, 1, 2, 2, 1, 2, 1), classes=10)


def widened(model: Callable[..., MobileNet], factor: float) -> Callable[..., MobileNet]:
    """Returns one of these with so many times the channels, also in its last convolution."""
    fields = inspect.signature(model).parameters
    widths = tuple(round(factor * width) for width in fields["widths"].default)
    last = fields["last"].default
    return partial(model, widths=widths, last=last and round(factor * last))
