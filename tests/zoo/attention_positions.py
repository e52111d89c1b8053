"""Attention that knows positions: rotations, biases of distances, tables that are added.

A rotation mixes the two channels of a pair, so that only whole pairs can go. Where its table is a
constant, or computed from the size of the axis (`iota`), the frequency of a pair is its place in
the axis, and query and key dims are frozen; where it is a variable, they are pruned in pairs.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from zoo.attention import LONGER, TOKENS, attend
from zoo.zoo import Network, linen

OUTPUT = ["head/bias 0", "head/kernel 2"]
INPUTS = ["query/kernel 0", "key/kernel 0", "value/kernel 0"]


def halves(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates channel i with channel i + d / 2."""
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def rotate_half(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """As `halves`, by tables of all channels, as LLaMA is usually written."""
    cos, sin = (jnp.concatenate([table, table], axis=-1) for table in (cos, sin))
    half = x.shape[-1] // 2
    return x * cos + jnp.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sin


def complex_numbers(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """As `halves`, as one product of complex numbers."""
    half = x.shape[-1] // 2
    rotated = jax.lax.complex(x[..., :half], x[..., half:]) * jax.lax.complex(cos, sin)
    return jnp.concatenate([rotated.real, rotated.imag], axis=-1)


def pairs(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates channel 2 i with channel 2 i + 1."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


def strides(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """As `pairs`, by slices with a stride."""
    a, b = x[..., ::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


class Rotary(nn.Module):
    """Rotary embeddings; the frequencies are a variable, a constant, or computed."""

    rotate: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    frequencies: str = "variable"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        query, key = (nn.DenseGeneral((4, 10), name=name)(x) for name in ("query", "key"))
        value = nn.DenseGeneral((4, 6), name="value")(x)
        count = query.shape[-1] // 2
        match self.frequencies:
            case "variable":
                table = self.variable("tables", "frequencies", lambda: geometric(5)).value
            case "constant":
                table = 100.0 ** (-np.arange(5) / 5)
            case _:
                table = geometric(count)
        angles = (jnp.arange(x.shape[1])[:, None] * table[None])[None, :, None]
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        y = attend(self.rotate(query, cos, sin), self.rotate(key, cos, sin), value)
        return nn.DenseGeneral(3, axis=(-2, -1), name="head")(y)


def geometric(pairs: int) -> jax.Array:
    """Returns the frequency of each pair."""
    return 100.0 ** (-jnp.arange(pairs) / pairs)


def rotary(rotate: Any, axis: str = "2", frozen: dict[str, Any] | None = None) -> Network:
    """Returns a network of `Rotary` with the frequencies in a variable."""
    return linen(
        f"Rotary {rotate.__name__}",
        Rotary(rotate),
        TOKENS,
        elsewhere=LONGER,
        groups={"key/kernel[1]": 4, f"key/kernel[{axis}]": 5, "value/kernel[2]": 6},
        frozen={"axis of an input": INPUTS, "axis of output": OUTPUT, **(frozen or {})},
    )


class Biased(nn.Module):
    """A bias for every head and distance: learned for each (T5), or linear in it (ALiBi)."""

    slopes: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        query, key, value = (
            nn.DenseGeneral((4, 5), name=name)(x) for name in ("query", "key", "value")
        )
        place = jnp.arange(x.shape[1])
        distance = place[None, :] - place[:, None]
        if self.slopes == "buckets":
            buckets = jnp.clip(distance, -3, 3) + 3
            bias = nn.Embed(7, 4, name="bias")(buckets).transpose(2, 0, 1)
        elif self.slopes == "variable":
            slopes = self.variable("tables", "slopes", lambda: 0.5 ** jnp.arange(4.0)).value
            bias = -slopes[:, None, None] * jnp.abs(distance)[None]
        else:
            bias = -(0.5 ** jnp.arange(query.shape[2]))[:, None, None] * jnp.abs(distance)[None]
        y = attend(query, key, value, bias=bias[None])
        return nn.DenseGeneral(3, axis=(-2, -1), name="head")(y)


class Positions(nn.Module):
    """A table of positions that is added to embeddings: learned, or sines of a given size."""

    learned: bool

    @nn.compact
    def __call__(self, ids: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        x = nn.Embed(11, 8, name="tokens")(ids)
        if self.learned:
            x = x + self.param("positions", nn.initializers.normal(), (9, 8))[None, : ids.shape[1]]
        else:
            angles = jnp.arange(ids.shape[1])[:, None] * geometric(x.shape[-1] // 2)[None]
            x = x + jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[None]
        x = x + nn.Dense(x.shape[-1], name="down")(nn.gelu(nn.Dense(12, name="up")(x)))
        return nn.Dense(3, name="head")(x)


def ids(length: int, batch: int) -> tuple[np.ndarray, ...]:
    """Returns a batch of token numbers below 11."""
    return (np.random.default_rng(3).integers(11, size=(batch, length)),)


QUERY_DIMS = ["query/kernel 2", "query/bias 1", "key/kernel 2", "key/bias 1"]
HEADS = [f"{name}/{leaf}" for name in ("query", "key", "value") for leaf in ("kernel 1", "bias 0")]


def biased(slopes: str, groups: Mapping[str, int], frozen: dict[str, Any]) -> Network:
    """Returns a network of `Biased`."""
    return linen(
        f"Biased {slopes}",
        Biased(slopes),
        TOKENS,
        elsewhere=LONGER,
        groups=groups,
        frozen={"axis of an input": INPUTS, "axis of output": OUTPUT, **frozen},
    )


def computed(rotate: Any, frequencies: str, why: str) -> Network:
    """Returns a network of `Rotary` whose query and key dims are frozen, unlike its heads."""
    return linen(
        f"Rotary {frequencies} {rotate.__name__}",
        Rotary(rotate, frequencies),
        TOKENS,
        elsewhere=LONGER,
        groups={"key/kernel": 4, "value/kernel[2]": 6},
        frozen={"axis of an input": INPUTS, "axis of output": OUTPUT, why: QUERY_DIMS},
    )


DIMS = {"key/kernel[2]": 5, "value/kernel[2]": 5}

NETWORKS: tuple[Network, ...] = (
    rotary(halves),
    rotary(rotate_half),
    rotary(complex_numbers),
    rotary(pairs),
    rotary(strides, "2.0", {"every 2": QUERY_DIMS}),  # the two of a pair
    computed(halves, "computed", "counted by iota"),
    computed(pairs, "computed", "counted by iota"),
    computed(pairs, "constant", "constant of the function"),
    biased("buckets", DIMS | {"bias/embedding": 4}, {"indexed by gather": ["bias/embedding 0"]}),
    biased("variable", DIMS | {"key/kernel[1]": 4}, {}),
    biased(
        "computed",
        {"key/kernel": 5, "value/kernel": 5},
        {"counted by iota": [*HEADS, "head/kernel 0"]},
    ),
    linen(
        "Positions learned",
        Positions(True),
        partial(ids, 9),
        groups={"down/kernel": 8, "up/kernel": 12},
        frozen={
            "indexed by gather": ["tokens/embedding 0"],
            "axis of an input": ["positions 0"],
            "axis of output": ["head/bias 0", "head/kernel 1"],
        },
    ),
    linen(
        "Positions computed",
        Positions(False),
        partial(ids, 5),
        elsewhere=partial(ids, 9),
        groups={"up/kernel": 12},
        frozen={
            "indexed by gather": ["tokens/embedding 0"],
            "counted by iota": [
                "tokens/embedding 1",
                "up/kernel 0",
                "down/kernel 1",
                "down/bias 0",
                "head/kernel 0",
            ],
            "axis of output": ["head/bias 0", "head/kernel 1"],
        },
    ),
)
