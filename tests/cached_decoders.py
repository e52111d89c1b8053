"""Decoders as plain functions, whose caches are dicts, lists and stacks of their layers'."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests import decoders
from tests.decoders import EACH, HIDDEN, KV, SIZE, STREAM, VOCABULARY

LAYERS = 3


def layer(p: Any, x: Any, positions: Any, cache: Any) -> tuple[Any, Any]:
    kv = p["k"].shape[1]
    k, v = (jnp.einsum("btd,dgs->btgs", x, p[name]) for name in "kv")
    q = jnp.einsum("btd,dgrs->btgrs", x, p["q"])
    out, cache = decoders.attended(q, k, v, cache, positions)
    x = x + jnp.einsum("btgrs,grsd->btd", out.reshape(*x.shape[:2], kv, -1, SIZE), p["o"])
    return x + jax.nn.relu(x @ p["up"]) @ p["down"], cache


def by_name(v: Any, x: Any, positions: Any, cache: Any) -> tuple[Any, Any]:
    new = {}
    for name, p in v["layers"].items():
        x, new[name] = layer(p, x, positions, cache[name])
    return x, new


def in_order(v: Any, x: Any, positions: Any, cache: Any) -> tuple[Any, Any]:
    new = []
    for p, line in zip(v["layers"], cache, strict=True):
        x, line = (x, None) if p is None else layer(p, x, positions, line)
        new.append(line)
    return x, new


def scanned(v: Any, x: Any, positions: Any, cache: Any) -> tuple[Any, Any]:
    def step(x: Any, each: Any) -> Any:
        return layer(each[0], x, positions, each[1])

    return jax.lax.scan(step, x, (v["layers"], cache))


def stacked(v: Any, x: Any, positions: Any, cache: Any) -> tuple[Any, Any]:
    new = []
    for i in range(len(v["layers"]["k"])):
        p, line = jax.tree.map(lambda leaf, i=i: leaf[i], (v["layers"], cache))
        x, line = layer(p, x, positions, line)
        new.append(line)
    return x, jax.tree.map(lambda *rows: jnp.stack(rows), *new)


def _stack(layers: list[Any]) -> Any:
    return jax.tree.map(lambda *rows: jnp.stack(rows), *layers)


def _named(layers: list[Any]) -> Any:
    return {f"layer_{i}": each for i, each in enumerate(layers)}


CONTAINERS: dict[str, tuple[Callable[..., Any], Callable[[list[Any]], Any]]] = {
    "dict": (by_name, _named),
    "list": (in_order, list),
    "scan": (scanned, _stack),
    "stacks": (stacked, _stack),
}


class Decoder:
    """A decoder with layers and caches in a container."""

    def __init__(self, container: str, layers: int = LAYERS):
        self.body, self.together = CONTAINERS[container]
        random = np.random.default_rng(0)

        def new(*shape: int) -> Any:
            return jnp.asarray(random.normal(size=shape) / shape[0] ** 0.5, jnp.float32)

        each = [
            {
                "q": new(STREAM, KV, EACH, SIZE), "k": new(STREAM, KV, SIZE),
                "v": new(STREAM, KV, SIZE), "o": new(KV, EACH, SIZE, STREAM),
                "up": new(STREAM, HIDDEN), "down": new(HIDDEN, STREAM),
            }
            for _ in range(layers)
        ]  # fmt: skip
        self.variables = {
            "embed": new(VOCABULARY, STREAM),
            "layers": self.together(each),
            "head": new(STREAM, VOCABULARY),
        }

    def __call__(self, v: Any, tokens: Any, positions: Any, cache: Any) -> tuple[Any, Any]:
        x, cache = self.body(v, v["embed"][tokens], positions, cache)
        return x @ v["head"], cache

    def cache(self, *, batch: int = 2, kv: int = KV, layers: int = LAYERS) -> Any:
        return self.together([*decoders.new_cache(batch, kv=kv, layers=layers).values()])
