"""A small one-stage detector: a backbone, a neck that merges its last two stages, a head."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.models import layers

PRIOR = 0.01
"""The probability of an object that the head starts with, at every place."""


class Backbone(nn.Module):
    """Stages of two 3x3 convolutions with BatchNorm, each at half the resolution of the one before.

    Attributes:
      widths: channels of each stage.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Returns what every stage gives, f32[n, h / 2^s, w / 2^s, widths[s - 1]]."""
        stages = []
        for width in self.widths:
            for stride in (2, 1):
                x = layers.conv(width, 3, stride=stride)(x)
                x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
            stages.append(x)
        return stages


class Classifier(nn.Module):
    """The backbone with a classifier, for its training before it detects.

    Attributes:
      widths: channels of each stage of the backbone.
      classes: number of logits.
    """

    widths: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits, f32[n, classes], of images f32[n, height, width, channels]."""
        stages = Backbone(self.widths, name="backbone")(x, train=train)
        return nn.Dense(self.classes)(stages[-1].mean(axis=(1, 2)))


class Neck(nn.Module):
    """Adds the last stage, enlarged, to the one before it; every stage first gets `width` channels.

    Source: Lin et al., Feature Pyramid Networks for Object Detection, CVPR 2017, one level of it.
    """

    width: int

    @nn.compact
    def __call__(self, fine: jax.Array, coarse: jax.Array) -> jax.Array:
        """Returns f32[n, h, w, width], of the height and width of `fine`."""
        y = nn.Conv(self.width, (1, 1), name="coarse")(coarse)
        y = y.repeat(2, axis=1).repeat(2, axis=2) + nn.Conv(self.width, (1, 1), name="fine")(fine)
        return nn.relu(nn.Conv(self.width, (3, 3), name="merged")(y))


class Head(nn.Module):
    """Says for every place which object is there, and how far it reaches in four directions.

    Source: Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, ICCV 2019, with one
    level, one convolution and no centerness.

    Attributes:
      width: channels of its convolution.
      classes: kinds of objects.
      stride: pixels between its places.
    """

    width: int
    classes: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns logits f32[n, h, w, classes] and boxes f32[n, h, w, 4].

        A box is top, left, bottom, right in pixels.
        """
        x = nn.relu(nn.Conv(self.width, (3, 3), name="tower")(x))
        bias = nn.initializers.constant(-math.log(1 / PRIOR - 1))
        small = nn.initializers.normal(0.01)
        logits = nn.Conv(self.classes, (3, 3), kernel_init=small, bias_init=bias, name="classes")(x)
        reach = nn.Conv(4, (3, 3), kernel_init=small, name="reach")(x)
        reach = self.stride * jnp.exp(reach)
        middle = centers(x.shape[1], x.shape[2], self.stride)[None]
        boxes = jnp.concatenate([middle - reach[..., :2], middle + reach[..., 2:]], axis=-1)
        return logits, boxes


class Trunk(nn.Module):
    """What every detector has: a backbone of at least two stages, the neck on the last two, a head.

    Attributes:
      widths: channels of each stage of the backbone.
      neck: channels of neck and head.
      classes: kinds of objects.
    """

    widths: tuple[int, ...]
    neck: int
    classes: int

    def located(
        self, x: jax.Array
    ) -> tuple[list[jax.Array], jax.Array, tuple[jax.Array, jax.Array]]:
        """Returns the stages before those of the neck, what the neck gives, logits and boxes.

        BatchNorm is in eval mode.
        """
        *before, fine, coarse = Backbone(self.widths, name="backbone")(x, train=False)
        merged = Neck(self.neck, name="neck")(fine, coarse)
        found = Head(self.neck, self.classes, self.stride, name="head")(merged)
        return before, merged, found

    @property
    def stride(self) -> int:
        """Pixels between the places of the head."""
        return 2 ** (len(self.widths) - 1)


class Detector(Trunk):
    """A detector of boxes."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns logits and boxes as the `Head`, of images f32[n, height, width, channels]."""
        return self.located(x)[-1]


def centers(height: int, width: int, stride: int) -> jax.Array:
    """Returns where the places of a head are, f32[height, width, 2]: row and column in pixels."""
    lines = ((jnp.arange(length) + 0.5) * stride for length in (height, width))
    return jnp.stack(jnp.meshgrid(*lines, indexing="ij"), axis=-1)
