"""Attention and mixing over patches: what stands between a convolution and a classifier."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from zoo.attention import LONGER, TOKENS, attend
from zoo.zoo import Network, linen, normal


class Heads(nn.Module):
    """Multi-head attention of `x` to `memory`, scaled by no size."""

    heads: int = 4
    qk: int = 5
    v: int = 6

    @nn.compact
    def __call__(self, x: jax.Array, memory: jax.Array, bias: Any = 0.0) -> jax.Array:
        query = nn.DenseGeneral((self.heads, self.qk), name="query")(x)
        key = nn.DenseGeneral((self.heads, self.qk), name="key")(memory)
        value = nn.DenseGeneral((self.heads, self.v), name="value")(memory)
        y = attend(query, key, value, bias=bias)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), name="out")(y)


class Mlp(nn.Module):
    """Two layers back to the width of the input."""

    hidden: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(x.shape[-1], name="down")(nn.gelu(nn.Dense(self.hidden, name="up")(x)))


class ViT(nn.Module):
    """A vision transformer with a class token, learned positions, and dropout."""

    width: int = 8
    heads: int = 4
    qk: int = 5
    v: int = 6
    hidden: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.Conv(self.width, (2, 2), strides=(2, 2), name="patches")(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = self.param("token", nn.initializers.normal(), (1, 1, x.shape[-1]))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(), (1, *x.shape[1:]))
        x = nn.Dropout(0.1, deterministic=not train)(x)
        y = nn.LayerNorm(name="norm_0")(x)
        x = x + Heads(self.heads, self.qk, self.v, name="attention")(y, y)
        x = x + Mlp(self.hidden, name="mlp")(nn.LayerNorm(name="norm_1")(x))
        return nn.Dense(3, name="head")(nn.LayerNorm(name="norm")(x)[:, 0])


class Mixer(nn.Module):
    """MLP-Mixer: an MLP over tokens, whose hidden units are a group, and one over channels."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        x = nn.Conv(8, (2, 2), strides=(2, 2), name="patches")(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = x + Mlp(7, name="tokens")(x.swapaxes(1, 2)).swapaxes(1, 2)
        x = x + Mlp(name="channels")(x)
        return nn.Dense(3, name="head")(x.mean(axis=1))


class AttentionPooling(nn.Module):
    """A learned query that attends to all tokens (MAP), and an MLP behind it."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        x = nn.relu(nn.Dense(8, name="stem")(x))
        probe = self.param("probe", nn.initializers.normal(), (1, 1, 8))
        x = Heads(name="attention")(jnp.tile(probe, (x.shape[0], 1, 1)), x)
        x = x + Mlp(name="mlp")(x)
        return nn.Dense(3, name="head")(x[:, 0])


class Perceiver(nn.Module):
    """Learned latents, wider than the input, that read it; the output queries read them."""

    @nn.compact
    def __call__(self, x: jax.Array, queries: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        latents = self.param("latents", nn.initializers.normal(), (6, 9))
        y = jnp.broadcast_to(latents, (x.shape[0], *latents.shape))
        y = y + Heads(name="read")(y, nn.Dense(7, name="stem")(x))
        y = y + Heads(heads=3, name="think")(y, y)
        y = y + Mlp(name="mlp")(y)
        z = Heads(heads=2, name="write")(nn.Dense(5, name="queries")(queries), y)
        return nn.Dense(3, name="head")(nn.relu(z))


def points_and_queries(batch: int) -> tuple[np.ndarray, ...]:
    """Returns 11 points of four numbers, and four queries of two."""
    random = np.random.default_rng(4)
    return random.normal(size=(batch, 11, 4)), random.normal(size=(batch, 4, 2))


class Swin(nn.Module):
    """Attention in shifted windows of 2x2 patches, with a table of relative positions."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        x = nn.Conv(8, (2, 2), strides=(2, 2), name="patches")(x)
        place = np.stack(np.meshgrid(np.arange(2), np.arange(2), indexing="ij"), -1).reshape(4, 2)
        offset = place[:, None] - place[None] + 1
        table = self.param("table", nn.initializers.normal(), (9, 4))
        bias = table[offset[..., 0] * 3 + offset[..., 1]].transpose(2, 0, 1)[None]
        for i, shift in enumerate((0, 1)):
            y = windows(jnp.roll(x, (-shift, -shift), (1, 2)))
            y = Heads(name=f"attention_{i}")(y, y, bias)
            x = x + jnp.roll(whole(y, x.shape), (shift, shift), (1, 2))
            x = x + Mlp(name=f"mlp_{i}")(x)
        x = nn.Dense(7, use_bias=False, name="merge")(merged(x))
        return nn.Dense(3, name="head")(nn.relu(x).mean(axis=(1, 2)))


def windows(x: jax.Array) -> jax.Array:
    """Returns the windows of 2x2 patches as sequences of four tokens."""
    batch, height, width, features = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, features)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, features)


def whole(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns the image [batch, height, width, features] of its windows."""
    batch, height, width, features = shape
    x = x.reshape(batch, height // 2, width // 2, 2, 2, features)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def merged(x: jax.Array) -> jax.Array:
    """Returns four neighbors as the channels of one patch."""
    return jnp.concatenate(
        [x[:, ::2, ::2], x[:, 1::2, ::2], x[:, ::2, 1::2], x[:, 1::2, 1::2]], axis=-1
    )


OUTPUT = ["head/bias 0", "head/kernel 1"]

NETWORKS: tuple[Network, ...] = (
    linen(
        "ViT",
        ViT(),
        normal(4, 6, 3),
        native=lambda w: ViT(
            width=w["attention/out/kernel"],
            heads=w["attention/key/kernel[1]"],
            qk=w["attention/key/kernel[2]"],
            v=w["attention/value/kernel[2]"],
            hidden=w["mlp/up/kernel"],
        ),
        groups={
            "attention/key/kernel[1]": 4,
            "attention/key/kernel[2]": 5,
            "attention/out/kernel": 8,
            "attention/value/kernel[2]": 6,
            "mlp/up/kernel": 10,
        },
        frozen={
            "axis of an input": ["patches/kernel 2"],
            "spatial axis of a convolution": ["positions 1"],
            "axis of output": OUTPUT,
        },
    ),
    linen(
        "Mixer",
        Mixer(),
        normal(4, 6, 3),
        groups={"channels/down/kernel": 8, "channels/up/kernel": 10, "tokens/up/kernel": 7},
        frozen={
            "axis of an input": ["patches/kernel 2"],
            "spatial axis of a convolution": [
                "tokens/up/kernel 0",
                "tokens/down/kernel 1",
                "tokens/down/bias 0",
            ],
            "axis of output": OUTPUT,
        },
    ),
    linen(
        "AttentionPooling",
        AttentionPooling(),
        TOKENS,
        elsewhere=LONGER,
        groups={
            "attention/key/kernel[1]": 4,
            "attention/key/kernel[2]": 5,
            "attention/out/kernel": 8,
            "attention/query/kernel[0]": 8,
            "attention/value/kernel[2]": 6,
            "mlp/up/kernel": 10,
            "stem/kernel": 8,
        },
        frozen={"axis of an input": ["stem/kernel 0"], "axis of output": OUTPUT},
    ),
    linen(
        "Perceiver",
        Perceiver(),
        points_and_queries,
        groups={
            "latents": 6,
            "mlp/down/kernel": 9,
            "mlp/up/kernel": 10,
            "queries/kernel": 5,
            "read/key/kernel[1]": 4,
            "read/key/kernel[2]": 5,
            "read/value/kernel[2]": 6,
            "stem/kernel": 7,
            "think/key/kernel[1]": 3,
            "think/key/kernel[2]": 5,
            "think/value/kernel[2]": 6,
            "write/key/kernel[1]": 2,
            "write/key/kernel[2]": 5,
            "write/out/kernel": 5,
            "write/value/kernel[2]": 6,
        },
        frozen={
            "axis of an input": ["queries/kernel 0", "stem/kernel 0"],
            "axis of output": OUTPUT,
        },
        inexact={"latents": "at Perceiver/think: reduce_max: a zero is not neutral in it"},
    ),
    linen(
        "Swin",
        Swin(),
        normal(8, 8, 3),
        elsewhere=normal(16, 8, 3),
        groups={
            "attention_0/key/kernel[1]": 4,
            "attention_0/key/kernel[2]": 5,
            "attention_0/out/kernel": 8,
            "attention_0/value/kernel[2]": 6,
            "attention_1/key/kernel[2]": 5,
            "attention_1/value/kernel[2]": 6,
            "merge/kernel": 7,
            "mlp_0/up/kernel": 10,
            "mlp_1/up/kernel": 10,
        },
        frozen={
            "axis of an input": ["patches/kernel 2"],
            "indexed by gather": ["table 0"],
            "axis of output": OUTPUT,
        },
    ),
)
