"""ResNet of bottlenecks for ImageNet, such as ResNet-50."""

import jax
from flax import linen as nn

from experiments.models import layers

EXPANSION = 4
"""Channels of the stream for one of the bottleneck."""


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; ReLU comes after the addition."""

    width: int
    stride: int
    project: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns f32[n, h / stride, w / stride, EXPANSION * width]."""
        wide = EXPANSION * self.width
        y = nn.relu(layers.normed(x, self.width, 1, train=train))
        y = nn.relu(layers.normed(y, self.width, 3, train=train, stride=self.stride))
        y = layers.normed(y, wide, 1, train=train)
        if self.project:
            x = layers.normed(x, wide, 1, train=train, stride=self.stride)
        return nn.relu(x + y)


class BottleneckResNet(nn.Module):
    """A 7x7 convolution, pooling, stages of bottlenecks, and the mean.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, table 1, in the form of
    the code of Slimmable Neural Networks, `models/s_resnet.py`: the stride is that of the 3x3
    convolution.

    Attributes:
      blocks: bottlenecks in each stage.
      widths: channels of the bottlenecks of each stage; the stream has four times as many, and the
        first convolution as many as the first stage.
      classes: number of logits.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits, f32[batch, classes], of images f32[batch, height, width, channels].

        Raises:
          ValueError: `blocks` and `widths` are about different numbers of stages.
        """
        layers.check_stages(blocks=self.blocks, widths=self.widths)
        x = nn.relu(layers.normed(x, self.widths[0], 7, train=train, stride=2))
        x = layers.halved(x, nn.max_pool)
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                x = Bottleneck(width, stride, project=block == 0)(x, train=train)
        return layers.classify(x, self.classes)
