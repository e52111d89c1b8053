"""A small residual convolutional network with BatchNorm."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

_HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ConvNet(nn.Module):
    """One stage per width: convolution, residual block, and pooling between the stages.

    Initialized as in Network Slimming: scales of BatchNorm 0.5, convolutions He-normal by fan-out.

    Attributes:
      widths: channels of each stage.
      classes: number of logits.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns logits, f32[batch, classes], of images f32[batch, height, width, channels]."""
        conv = partial(nn.Conv, kernel_size=(3, 3), use_bias=False, kernel_init=_HE_NORMAL)
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            scale_init=nn.initializers.constant(0.5),
        )
        for stage, width in enumerate(self.widths):
            if stage > 0:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            x = nn.relu(norm()(conv(width)(x)))
            y = nn.relu(norm()(conv(width)(x)))
            x = nn.relu(x + norm()(conv(width)(y)))
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))
