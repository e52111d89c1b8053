"""AlexNet: five convolutions and three Dense layers for ImageNet."""

import jax
from flax import linen as nn

from experiments.models import layers
from experiments.models.mlp import Mlp

POOLED = (0, 1, 4)
"""Convolutions that a pooling follows."""


class AlexNet(nn.Module):
    """Convolutions of 11x11, 5x5 and 3x3 pixels with ReLU; the map goes flat into Dense layers.

    Images of 224x224 leave a map of 6x6; they need 63 pixels in height and width. Without `norm` it
    has the sizes of the source; `Mlp` says what the norm is for.

    Source: Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014, in
    the form of torchvision, `models/alexnet.py`, without its dropout.

    Attributes:
      widths: channels of each convolution.
      hidden: units of each hidden Dense layer.
      classes: number of logits.
      norm: makes what normalizes every layer but the last; None leaves the layers as they are.
    """

    widths: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256)
    hidden: tuple[int, ...] = (4096, 4096)
    classes: int = 1000
    norm: layers.Norm | None = layers.norm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits, f32[batch, classes], of images f32[batch, height, width, channels]."""
        for place, width in enumerate(self.widths):
            bias = self.norm is None
            if place == 0:
                x = layers.conv(width, 11, stride=4, padding=2, use_bias=bias)(x)
            else:
                x = layers.conv(width, 5 if place == 1 else 3, use_bias=bias)(x)
            x = layers.activated(x, self.norm, train=train)
            if place in POOLED:
                x = nn.max_pool(x, (3, 3), strides=(2, 2))
        return Mlp(self.hidden, self.classes, self.norm)(x, train=train)
