"""Layers that many networks of the zoo are made of; call them inside a compact method."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax

from zoo.zoo import Inputs, normal

IMAGES: Inputs = normal(8, 8, 3)
LARGER: Inputs = normal(12, 16, 3)

conv = partial(nn.Conv, use_bias=False)


def norm(x: jax.Array, train: bool) -> jax.Array:
    """BatchNorm."""
    return nn.BatchNorm(use_running_average=not train)(x)


def depthwise(x: jax.Array, strides: int = 1, size: int = 3, **options: Any) -> jax.Array:
    """A convolution of each channel by itself."""
    channels = x.shape[-1]
    layer = conv(channels, (size, size), strides, feature_group_count=channels, **options)
    return layer(x)


def pooled(x: jax.Array) -> jax.Array:
    """The five logits: the mean over the pixels, then the head."""
    return nn.Dense(5, name="head")(x.mean(axis=(1, 2)))


def ends(first: str = "Conv_0/kernel 2", head: str = "head/kernel 1") -> dict[str, list[str]]:
    """What is frozen in every network: the channels of the input, and the logits."""
    return {"axis of an input": [first], "axis of output": ["head/bias 0", head]}
