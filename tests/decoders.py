"""Decoders that take their KV cache as an argument and give it back: NNX, Linen and plain."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

VOCABULARY, STREAM, KV, EACH, SIZE, HIDDEN, LENGTH = 11, 12, 4, 2, 4, 10, 40


def rotated(x: Any, positions: Any) -> Any:
    """Rotary embedding of x [batch, time, kv, each, size] at positions [batch, time]."""
    half = x.shape[-1] // 2
    angles = positions[:, :, None, None, None] * (0.1 ** jnp.arange(half))[None, None, None, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attended(q: Any, k: Any, v: Any, cache: Any, positions: Any) -> tuple[Any, Any]:
    """Attention with the cache; q [batch, 1, kv, each, size], k and v [batch, 1, kv, size]."""
    q = rotated(q, positions)
    k = rotated(k[:, :, :, None], positions)[:, :, :, 0]
    at = cache["end"]
    keys = jax.lax.dynamic_update_slice(cache["k"], k, (0, at, 0, 0))
    values = jax.lax.dynamic_update_slice(cache["v"], v, (0, at, 0, 0))
    logits = jnp.einsum("btgrd,bsgd->bgrts", q, keys)
    seen = jnp.arange(keys.shape[1]) <= at
    weights = jax.nn.softmax(jnp.where(seen[None, None, None, None], logits, -1e9))
    out = jnp.einsum("bgrts,bsgd->btgrd", weights, values)
    return out.reshape(*out.shape[:2], -1), {"k": keys, "v": values, "end": at + 1}


def new_cache(batch: int = 2, length: int = LENGTH, kv: int = KV, layers: int = 2) -> Any:
    """An empty cache of every layer."""
    shape = (batch, length, kv, SIZE)
    return {
        f"layer_{i}": {"k": jnp.zeros(shape), "v": jnp.zeros(shape), "end": jnp.zeros((), int)}
        for i in range(layers)
    }


class Block(nn.Module):
    """A layer in Linen."""

    kv: int = KV
    each: int = EACH

    @nn.compact
    def __call__(self, x, positions, cache):
        h = nn.RMSNorm(name="norm")(x)
        q = nn.Dense(self.kv * self.each * SIZE, use_bias=False, name="q")(h)
        k, v = (nn.Dense(self.kv * SIZE, use_bias=False, name=n)(h) for n in "kv")
        q = q.reshape(*x.shape[:2], self.kv, self.each, SIZE)
        k, v = (y.reshape(*x.shape[:2], self.kv, -1) for y in (k, v))
        out, cache = attended(q, k, v, cache, positions)
        x = x + nn.Dense(x.shape[-1], use_bias=False, name="o")(out)
        h = nn.RMSNorm(name="norm2")(x)
        h = nn.silu(nn.Dense(HIDDEN, name="gate")(h)) * nn.Dense(HIDDEN, name="up")(h)
        return x + nn.Dense(x.shape[-1], name="down")(h), cache


class Decoder(nn.Module):
    """A decoder in Linen."""

    layers: tuple[int, ...] = (0, 1)

    @nn.compact
    def __call__(self, tokens, positions, cache):
        x = nn.Embed(VOCABULARY, STREAM, name="embed")(tokens)
        new = {}
        for i in self.layers:
            x, new[f"layer_{i}"] = Block(name=f"layer_{i}")(x, positions, cache[f"layer_{i}"])
        return nn.Dense(VOCABULARY, name="head")(nn.RMSNorm(name="norm")(x)), new


class NnxBlock(nnx.Module):
    """A layer in NNX."""

    def __init__(self, rngs: nnx.Rngs):
        self.kv, self.each = KV, EACH
        linear = nnx.Linear
        self.norm, self.norm2 = (nnx.RMSNorm(STREAM, rngs=rngs) for _ in range(2))
        self.q = linear(STREAM, KV * EACH * SIZE, use_bias=False, rngs=rngs)
        self.k = linear(STREAM, KV * SIZE, use_bias=False, rngs=rngs)
        self.v = linear(STREAM, KV * SIZE, use_bias=False, rngs=rngs)
        self.o = linear(KV * EACH * SIZE, STREAM, use_bias=False, rngs=rngs)
        self.gate, self.up = (linear(STREAM, HIDDEN, rngs=rngs) for _ in range(2))
        self.down = linear(HIDDEN, STREAM, rngs=rngs)

    def __call__(self, x, positions, cache):
        h = self.norm(x)
        q = self.q(h).reshape(*x.shape[:2], self.kv, self.each, SIZE)
        k, v = (part(h).reshape(*x.shape[:2], self.kv, -1) for part in (self.k, self.v))
        out, cache = attended(q, k, v, cache, positions)
        x = x + self.o(out)
        h = self.norm2(x)
        return x + self.down(jax.nn.silu(self.gate(h)) * self.up(h)), cache


class NnxDecoder(nnx.Module):
    """A decoder in NNX."""

    def __init__(self, rngs: nnx.Rngs, layers: int = 2):
        self.embed = nnx.Embed(VOCABULARY, STREAM, rngs=rngs)
        self.layers = nnx.List([NnxBlock(rngs) for _ in range(layers)])
        self.norm = nnx.RMSNorm(STREAM, rngs=rngs)
        self.head = nnx.Linear(STREAM, VOCABULARY, rngs=rngs)

    def __call__(self, tokens, positions, cache):
        x, new = self.embed(tokens), {}
        for i, layer in enumerate(self.layers):
            x, new[f"layer_{i}"] = layer(x, positions, cache[f"layer_{i}"])
        return self.head(self.norm(x)), new


def greedy(step: Any, variables: Any, cache: Any, count: int = 32) -> tuple[np.ndarray, Any]:
    """The tokens that `step(variables, tokens, positions, cache)` generates, and the last cache."""
    step = jax.jit(step)
    tokens, found = jnp.array([[1], [2]]), []
    for i in range(count):
        logits, cache = step(variables, tokens, jnp.full((2, 1), float(i)), cache)
        tokens = jnp.argmax(logits[:, -1:], -1)
        found.append(np.asarray(tokens))
    return np.concatenate(found, 1), cache
