"""Pre-activation ResNet with squeeze-and-excitation for CIFAR, such as PreActSENet-18."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.models import layers

REDUCTION = 16
"""Channels of a block for one that is squeezed."""


class Block(nn.Module):
    """Two 3x3 convolutions after BatchNorm and ReLU, scaled channel by channel, and a shortcut.

    The scale is between 0 and 1, from the means of all channels. The shortcut convolution of a
    block, `Conv_0` where there is one, reads what the first BatchNorm and ReLU make of the stream.
    """

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns f32[n, h / stride, w / stride, width]."""
        y = nn.relu(layers.norm(train, scale=1.0)(x))
        if self.stride > 1 or x.shape[-1] != self.width:
            x = layers.conv(self.width, 1, stride=self.stride)(y)
        y = layers.conv(self.width, 3, stride=self.stride)(y)
        y = layers.conv(self.width, 3)(nn.relu(layers.norm(train, scale=1.0)(y)))
        squeezed = nn.relu(layers.dense(self.width // REDUCTION)(jnp.mean(y, axis=(1, 2))))
        return x + y * nn.sigmoid(layers.dense(self.width)(squeezed))[:, None, None]


class PreActSENet(nn.Module):
    """A stem of one convolution with BatchNorm and ReLU, stages of blocks, and the mean.

    Source: Hu et al., Squeeze-and-Excitation Networks, 2018, on He et al., Identity Mappings in
    Deep Residual Networks, 2016, in the form of https://github.com/kuangliu/pytorch-cifar,
    `models/senet.py`, which has no BatchNorm after the last block.

    Attributes:
      blocks: in each stage.
      widths: channels of each stage.
      classes: number of logits.
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits, f32[batch, classes], of images f32[batch, height, width, channels].

        Raises:
          ValueError: `blocks` and `widths` are about different numbers of stages.
        """
        layers.check_stages(blocks=self.blocks, widths=self.widths)
        x = nn.relu(layers.normed(x, self.widths[0], 3, train=train))
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            for block in range(count):
                x = Block(width, 2 if stage > 0 and block == 0 else 1)(x, train=train)
        return layers.classify(x, self.classes)
