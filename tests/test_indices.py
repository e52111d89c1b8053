"""An integer that points into an axis: it is renumbered with the axis, or the axis stays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import jaxprune as jp

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def smallest(h: Any) -> Any:
    """The index of the smallest entry, by a reduction of pairs."""

    def less(a: Any, b: Any) -> Any:
        chosen = a[0] < b[0]
        return jnp.where(chosen, a[0], b[0]), jnp.where(chosen, a[1], b[1])

    count = lax.broadcasted_iota(jnp.int32, h.shape, 1)
    return lax.reduce((h, count), (jnp.float32(jnp.inf), jnp.int32(0)), less, (1,))[1]


# name -> (hidden of width 8, table of 8 rows) -> result
POINTS = {
    "argmax": lambda h, t: t[jnp.argmax(h, -1)],
    "argmin": lambda h, t: t[jnp.argmin(h, -1)],
    "argmax with its axis": lambda h, t: t[jnp.argmax(h, -1, keepdims=True)[:, 0]],
    "argmax without NaN": lambda h, t: t[jnp.nanargmax(h, -1)],
    "take": lambda h, t: jnp.take(t, jnp.argmax(h, -1), axis=0, mode="clip"),
    "one_hot": lambda h, t: jax.nn.one_hot(jnp.argmax(h, -1), 8) @ t,
    "compared": lambda h, t: (jnp.argmax(h, -1)[:, None] == jnp.arange(8)[None]) @ t,
    "returned": lambda h, _t: jnp.argmax(h, -1),
    "counted": lambda h, _t: (jnp.argmax(h, -1) == 3).sum(),
    "unraveled": lambda h, _t: jnp.argmax(h),
    "in a jit": lambda h, t: jax.jit(lambda h: t[jnp.argmax(h, -1)])(h),
    "in a vmap": lambda h, t: jax.vmap(lambda r: t[jnp.argmax(r)])(h),
    "in a scan": lambda h, t: lax.scan(lambda c, r: (c, t[jnp.argmax(r)]), 0.0, h)[1],
    "a sample of a category": lambda h, t: t[jax.random.categorical(jax.random.key(0), h)],
    "argsort": lambda h, t: t[jnp.argsort(h, -1)[:, 0]],
    "top_k": lambda h, t: t[lax.top_k(h, 2)[1]].sum(1),
    "reduced pairs": lambda h, t: t[smallest(h)],
    "the last above zero": lambda h, t: t[jnp.where(h > 0, jnp.arange(8), 0).max(-1)],
    "the first above zero": lambda h, t: t[(jnp.cumsum(h > 0, -1) < 1).sum(-1)],
    "a running count": lambda h, t: t[jnp.cumsum(jnp.cos(h) > 0, -1)[:, -1] - 1],
    "nonzero": lambda h, t: t[jnp.nonzero(h[0] > 0, size=2)[0]],
    "searchsorted": lambda h, t: t[jnp.searchsorted(jnp.sort(h[0]), h[:, 1] * 0)],
    "a sum of truths": lambda h, t: t[(h < 1).sum(-1) % 8],
}
COUNTS = ("a running count", "a sum of truths", "the first above zero", "nonzero")
TIED = (
    "argmax", "argmin", "argmax with its axis", "take", "one_hot", "compared", "in a jit",
    "in a vmap", "a sample of a category", "top_k",
)  # fmt: skip
"""Where the table goes with what is pointed into."""
FROZEN = [name for name in POINTS if name not in (*COUNTS, *TIED)]


def group_of(graph: jp.ChannelGraph, path: str, axis: int) -> list[jp.Group]:
    """The groups that hold a part of an axis."""
    return [
        group
        for group in graph.groups.values()
        if any((slot.path, slot.axis) == (path, axis) for slot in group.slots)
    ]


def traced(name: str) -> jp.ChannelGraph:
    v = {"w": np.ones((5, 8), np.float32), "t": np.ones((8, 3), np.float32)}
    return jp.trace(lambda v, x: POINTS[name](x @ v["w"], v["t"]), v, X)


@pytest.mark.parametrize("name", POINTS)
def test_channels_that_are_pointed_into_are_never_called_exact(name: str) -> None:
    graph = traced(name)
    assert all(group.inexact for group in group_of(graph, "w", 1))
    assert group_of(graph, "t", 0) == (group_of(graph, "w", 1) if name in TIED else [])


@pytest.mark.parametrize("name", TIED)
def test_the_table_that_is_pointed_into_is_renumbered(name: str) -> None:
    random = np.random.default_rng(1)
    v = {"w": random.normal(size=(5, 8)), "t": random.normal(size=(8, 3))}

    def fn(v: Any, x: Any) -> Any:
        return POINTS[name](x @ v["w"], v["t"])

    graph = jp.trace(fn, v, X)
    (group,) = group_of(graph, "w", 1)
    kept = random.permutation(8) < 4
    small = jax.device_put(jp.slice(graph, v, {group.name: kept}))
    run = jp.narrow(fn, graph, {group.name: kept})
    masked = jp.masked(fn, graph)(v, {group.name: kept}, X)
    np.testing.assert_allclose(run(small, X), masked, rtol=1e-4, atol=1e-5)
    if name not in ("one_hot", "compared", "a sample of a category"):  # which name a size
        np.testing.assert_allclose(run(small, X), fn(small, X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FROZEN)
def test_channels_that_are_pointed_into_stay(name: str) -> None:
    assert not group_of(traced(name), "w", 1)


@pytest.mark.parametrize("name", ["returned", "counted", "in a scan"])
def test_the_reason_is_said(name: str) -> None:
    found = jp.explain(traced(name), "w")
    assert "argmax returns positions in it, which pruning would renumber" in found


def test_classes_that_are_only_returned_as_their_index_stay() -> None:
    class Classifier(nnx.Module):
        def __init__(self) -> None:
            self.hidden = nnx.Linear(5, 16, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(16, 10, rngs=nnx.Rngs(1))

        def __call__(self, x: Any) -> Any:
            return self.head(nnx.relu(self.hidden(x))).argmax(-1)

    graph = jp.nnx.trace(Classifier(), X)
    assert list(graph.groups) == ["hidden/kernel"]
    assert graph.groups["hidden/kernel"].inexact is None


def test_an_index_over_places_leaves_the_channels() -> None:
    def fn(v: Any, x: Any) -> Any:
        h = x @ v["w"]
        return h[jnp.argmax(x[:, 0])] @ v["t"]

    v = {"w": np.ones((5, 8), np.float32), "t": np.ones((8, 3), np.float32)}
    (group,) = jp.trace(fn, v, X).groups.values()
    assert group.inexact is None
