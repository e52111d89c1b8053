"""Layers of experts: every routing with every dispatch, by the number of experts of the router."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

EXPERTS, TOKENS = 6, 7


def mixtral(logits: Any, k: int) -> Any:
    values, chosen = lax.top_k(logits, k)
    return jax.nn.softmax(values), chosen


def softmax_first(logits: Any, k: int) -> Any:
    values, chosen = lax.top_k(jax.nn.softmax(logits), k)
    return values / values.sum(-1, keepdims=True), chosen


def switch(logits: Any, _k: int) -> Any:
    chances = jax.nn.softmax(logits)
    chosen = jnp.argmax(chances, -1)[:, None]
    return jnp.take_along_axis(chances, chosen, -1), chosen


ROUTINGS: dict[str, Callable[..., Any]] = {
    "mixtral": mixtral,
    "softmax first": softmax_first,
    "switch": switch,
}


def every(v: Any, x: Any) -> Any:
    h = jax.nn.relu(jnp.einsum("td,edh->teh", x, v["up"]))
    return jnp.einsum("teh,ehd->ted", h, v["down"])


def one_hot(v: Any, x: Any, weights: Any, chosen: Any) -> Any:
    sent = jax.nn.one_hot(chosen, v["up"].shape[0])
    return jnp.einsum("te,ted->td", jnp.einsum("tk,tke->te", weights, sent), every(v, x))


def take(v: Any, x: Any, weights: Any, chosen: Any) -> Any:
    h = jax.nn.relu(jnp.einsum("td,tkdh->tkh", x, v["up"][chosen]))
    return jnp.einsum("tk,tkh,tkhd->td", weights, h, jnp.take(v["down"], chosen, axis=0))


def scatter(v: Any, x: Any, weights: Any, chosen: Any) -> Any:
    rows = jnp.arange(len(x))[:, None]
    gates = jnp.zeros((len(x), v["up"].shape[0])).at[rows, chosen].set(weights)
    return jnp.einsum("te,ted->td", gates, every(v, x))


def capacity(v: Any, x: Any, weights: Any, chosen: Any, places: int = 3) -> Any:
    """Buffers of some places for every expert; tokens beyond are dropped."""
    sent = jax.nn.one_hot(chosen, v["up"].shape[0])
    t, k, experts = sent.shape
    flat = sent.transpose(1, 0, 2).reshape(k * t, experts)
    place = (jnp.cumsum(flat, 0) * flat - 1).reshape(k, t, experts).transpose(1, 0, 2)
    buffer = jax.nn.one_hot(place.astype(int), places) * sent[..., None]
    y = jax.nn.relu(jnp.einsum("td,tkec,edh->ech", x, buffer, v["up"]))
    return jnp.einsum("ech,ehd,tkec,tk->td", y, v["down"], buffer, weights)


def sort(v: Any, x: Any, weights: Any, chosen: Any) -> Any:
    """Rows in the order of their experts, counted by comparison, for a ragged product."""
    t, k = chosen.shape
    flat = chosen.reshape(-1)
    order = jnp.argsort(flat)
    sizes = jax.nn.one_hot(flat, v["up"].shape[0], dtype=jnp.int32).sum(0)
    h = jax.nn.relu(lax.ragged_dot(x[order // k], v["up"], sizes))
    y = lax.ragged_dot(h, v["down"], sizes)[jnp.argsort(order)]
    return jnp.einsum("tkd,tk->td", y.reshape(t, k, -1), weights)


def count(v: Any, x: Any, weights: Any, chosen: Any) -> Any:
    """As `sort`, counted by index, and written back by index."""
    t, k = chosen.shape
    flat = chosen.reshape(-1)
    order = jnp.argsort(flat)
    sizes = jnp.bincount(flat, length=v["up"].shape[0])
    h = jax.nn.relu(lax.ragged_dot(x[order // k], v["up"], sizes))
    y = lax.ragged_dot(h, v["down"], sizes)
    y = jnp.zeros_like(y).at[order].set(y)
    return jnp.einsum("tkd,tk->td", y.reshape(t, k, -1), weights)


def segments(v: Any, x: Any, weights: Any, chosen: Any) -> Any:
    t, k = chosen.shape
    flat = chosen.reshape(-1)
    h = jax.nn.relu(jnp.einsum("td,tdh->th", jnp.repeat(x, k, 0), v["up"][flat]))
    y = jnp.einsum("th,thd->td", h, v["down"][flat]) * weights.reshape(-1)[:, None]
    return jax.ops.segment_sum(y, jnp.repeat(jnp.arange(t), k), t)


def _in_turn(v: Any, x: Any, weights: Any, chosen: Any, owners: Callable[..., Any]) -> Any:
    """Rows in the order of their experts, which are told by how many each has."""
    t, k = chosen.shape
    flat = chosen.reshape(-1)
    order = jnp.argsort(flat)
    sizes = jax.nn.one_hot(flat, v["up"].shape[0], dtype=jnp.int32).sum(0)
    owner = owners(sizes, t * k)
    h = jax.nn.relu(jnp.einsum("nd,ndh->nh", x[order // k], v["up"][owner]))
    y = lax.ragged_dot(h, v["down"], sizes)[jnp.argsort(order)]
    return jnp.einsum("tkd,tk->td", y.reshape(t, k, -1), weights)


def repeated(*args: Any) -> Any:
    """As the mixtures of Gemma 4."""
    return _in_turn(
        *args,
        lambda sizes, n: jnp.repeat(jnp.arange(sizes.size), sizes, total_repeat_length=n),
    )


def searched(*args: Any) -> Any:
    return _in_turn(
        *args,
        lambda sizes, n: jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(n), side="right"),
    )


def compared(*args: Any) -> Any:
    return _in_turn(
        *args,
        lambda sizes, n: jnp.searchsorted(
            jnp.cumsum(sizes), jnp.arange(n), side="right", method="compare_all"
        ),
    )


IN_TURN = (repeated, searched, compared)
DISPATCHES: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (one_hot, take, scatter, capacity, sort, count, segments, *IN_TURN)
}


def network(routing: str, dispatch: str, k: int = 2, **options: Any) -> Callable[..., Any]:
    """Returns a function of `(variables, x)` with a layer of experts in a residual block."""

    def fn(v: Any, x: Any) -> Any:
        x = x @ v["stem"]
        weights, chosen = ROUTINGS[routing](x @ v["router"], k)
        return (x + DISPATCHES[dispatch](v, x, weights, chosen, **options)) @ v["head"]

    return fn


def variables(
    seed: int = 0, experts: int = EXPERTS, tokens: int = TOKENS, dtype: Any = np.float32
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns the variables of a network, and tokens."""
    random = np.random.default_rng(seed)
    shapes = {"stem": (3, 4), "router": (4, experts), "up": (experts, 4, 5)}
    shapes |= {"down": (experts, 5, 4), "head": (4, 2)}
    v = {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    return v, random.normal(size=(tokens, 3)).astype(dtype)
