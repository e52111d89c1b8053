"""Attention in all its spellings: how heads are made from kernels, and how they meet.

Wherever the layout allows it, heads, query and key dims, and value dims are groups of their own. A
head goes as a whole: it is one channel of its group.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from zoo.zoo import Apply, Network, function, linen, normal

QKV = ["query/kernel 0", "key/kernel 0", "value/kernel 0"]
OUTPUT = ["head/bias 0", "head/kernel 1"]
TOKENS = normal(5, 6)
LONGER = normal(9, 6)


def attend(query: Any, key: Any, value: Any, *, scale: float = 0.4, bias: Any = 0.0) -> jax.Array:
    """Returns softmax(scale * query key + bias) value; arrays are [batch, length, heads, dim].

    The default scale is not a size of any axis, so that all groups are exact.
    """
    logits = jnp.einsum("bthd,bshd->bhts", query, key) * scale + bias
    return jnp.einsum("bhts,bshd->bthd", nn.softmax(logits), value)


def by_hand(fn: Any) -> Any:
    """Returns a `native` of plain `fn(params, *inputs)`, which reads all sizes from shapes."""

    def apply(v: Any, x: Any) -> Any:
        return fn(v["params"], *x), {}

    def native(_widths: Mapping[str, int], _train: bool) -> Apply:
        return apply

    return native


def dense(p: Any, x: jax.Array) -> jax.Array:
    """Returns what a Dense or a DenseGeneral gives; `kernel` contracts the last axes of x."""
    bias = p["bias"]
    axes = p["kernel"].ndim - bias.ndim
    return jnp.tensordot(x, p["kernel"], axes) + jnp.expand_dims(bias, tuple(range(x.ndim - axes)))


class Linen(nn.Module):
    """Linen's own attention."""

    causal: bool = False
    normalize: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, memory: Any = None, mask: Any = None, *, train: bool = False
    ) -> jax.Array:
        del train
        attention = nn.MultiHeadDotProductAttention(
            num_heads=4,
            qkv_features=16,
            out_features=5,
            normalize_qk=self.normalize,
            name="attention",
        )
        mask = nn.make_causal_mask(x[..., 0]) if self.causal else mask
        return nn.Dense(3, name="head")(attention(x, memory, mask=mask))


def linen_by_hand(
    p: Any, x: jax.Array, memory: Any = None, mask: Any = True, *, causal: bool = False
) -> jax.Array:
    """Returns what `Linen` gives; query dims and value dims may differ."""
    layers = p["attention"]
    memory = x if memory is None else memory
    query, key = dense(layers["query"], x), dense(layers["key"], memory)
    if "query_ln" in layers:
        query, key = (
            (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-6)
            * layers[name]["scale"][None, None, None]
            for name, y in (("query_ln", query), ("key_ln", key))
        )  # fmt: skip
    mask = jnp.tri(x.shape[1], dtype=bool) if causal else mask
    bias = jnp.where(mask, 0.0, jnp.finfo(x.dtype).min)
    bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
    scale = query.shape[-1] ** -0.5
    y = attend(query, key, dense(layers["value"], memory), scale=scale, bias=bias)
    return dense(p["head"], dense(layers["out"], y))


def of_linen(
    name: str,
    inputs: Any,
    *,
    elsewhere: Any = None,
    causal: bool = False,
    normalize: bool = False,
) -> Network:
    """Returns a network of `Linen`."""
    network = linen(
        name,
        Linen(causal=causal, normalize=normalize),
        inputs,
        elsewhere=elsewhere,
        groups={
            "attention/key/kernel[1]": 4,
            "attention/key/kernel[2]": 4,
            "attention/out/kernel": 5,
            "attention/value/kernel[2]": 4,
        },
        frozen={
            "axis of an input": [f"attention/{n}/kernel 0" for n in ("query", "key", "value")],
            "axis of output": OUTPUT,
        },
    )
    return replace(network, native=by_hand(lambda p, *x: linen_by_hand(p, *x, causal=causal)))


def masked_memory(batch: int) -> tuple[np.ndarray, ...]:
    """Returns tokens, a memory of another width and length, and which of it may be seen."""
    random = np.random.default_rng(2)
    mask = random.integers(2, size=(batch, 1, 5, 7)).astype(bool)
    mask[..., 0] = True
    return (random.normal(size=(batch, 5, 6)), random.normal(size=(batch, 7, 3)), mask)


class Fused(nn.Module):
    """One kernel for query, key and value, taken apart in one of the usual ways."""

    layout: str
    heads: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        y = nn.Dense(48, name="qkv")(x)
        match self.layout:
            case "split":
                query, key, value = (self.to_heads(part) for part in jnp.split(y, 3, axis=-1))
            case "3hd":
                y = y.reshape(*y.shape[:2], 3, self.heads, -1)
                query, key, value = y[:, :, 0], y[:, :, 1], y[:, :, 2]
            case "h3d":
                y = y.reshape(*y.shape[:2], self.heads, 3, -1)
                query, key, value = y[..., 0, :], y[..., 1, :], y[..., 2, :]
            case "h(3d)":
                query, key, value = jnp.split(self.to_heads(y), 3, axis=-1)
            case _:
                y = y.reshape(*y.shape[:2], self.heads, -1, 3)
                query, key, value = y[..., 0], y[..., 1], y[..., 2]
        y = attend(query, key, value)
        return nn.Dense(3, name="head")(y.reshape(*y.shape[:2], -1))

    def to_heads(self, y: jax.Array) -> jax.Array:
        """Returns [batch, length, heads, dim]."""
        return y.reshape(*y.shape[:2], self.heads, -1)


def fused(layout: str, groups: Mapping[str, int]) -> Network:
    """Returns a network of `Fused`, whose number of heads no shape of a variable shows."""
    return linen(
        f"Fused {layout}",
        Fused(layout),
        TOKENS,
        elsewhere=LONGER,
        overrides=lambda widths: {"": {"heads": widths["qkv/kernel[1.0]"]}},
        groups=groups,
        frozen={"axis of an input": ["qkv/kernel 0"], "axis of output": OUTPUT},
    )


class Grouped(nn.Module):
    """Query heads in groups that share a key head and a value head."""

    spelling: str
    memories: int = 2
    heads: int = 8

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        query = nn.DenseGeneral((self.heads, 4), name="query")(x)
        key = nn.DenseGeneral((self.memories, 4), name="key")(x)
        value = nn.DenseGeneral((self.memories, 6), name="value")(x)
        repeats = query.shape[2] // key.shape[2]
        match self.spelling:
            case "repeat":
                y = attend(query, *(jnp.repeat(part, repeats, axis=2) for part in (key, value)))
            case "broadcast":
                y = attend(query, *(repeated(part, repeats) for part in (key, value)))
            case _:
                query = query.reshape(*query.shape[:2], key.shape[2], repeats, -1)
                logits = jnp.einsum("btkrd,bskd->bkrts", query, key) * 0.4
                y = jnp.einsum("bkrts,bskd->btkrd", nn.softmax(logits), value)
                y = y.reshape(*y.shape[:2], -1, y.shape[-1])
        return nn.DenseGeneral(3, axis=(-2, -1), name="head")(y)


def repeated(x: jax.Array, repeats: int) -> jax.Array:
    """Returns every head of x [batch, length, heads, dim] `repeats` times in a row."""
    batch, length, heads, dim = x.shape
    x = jnp.broadcast_to(x[:, :, :, None], (batch, length, heads, repeats, dim))
    return x.reshape(batch, length, heads * repeats, dim)


def grouped(spelling: str, memories: int, groups: Mapping[str, int]) -> Network:
    """Returns a network of `Grouped`."""
    return linen(
        f"Grouped {spelling} {memories}",
        Grouped(spelling, memories),
        TOKENS,
        groups=groups,
        frozen={
            "axis of an input": QKV,
            "axis of output": ["head/bias 0", "head/kernel 2"],
        },
    )


def library_attention(p: Any, x: jax.Array, *, causal: bool) -> jax.Array:
    """Attention by `jax.nn.dot_product_attention`, which divides by the root of the query dim."""
    query, key, value = (dense(p[name], x) for name in ("query", "key", "value"))
    y = jax.nn.dot_product_attention(query, key, value, is_causal=causal)
    return dense(p["head"], y)


class ByEinsum(nn.Module):
    """Heads made by `nn.Einsum`, with batch axes of the kernel where value meets output."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        del train
        query, key = (
            nn.Einsum((4, 6, 5), "btc,hcd->bhtd", use_bias=False, name=name)(x)
            for name in ("query", "key")
        )
        value = nn.Einsum((4, 6, 7), "btc,hcd->bhtd", use_bias=False, name="value")(x)
        weights = nn.softmax(jnp.einsum("bhtd,bhsd->bhts", query, key) * 0.4)
        y = jnp.einsum("bhts,bhsd->bhtd", weights, value)
        y = nn.Einsum((4, 7, 9), "bhtd,hdc->btc", use_bias=False, name="out")(y)
        return nn.Dense(3, name="head")(nn.relu(y))


def library(name: str, memories: int, groups: Mapping[str, int]) -> Network:
    """Returns a network of `library_attention`; it wants query dims as wide as value dims.

    Only `narrow` runs it where they are not.
    """

    def variables() -> Any:
        draw = partial(normal_of, np.random.default_rng(0))
        return {
            "params": {
                "query": draw((6, 8, 4), 2),
                "key": draw((6, memories, 4), 2),
                "value": draw((6, memories, 4), 2),
                "head": draw((8, 4, 3), 1),
            }
        }

    network = function(
        name,
        lambda v, x: library_attention(v["params"], x, causal=memories == 2),
        variables,
        TOKENS,
        elsewhere=LONGER,
        groups=groups,
        frozen={"axis of an input": QKV, "axis of output": ["head/bias 0", "head/kernel 2"]},
    )
    return replace(network, resized=None)


def normal_of(random: np.random.Generator, shape: tuple[int, ...], features: int) -> Any:
    """Returns a kernel and the bias of its last `features` axes."""
    return {"kernel": random.normal(size=shape), "bias": random.normal(size=shape[-features:])}


APART = {"qkv/kernel[1.0]": 4, "qkv/kernel[1.1]": 4, "qkv/kernel[1.2]": 4}
TIED = {"qkv/kernel[1.0]": 4, "qkv/kernel[1.1]": 4}
"""The layout makes query, key and value dims one axis of one array."""
GROUPED = {"key/kernel[1]": 2, "query/kernel[1.1]": 4, "key/kernel[2]": 4, "value/kernel[2]": 6}
MULTI_QUERY = {"query/kernel[1]": 8, "key/kernel[2]": 4, "value/kernel[2]": 6}

NETWORKS: tuple[Network, ...] = (
    of_linen("Linen", TOKENS, elsewhere=LONGER),
    of_linen("Linen causal", TOKENS, elsewhere=LONGER, causal=True),
    of_linen("Linen cross masked", masked_memory),
    of_linen("Linen normalized", TOKENS, normalize=True),
    fused("split", APART),
    fused("h(3d)", APART),
    fused("3hd", TIED),
    fused("h3d", TIED),
    fused("hd3", TIED),
    *(grouped(spelling, 2, GROUPED) for spelling in ("repeat", "broadcast", "five axes")),
    *(grouped(spelling, 1, MULTI_QUERY) for spelling in ("repeat", "broadcast", "five axes")),
    library("Library", 8, {"key/kernel[1]": 8, "key/kernel[2]": 4, "value/kernel[2]": 4}),
    library("Library grouped causal", 2, GROUPED | {"value/kernel[2]": 4}),
    library("Library multi-query", 1, MULTI_QUERY | {"value/kernel[2]": 4}),
    linen(
        "Einsum",
        ByEinsum(),
        TOKENS,
        groups={
            "key/kernel[0]": 4,
            "key/kernel[2]": 5,
            "value/kernel[2]": 7,
            "out/kernel": 9,
        },
        frozen={
            "axis of an input": ["query/kernel 1", "key/kernel 1", "value/kernel 1"],
            "axis of output": OUTPUT,
        },
    ),
)
