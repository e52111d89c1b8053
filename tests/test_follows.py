"""Two words: exact (masked equals narrow) and follows (constants that resized code computes).

Code divides by a width in many spellings, of which a jaxpr shows only a number. So the graph says
nothing of them: every group here is exact, and `resize`, which sees both programs, lists them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune.slimmable.width_constants import following

X = np.random.default_rng(0).normal(size=(3, 5))
KEEP = {"w": np.isin(np.arange(8), [1, 4, 6])}


def total(h: Any) -> Any:
    return h.sum(-1, keepdims=True)


def scanned(y: Any) -> Any:
    return lax.scan(lambda c, _: (c * 0.5, None), y, None, length=2)[0]


# name -> (hidden of width 8, its kernel) -> result; the last dimension is n, or 1 behind a sum.
SPELLINGS = {
    "root of the last size": lambda h, _w: h / np.sqrt(h.shape[-1]),
    "the last size": lambda h, _w: h / h.shape[-1],
    "a product with the size": lambda h, _w: h * h.shape[-1],
    "scaled initialization": lambda h, w: h * np.sqrt(2 / w.shape[-1]),
    "mean": lambda h, _w: h.mean(-1, keepdims=True),
    "sum over the size less one": lambda h, _w: total(h) / (h.shape[-1] - 1),
    "sum over the squared size": lambda h, _w: total(h) / h.shape[-1] ** 2,
    "sum over half of the size": lambda h, _w: total(h) / (h.shape[-1] / 2),
    "root of a sum of squares and the size": lambda h, _w: lax.rsqrt(total(h * h) + h.shape[-1]),
    "roots apart": lambda h, _w: jnp.sqrt(total(h * h)) / np.sqrt(h.shape[-1]),
    "root of a mean of squares": lambda h, _w: jnp.sqrt(jnp.mean(h * h, -1, keepdims=True)),
    "a contraction with shares": lambda h, _w: h @ (jnp.ones((h.shape[-1], 1)) / h.shape[-1]),
    "einsum mean": lambda h, _w: jnp.einsum("bi->b", h)[:, None] / h.shape[-1],
    "mean with a name": lambda h, _w: checkpoint_name(total(h), "s") / h.shape[-1],
    "mean in low precision": lambda h, _w: lax.reduce_precision(total(h), 8, 20) / h.shape[-1],
    "mean behind a barrier": lambda h, _w: lax.optimization_barrier(total(h)) / h.shape[-1],
    "copied mean": lambda h, _w: jnp.array(total(h), copy=True) / h.shape[-1],
    "positive mean": lambda h, _w: jnp.maximum(total(h), 0.0) / h.shape[-1],
    "chosen mean": lambda h, _w: jnp.where(total(h) > 0, total(h), 0.1) / h.shape[-1],
    "mean behind a scan": lambda h, _w: scanned(total(h)) / h.shape[-1],
    "mean in a jit": lambda h, _w: jax.jit(lambda s, h: s / h.shape[-1])(total(h), h),
    "mean in a remat": lambda h, _w: jax.checkpoint(lambda h: total(h) / h.shape[-1])(h),
    "mean in a cond": lambda h, _w: lax.cond(
        True, lambda h: total(h) / h.shape[-1], lambda h: total(h), h
    ),
    "mean in a scan": lambda h, _w: lax.scan(
        lambda c, row: (c, total(row[None]) / row.shape[-1]), 0.0, h
    )[1][:, 0],
    "logarithm of the size": lambda h, _w: h * np.log(h.shape[-1]),
    "exponential of the size": lambda h, _w: total(h) * np.exp(-h.shape[-1]),
    "a size added to a sum": lambda h, _w: total(h) + h.shape[-1],
    "a size under a power": lambda h, _w: (total(h * h) + 1.0) ** (1.0 / h.shape[-1] + 1.0),
    "clipped by the size": lambda h, _w: jnp.clip(total(h), -h.shape[-1] / 9, h.shape[-1] / 9),
    "a running mean": lambda h, _w: jnp.cumsum(h[:, ::1], 0) / h.shape[-1],
}


def network(name: str) -> Any:
    def fn(v: Any, x: Any) -> Any:
        h = x @ v["w"]
        y = SPELLINGS[name](h, v["w"])
        return jnp.tanh(y) @ v["u" if y.shape[-1] > 1 else "t"] + h @ v["u"] + v["t"]

    return fn


def variables() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    shapes = {"w": (5, 8), "u": (8, 2), "t": (1, 2)}
    return {name: random.normal(size=shape) for name, shape in shapes.items()}


def gradient(fn: Any, v: Any) -> tuple[Any, Any]:
    return jax.value_and_grad(lambda v: (jnp.cos(X[:, :2]) * fn(v, X)).sum())(v)


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_constant_that_follows_a_size_leaves_the_group_exact(name: str) -> None:
    with jax.enable_x64(True):
        fn, v = network(name), variables()
        graph = jp.trace(fn, v, X)
        assert graph.groups["w"].inexact is None
        masked = gradient(fn, jp.mask(graph, v, KEEP))
        small = gradient(jp.narrow(fn, graph, KEEP), jp.slice(graph, v, KEEP))
        np.testing.assert_allclose(masked[0], small[0], rtol=1e-9)
        kept = jp.slice(graph, masked[1], KEEP)
        for path in kept:
            np.testing.assert_allclose(kept[path], small[1][path], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SPELLINGS)
def test_resize_lists_the_constant_with_both_values(name: str) -> None:
    with jax.enable_x64(True):
        fn, v = network(name), variables()
        graph = jp.trace(fn, v, X)
        follows = jp.resize(fn, graph, KEEP).follows
    assert follows
    assert all(" became " in text for text in follows)


def test_what_is_no_size_does_not_follow() -> None:
    v = variables()

    def fn(v: Any, x: Any) -> Any:
        h = x @ v["w"]
        return h.sum(-1, keepdims=True) / 8.0 @ v["t"] + h @ v["u"]

    graph = jp.trace(fn, v, X)
    assert graph.groups["w"].inexact is None
    assert jp.resize(fn, graph, KEEP).follows == ()


def test_an_integer_that_follows_a_size_is_refused() -> None:
    v = variables()

    def fn(v: Any, x: Any) -> Any:
        h = x @ v["w"]
        count = jnp.full((), h.shape[-1], jnp.int32) // 3
        return h.sum(-1, keepdims=True) * count @ v["t"] + h @ v["u"]

    graph = jp.trace(fn, v, X)
    with pytest.raises(jp.errors.ResizeError, match="constant 3, it was 8"):
        jp.resize(fn, graph, KEEP)


def test_compare_lists_what_follows() -> None:
    with jax.enable_x64(True):
        fn, v = network("mean"), variables()
        graph = jp.trace(fn, v, X)
        resized = jp.resize(fn, graph, KEEP)
        found = jp.compare(graph, KEEP, resized=resized)
    assert found.follows == resized.follows != ()
    assert "follows a width: div(" in str(found)
    assert "8 became 3" in str(found)


def test_only_the_groups_whose_width_a_constant_follows_are_named() -> None:
    def fn(v: Any, x: Any) -> Any:
        h = jnp.tanh(x @ v["w"])
        return jnp.tanh(h / h.shape[-1] @ v["u"]) @ v["t"]

    v = {"w": jnp.ones((5, 8)), "u": jnp.ones((8, 5)), "t": jnp.ones((5, 2))}
    graph = jp.trace(fn, v, X)
    assert set(graph.groups) == {"u", "w"}
    assert list(following(graph)) == ["w"]
    assert "8 became 7" in following(graph)["w"]

    plain = {"w": jnp.ones((5, 8)), "u": jnp.ones((8, 5))}
    assert following(jp.trace(lambda v, x: jnp.tanh(x @ v["w"]) @ v["u"], plain, X)) == {}
