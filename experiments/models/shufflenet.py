"""ShuffleNet v1: grouped 1x1 convolutions, with their channels shuffled between."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.models import layers

BOTTLENECK = 4
"""Channels of a unit's output for one of its bottleneck."""

Join = Callable[[jax.Array, jax.Array, int], jax.Array]
"""Output of the convolutions, pooled input, number of groups -> both, one beside the other."""


def appended(y: jax.Array, short: jax.Array, groups: int) -> jax.Array:  # noqa: ARG001
    """Returns the channels of `y`, then those of `short`."""
    return jnp.concatenate([y, short], axis=-1)


def appended_in_groups(y: jax.Array, short: jax.Array, groups: int) -> jax.Array:
    """Returns for every group its channels of `y`, then those of `short`.

    With it the next grouped convolution reads whole groups of both.
    """
    joined = jnp.concatenate([_grouped(y, groups), _grouped(short, groups)], axis=-1)
    return joined.reshape(*joined.shape[:-2], -1)


def shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Returns the channels in another order: the first of every group, the second of every, ..."""
    return _grouped(x, groups).swapaxes(-1, -2).reshape(x.shape)


def _grouped(x: jax.Array, groups: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


class Unit(nn.Module):
    """Grouped 1x1, depthwise and grouped 1x1 convolutions, with a shuffle after the first.

    The input is added, or with stride 2 pooled and joined, so that both have `width` channels.
    """

    width: int
    groups: int
    stride: int
    first_groups: int
    join: Join

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns f32[n, h / stride, w / stride, width]."""
        inner = self.width // BOTTLENECK
        y = nn.relu(layers.normed(x, inner, 1, train=train, groups=self.first_groups))
        y = layers.depthwise(shuffle(y, self.groups), 3, train=train, stride=self.stride)
        if self.stride == 1:
            return nn.relu(x + layers.normed(y, self.width, 1, train=train, groups=self.groups))
        rest = self.width - x.shape[-1]
        y = nn.relu(layers.normed(y, rest, 1, train=train, groups=self.groups))
        return self.join(y, layers.halved(x, nn.avg_pool), self.groups)


class ShuffleNet(nn.Module):
    """A 3x3 convolution, pooling, stages of units of which the first halves the map, and the mean.

    Source: Zhang et al., ShuffleNet, 2018, table 1, in the form of the code of Slimmable Neural
    Networks, `models/s_shufflenet.py`. There every group has a convolution of its own, which starts
    with weights sqrt(groups) larger, and a narrow network deals its channels to the groups anew, so
    that a weight reads another channel than in the wide network. Here a channel keeps its place,
    and fewer widths are possible. The first pooling is padded, to the 56 pixels of the paper.

    With the paper's widths and 3 groups, no channels but those of the first convolution can go:
    neither a shuffle nor `appended` deals out whole groups. With `appended_in_groups` the channels
    that units add to can go, and with widths that are multiples of 4 * groups ** 2, such as 252,
    504 and 1008, those inside of units.

    Attributes:
      groups: of the 1x1 convolutions, all but the first.
      blocks: units in each stage.
      widths: channels of the first convolution and of each stage.
      classes: number of logits.
      join: `appended` or `appended_in_groups`, where the stride of a unit is 2.
    """

    groups: int = 3
    blocks: tuple[int, ...] = (4, 8, 4)
    widths: tuple[int, ...] = (24, 240, 480, 960)
    classes: int = 1000
    join: Join = appended

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits, f32[batch, classes], of images f32[batch, height, width, channels].

        Raises:
          ValueError: `blocks`, `widths` and `groups` do not fit each other.
        """
        self._check()
        x = nn.relu(layers.normed(x, self.widths[0], 3, train=train, stride=2))
        x = layers.halved(x, nn.max_pool)
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths[1:], strict=True)):
            for unit in range(count):
                stride = 2 if unit == 0 else 1
                first = 1 if stage == unit == 0 else self.groups
                x = Unit(width, self.groups, stride, first, self.join)(x, train=train)
        return layers.classify(x, self.classes)

    def _check(self) -> None:
        stem, *widths = self.widths
        each = BOTTLENECK * self.groups
        bad = []
        if len(self.blocks) != len(widths):
            bad.append(f"blocks {self.blocks} has {len(self.blocks)} stages, widths {self.widths}")
        if stem % self.groups or any(width % each for width in widths):
            bad.append(f"widths {self.widths} do not divide into {self.groups} groups")
        if sorted({*self.widths}) != [*self.widths]:
            bad.append(f"widths {self.widths} do not rise, so no channels are left to join")
        if bad:
            fix = f"Fix: rising widths, the first a multiple of {self.groups}, then one of {each}"
            raise ValueError("\n".join([*bad, f"{fix} for each stage."]))
