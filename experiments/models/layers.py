"""The layers that the networks share, with the initial values of Network Slimming.

Source: the authors' code, https://github.com/Eric-mingjie/network-slimming, `models/`. Its ResNet
and DenseNet leave the classifier at the default of PyTorch; here every classifier starts as the one
of its VGG does. Slimmable networks start their scales of BatchNorm at 1 and all else as these do:
https://github.com/JiahuiYu/slimmable_networks, `models/`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

Norm = Callable[[bool], nn.Module]
"""Whether the network trains -> a normalization layer."""

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""N(0, 2 / (height * width * features)), not truncated."""


def conv(
    features: int,
    size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    padding: int | None = None,
    use_bias: bool = False,
) -> nn.Conv:
    """Returns a square convolution, by default padded by half its size on every side."""
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=size // 2 if padding is None else padding,
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=HE_NORMAL,
    )


def norm(train: bool, *, scale: float = 0.5) -> nn.BatchNorm:
    """Returns a BatchNorm of that initial scale; it uses its running statistics unless `train`."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        scale_init=nn.initializers.constant(scale),
    )


def activated(x: jax.Array, norm: Norm | None, *, train: bool) -> jax.Array:
    """Returns ReLU of what a layer gives, which is normalized before if there is a norm."""
    return nn.relu(x if norm is None else norm(train)(x))


def normed(
    x: jax.Array, features: int, size: int, *, train: bool, stride: int = 1, groups: int = 1
) -> jax.Array:
    """Returns f32[n, h / stride, w / stride, features]: BatchNorm, scale 1, of a convolution."""
    return norm(train, scale=1.0)(conv(features, size, stride=stride, groups=groups)(x))


def depthwise(x: jax.Array, size: int, *, train: bool, stride: int = 1) -> jax.Array:
    """Returns f32[n, h / stride, w / stride, channels], of every channel by itself; as `normed`."""
    channels = x.shape[-1]
    return normed(x, channels, size, train=train, stride=stride, groups=channels)


def halved(x: jax.Array, pool: Callable[..., jax.Array]) -> jax.Array:
    """Returns f32[n, h / 2, w / 2, channels], `nn.max_pool` or `nn.avg_pool` of 3x3 pixels."""
    return pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def dense(features: int, *, use_bias: bool = True) -> nn.Dense:
    """Returns a Dense layer with weights from N(0, 0.01^2) and bias 0."""
    return nn.Dense(features, use_bias=use_bias, kernel_init=nn.initializers.normal(0.01))


def classify(x: jax.Array, classes: int) -> jax.Array:
    """Returns logits, f32[n, classes], of the mean over all positions of f32[n, h, w, channels]."""
    return dense(classes)(jnp.mean(x, axis=(1, 2)))


def check_stages(**fields: tuple[int, ...]) -> None:
    """Raises ValueError where two fields, an entry for each stage, are of different lengths."""
    (name, given), (other, widths) = fields.items()
    if len(given) != len(widths):
        raise ValueError(
            f"{name} {given} has {len(given)} stages, {other} {widths} has {len(widths)}.\n"
            "Fix: one entry for each stage in both."
        )


def repeats(depth: int, *, each: int, rest: int) -> int:
    """Returns the n of a network of `depth` = `each` * n + `rest` layers.

    Raises:
      ValueError: there is no such n of 1 or more.
    """
    n, remainder = divmod(depth - rest, each)
    if remainder or n < 1:
        raise ValueError(
            f"depth {depth} is not {each} n + {rest} for any n from 1.\n"
            f"Fix: a depth of {', '.join(str(each * k + rest) for k in (1, 2, 3))}, ..."
        )
    return n
