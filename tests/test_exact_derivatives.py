"""A derivative that a function brings along must be exact too: no walk of the network meets it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp

X = np.random.default_rng(0).normal(size=(3, 5))
KEEP = {"w": np.isin(np.arange(8), [1, 4, 6])}


def backward(rule: Any) -> Any:
    """The identity, whose cotangent is `rule(h, cotangent)`."""
    fn = jax.custom_vjp(lambda h: h)
    fn.defvjp(lambda h: (h, h), lambda h, g: (rule(h, g),))
    return fn


def forward(rule: Any) -> Any:
    """The sine, whose tangent is `rule(h, tangent)`."""
    fn = jax.custom_jvp(jnp.sin)
    fn.defjvp(lambda primals, tangents: (fn(*primals), rule(*primals, *tangents)))
    return fn


def scaled(_h: Any, g: Any) -> Any:
    return g / jnp.sqrt((g * g).sum(-1, keepdims=True) + 1)


def shifted(h: Any, g: Any) -> Any:
    return g + jnp.cos(h).sum(-1, keepdims=True) * 0.1


def cosines(h: Any, t: Any) -> Any:
    return t * jnp.cos(h).sum(-1, keepdims=True)


def by_sum(h: Any) -> Any:
    return h.sum(-1)


# name -> (layer, what reads it, exact)
CASES = {
    "a cotangent scaled by its norm, read by weights": (backward(scaled), None, True),
    "a cotangent scaled by its norm, summed": (backward(scaled), by_sum, False),
    "a clipped cotangent, summed": (backward(lambda _, g: jnp.clip(g, -0.1, 0.1)), by_sum, True),
    "a reversed cotangent": (backward(lambda h, g: -g * h), by_sum, True),
    "a cotangent that sums cosines": (backward(shifted), None, False),
    "a cotangent of the values' sum": (backward(lambda h, g: g * h.sum(-1, keepdims=True)), by_sum,
                                       True),
    "a cotangent over their maximum": (backward(lambda h, g: g / (h.max(-1, keepdims=True) + 9)),
                                       None, False),
    "a cotangent of ones": (backward(lambda _, g: jnp.ones_like(g)), None, True),
    "a tangent as it is": (forward(lambda _, t: t), by_sum, True),
    "a tangent times a sum of cosines": (forward(cosines), None, False),
    "a tangent times a sum": (forward(lambda h, t: t * h.sum(-1, keepdims=True)), by_sum, True),
    "a tangent through a root": (forward(lambda h, t: t * jnp.sqrt(jnp.abs(h))), by_sum, True),
    "a tangent over a value": (forward(lambda h, t: t * jnp.sin(h) / h), by_sum, False),
    "a cotangent in a scan": (
        lambda h: lax.scan(lambda c, _: (backward(shifted)(c), None), h, None, length=2)[0],
        None,
        False,
    ),
    "a cotangent in a jit": (jax.jit(lambda h: backward(scaled)(h)), by_sum, False),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_derivative_decides_too(name: str) -> None:
    layer, read, exact = CASES[name]
    random = np.random.default_rng(1)
    shapes = {"first": (5, 5), "w": (5, 8)} | ({"u": (8, 2)} if read is None else {})
    v = {path: random.normal(size=shape) for path, shape in shapes.items()}

    def fn(v: Any, x: Any) -> Any:
        h = layer(jnp.tanh(x @ v["first"]) @ v["w"])
        return (h @ v["u"]).sum(-1) if read is None else read(h)

    def gradient(fn: Any, v: Any) -> Any:
        return jax.grad(lambda v: (fn(v, X) ** 2).sum())(v)

    with jax.enable_x64(True):
        graph = jp.trace(fn, v, X)
        assert (graph.groups["w"].inexact is None) == exact
        masked = jp.slice(graph, gradient(fn, jp.mask(graph, v, KEEP)), KEEP)
        small = gradient(jp.narrow(fn, graph, KEEP), jp.slice(graph, v, KEEP))
        same = [np.allclose(masked[path], small[path], rtol=1e-9) for path in ("first", "w")]
        assert all(same) == exact


def test_a_function_whose_derivative_raises_is_traced_all_the_same() -> None:
    def refuse(*_: Any) -> Any:
        raise NotImplementedError("for inference only")

    silent = jax.custom_jvp(jnp.sin)
    silent.defjvp(refuse)
    random = np.random.default_rng(1)
    v = {"w": random.normal(size=(5, 8)), "u": random.normal(size=(8, 2))}

    def fn(v: Any, x: Any) -> Any:
        return silent(x @ v["w"]) @ v["u"]

    graph = jp.trace(fn, v, X)
    assert graph.groups["w"].inexact is None
    narrow, small = jp.narrow(fn, graph, KEEP), jp.slice(graph, v, KEEP)
    np.testing.assert_allclose(narrow(small, X), fn(jp.mask(graph, v, KEEP), X), rtol=1e-5)
    with pytest.raises(jp.errors.ResizeError, match=r"for inference only.\nFix: give it one"):
        jax.grad(lambda x: narrow(small, x).sum())(X)


@pytest.mark.parametrize("names", [("{odd}", "{even}"), ("{", "}"), ("{0!r}", "a{}")])
def test_names_with_braces_stand_in_a_reason_as_they_are(names: tuple[str, str]) -> None:
    @jax.custom_vjp
    def crossed(a: Any, b: Any) -> Any:
        return a, b

    crossed.defvjp(lambda a, b: ((a, b), (a, b)), lambda kept, g: (g[0] * kept[1], g[1] * kept[0]))
    one, other = names

    def fn(v: Any, x: Any) -> Any:
        a, b = crossed(x @ v[one], x @ v[other])
        return a @ v["c"] + b @ v["d"]

    v = {
        one: jnp.ones((3, 8)),
        other: jnp.ones((3, 8)),
        "c": jnp.ones((8, 2)),
        "d": jnp.ones((8, 2)),
    }
    graph = jp.trace(fn, v, jnp.ones((1, 3)))
    assert graph.groups.keys() == {one, other}
    reasons = [group.inexact or "" for group in graph.groups.values()]
    assert all("its own derivative ties channels" in why for why in reasons)
    assert any(repr(name) in why for name in names for why in reasons)
    assert all(why in jp.explain(graph) for why in reasons)
