"""WDSR: super-resolution by residual blocks that are wide inside, with weight normalization."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class Wdsr(nn.Module):
    """A convolution, residual blocks, a convolution to `scale` x `scale` pixels, a global skip.

    A block widens the stream before its ReLU and narrows it after. Nothing else is nonlinear, and
    there is no BatchNorm: all kernels are normalized, and the branches start shorter the more there
    are.

    Source: Yu et al., Wide Activation for Efficient and Accurate Image Super-Resolution, 2018
    (WDSR-A); initial lengths of the kernels as in the code of a co-author,
    https://github.com/ychfan/wdsr. Deviation, for short trainings: the network starts as one that
    repeats every pixel, but for a little: so does the skip, and the last convolution is short.

    Attributes:
      widths: channels of the stream, and inside of the blocks.
      blocks: how many.
      scale: pixels of the output for one of the input, along height and along width.
    """

    widths: tuple[int, int] = (32, 128)
    blocks: int = 16
    scale: int = 2

    @property
    def reach(self) -> int:
        """Pixels beyond its own place that the network reads of the input."""
        return 2 * self.blocks + 2

    @nn.compact
    def __call__(self, x: jax.Array, inside: jax.Array | None = None) -> jax.Array:
        """Returns f32[n, scale * height, scale * width, c] of f32[n, height, width, c].

        With `inside`, f32[n, height, width, 1], 1 at the pixels of a picture and 0 beyond its
        edges, every convolution reads zeros there, as it does beyond the edges of its input: what
        comes of the picture is what comes of it alone.
        """
        conv, (stream, wide) = partial(_conv, inside), self.widths
        pixels = self.scale**2 * x.shape[-1]
        skip = conv(pixels, 5, x, kernel=_repeated)
        x = conv(stream, 3, x)
        for _ in range(self.blocks):
            y = nn.relu(conv(wide, 3, x, length=2.0))
            x = x + conv(stream, 3, y, length=1 / math.sqrt(self.blocks))
        return _shuffled(conv(pixels, 3, x, length=0.1) + skip, self.scale)


def _conv(
    inside: jax.Array | None,
    features: int,
    size: int,
    x: jax.Array,
    *,
    length: float = 1.0,
    kernel: nn.initializers.Initializer = nn.linear.default_kernel_init,
) -> jax.Array:
    """Returns a convolution of `x`, whose kernels start with that length and direction."""
    x = x if inside is None else x * inside
    conv = nn.Conv(features, (size, size), kernel_init=kernel)
    scale = nn.initializers.constant(length)
    return nn.WeightNorm(conv, scale_init=scale, variable_filter={"kernel"})(x)


def _repeated(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Returns a kernel that copies the color of its center to all pixels that come of it."""
    del key
    height, width, colors, features = shape
    copies = jnp.tile(jnp.eye(colors, dtype=dtype), features // colors)
    return jnp.zeros(shape, dtype).at[height // 2, width // 2].set(copies)


def _shuffled(x: jax.Array, scale: int) -> jax.Array:
    """Returns the channels as pixels: f32[n, h, w, scale^2 c] -> f32[n, scale h, scale w, c]."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height, width, scale, scale, channels // scale**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, scale * height, scale * width, -1)
