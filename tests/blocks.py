"""The blocks that the networks of the tests are built of: plain Linen code in frozen values.

A block is called inside a module's compact method and makes its Linen layers there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp


class Block(Protocol):
    """One step of a network."""

    def __call__(self, x: jax.Array, train: bool, /) -> jax.Array: ...


Blocks = tuple[Block, ...]


def run(blocks: Blocks, x: jax.Array, train: bool) -> jax.Array:
    """Returns `x` after all `blocks`."""
    for block in blocks:
        x = block(x, train)
    return x


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """3x3 convolution."""

    features: int
    bias: bool = True

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        return nn.Conv(self.features, (3, 3), use_bias=self.bias)(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Depthwise:
    """3x3 convolution of each channel by itself, to `multiplier` channels."""

    multiplier: int = 1
    bias: bool = True

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        channels = x.shape[-1]
        return nn.Conv(
            channels * self.multiplier,
            (3, 3),
            feature_group_count=channels,
            use_bias=self.bias,
        )(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouped:
    """3x3 convolution in `groups` groups."""

    features: int
    groups: int = 2
    bias: bool = True

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        return nn.Conv(self.features, (3, 3), feature_group_count=self.groups, use_bias=self.bias)(
            x
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A Dense layer on the channels."""

    features: int

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        return nn.Dense(self.features)(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """BatchNorm."""

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorm:
    """LayerNorm of the channels of every pixel."""

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        return nn.LayerNorm()(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class RMSNorm:
    """RMSNorm of the channels of every pixel."""

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        return nn.RMSNorm()(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupNorm:
    """GroupNorm of the channels in `groups` groups."""

    groups: int = 2

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        return nn.GroupNorm(num_groups=self.groups)(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """An elementwise function."""

    function: Callable[[jax.Array], jax.Array]

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        return self.function(x)

    def __repr__(self) -> str:
        return f"Activation(function=nn.{getattr(self.function, '__name__', '?')})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """`x + body(x)`, where a 1x1 convolution to `project` channels may stand before the sum."""

    body: Blocks
    project: int | None = None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shortcut = x
        if self.project is not None:
            shortcut = nn.Conv(self.project, (1, 1), use_bias=False)(x)
        return shortcut + run(self.body, x, train)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concatenate:
    """`x` and `body(x)` side by side, as in a DenseNet."""

    body: Blocks

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return jnp.concatenate([x, run(self.body, x, train)], axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """Two 1x1 convolutions of `x` side by side, as in an Inception block."""

    left: int
    right: int

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        sides = [nn.Conv(features, (1, 1))(x) for features in (self.left, self.right)]
        return jnp.concatenate(sides, axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class UNet:
    """`x` beside `body` of a smaller image, enlarged again: a skip over all of `body`."""

    body: Blocks

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        small = run(self.body, nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME"), train)
        shape = (*x.shape[:-1], small.shape[-1])
        return jnp.concatenate([x, jax.image.resize(small, shape, "nearest")], axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """One Dense layer or 3x3 convolution, called twice."""

    dense: bool = False

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        channels = x.shape[-1]
        layer = nn.Dense(channels) if self.dense else nn.Conv(channels, (3, 3))
        return layer(nn.relu(layer(x)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropout:
    """Dropout in train mode: of entries, or `whole`, of a channel of all examples."""

    whole: bool = False

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        alike = (0, *range(1, x.ndim - 1)) if self.whole else ()
        return nn.Dropout(0.3, broadcast_dims=alike, deterministic=not train)(x)


class Layer(nn.Module):
    """One layer of a stack."""

    body: Blocks
    train: bool

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        """Returns the stream after the layer, and nothing else."""
        return run(self.body, x, self.train), None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacked:
    """`layers` times `body`, with weights of their own, under `nn.scan`."""

    body: Blocks
    layers: int = 2

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        stack = nn.scan(
            Layer,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.layers,
        )
        return stack(self.body, train)(x, None)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Two halves of the channels, each through its own blocks, side by side again."""

    left: Blocks
    right: Blocks = ()

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        left, right = jnp.split(x, 2, axis=-1)
        left, right = run(self.left, left, train), run(self.right, right, train)
        return jnp.concatenate([left, right], axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shuffle:
    """The channel shuffle that follows a convolution in `groups` groups."""

    groups: int = 2

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        grouped = x.reshape(*x.shape[:-1], self.groups, x.shape[-1] // self.groups)
        return grouped.swapaxes(-1, -2).reshape(x.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The maximum or the mean of every `window` x `window` pixels, at every `stride`-th."""

    function: Callable[..., jax.Array] = nn.max_pool
    window: int = 2
    stride: int = 2

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        window, strides = (self.window, self.window), (self.stride, self.stride)
        return self.function(x, window, strides=strides, padding="SAME")

    def __repr__(self) -> str:
        name = f"nn.{getattr(self.function, '__name__', '?')}"
        return f"Pool(function={name}, window={self.window}, stride={self.stride})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SqueezeExcite:
    """`x` times a gate per channel, computed from the mean over the pixels."""

    hidden: int

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        gate = nn.relu(nn.Dense(self.hidden)(x.mean(axis=(1, 2), keepdims=True)))
        return x * nn.sigmoid(nn.Dense(x.shape[-1])(gate))


@dataclass(frozen=True, slots=True, kw_only=True)
class SwiGLU:
    """The gated hidden layer of today's transformers."""

    hidden: int
    features: int

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        gate, value = nn.Dense(self.hidden)(x), nn.Dense(self.hidden)(x)
        return nn.Dense(self.features)(nn.silu(gate) * value)


def energy(x: jax.Array, axis: int, keepdims: bool) -> jax.Array:
    """Returns the inner product of the channels with themselves."""
    return jnp.expand_dims(jnp.einsum("...c,...c->...", x, x), axis if keepdims else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialGate:
    """`x` times a gate per pixel: the sum, the maximum or the energy of its channels."""

    reduce: Callable[..., jax.Array] = jnp.max

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        return x * nn.sigmoid(nn.Conv(1, (3, 3))(self.reduce(x, axis=-1, keepdims=True)))

    def __repr__(self) -> str:
        return f"SpatialGate(reduce={getattr(self.reduce, '__name__', '?')})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flatten:
    """Images to vectors, channels fastest."""

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        return x.reshape(x.shape[0], -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalPool:
    """Images to vectors, by the mean over the pixels."""

    def __call__(self, x: jax.Array, _train: bool) -> jax.Array:
        return x.mean(axis=(1, 2))
