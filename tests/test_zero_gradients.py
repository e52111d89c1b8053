"""Zeros of the mask where an operation has no finite derivative there.

The gradient of what stays would be infinity times zero. Such a group is inexact, unless variables
can keep their values in the mask (the norm of a filter) and others silence the channel.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp

X = np.random.default_rng(0).normal(size=(6, 5))
KEEP = {"w": np.isin(np.arange(8), [1, 4, 6])}

STEEP = {
    "root of a square": lambda h: jnp.sqrt(h * h),
    "half a power": lambda h: (h * h) ** 0.5,
    "a third of a power": lambda h: jnp.abs(h) ** (1 / 3),
    "a power of 0.99": lambda h: jnp.abs(h) ** 0.99,
    "a power from float32": lambda h: lax.pow(
        h * h, lax.convert_element_type(jnp.float32(0.5), h.dtype)
    ),
    "cube root": jnp.cbrt,
    "angle of two zeros": lambda h: jnp.arctan2(h, 2 * h),
    "angle beside a constant zero": lambda h: jnp.arctan2(h, jnp.zeros(())),
    "angle of a complex number": lambda h: jnp.angle(h + 1j * h),
    "norm over a batch": lambda h: h * jnp.linalg.norm(h, axis=0, keepdims=True),
    "root of a maximum": lambda h: jnp.sqrt(jnp.maximum(h, 0.0)),
    "root in a remat": jax.checkpoint(lambda h: jnp.sqrt(h * h)),
    "root in a scan": lambda h: lax.scan(lambda c, r: (c, jnp.sqrt(r * r)), 0.0, h)[1],
    "root in a branch": lambda h: lax.cond(h.sum() > 99, jnp.tanh, lambda h: jnp.sqrt(h * h), h),
    "standard deviation over a batch": lambda h: h / (h.std(0, keepdims=True) + 1),
    "exponential of a logarithm": lambda h: jnp.exp(0.5 * jnp.log(h * h + 0.0)),
    "root of one of two": lambda h: jnp.sqrt(jnp.where(h.sum() > 99, 1.0, h * h)),
    "root of a clip by the data": lambda h: jnp.sqrt(jnp.clip(h, jnp.zeros_like(h), 9)),
    "inverse hyperbolic cosine": lambda h: jnp.arccosh(h * h),
}
FINITE = {
    "root beside a number": lambda h: jnp.sqrt(h * h + 1e-6),
    "a power above one": lambda h: jnp.abs(h) ** 1.5,
    "a power of one": lambda h: h**1.0,
    "square": jnp.square,
    "angle beside one": lambda h: jnp.arctan2(h, jnp.ones(())),
    "absolute": jnp.abs,
    "tangent": jnp.tan,
    "a root that is chosen after a safe one": lambda h: jnp.where(
        h > 0, jnp.sqrt(jnp.where(h > 0, h, 1.0)), 0.0
    ),
    "a root that is chosen where it is not zero": lambda h: (
        h / jnp.where(h == 0, 1.0, jnp.sqrt(jnp.where(h == 0, 1.0, h * h)))
    ),
    "a root that is not chosen where it is zero": lambda h: jnp.sqrt(
        jnp.where(~(h != 0), 1.0, h * h)
    ),
    "the root of another": lambda h: h * jnp.sqrt(jnp.exp(h)),
    "maximum over a batch": lambda h: h - h.max(0, keepdims=True),
    "product over a batch": lambda h: h * h.prod(0, keepdims=True),
    "signed": lambda h: h * jnp.sign(h),
}


def network(apply: Any) -> Any:
    return lambda v, x: apply(jnp.tanh(x @ v["first"]) @ v["w"]) @ v["u"]


def variables() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    shapes = {"first": (5, 5), "w": (5, 8), "u": (8, 2)}
    return {name: random.normal(size=shape) for name, shape in shapes.items()}


def kept_gradients(fn: Any, graph: jp.ChannelGraph, v: Any) -> tuple[Any, Any]:
    """Returns the gradients of the masked network, sliced, and of the narrow one."""

    def gradient(fn: Any, v: Any) -> Any:
        return jax.grad(lambda v: jnp.real(fn(v, X)).sum())(v)

    masked = jp.slice(graph, gradient(fn, jp.mask(graph, v, KEEP)), KEEP)
    return masked, gradient(jp.narrow(fn, graph, KEEP), jp.slice(graph, v, KEEP))


@pytest.mark.parametrize("name", STEEP)
def test_a_zero_without_a_finite_derivative_is_inexact(name: str) -> None:
    with jax.enable_x64(True):
        fn, v = network(STEEP[name]), variables()
        graph = jp.trace(fn, v, X)
        why = graph.groups["w"].inexact
        assert why is not None
        assert "no finite derivative" in why or "infinite where" in why
        assert not np.isfinite(kept_gradients(fn, graph, v)[0]["first"]).all()


@pytest.mark.parametrize("name", FINITE)
def test_a_zero_with_a_finite_derivative_is_exact(name: str) -> None:
    with jax.enable_x64(True):
        fn, v = network(FINITE[name]), variables()
        graph = jp.trace(fn, v, X)
        assert graph.groups["w"].inexact is None
        masked, small = kept_gradients(fn, graph, v)
        for path in masked:
            np.testing.assert_allclose(masked[path], small[path], rtol=1e-9, atol=1e-12)


def test_a_filter_whose_norm_has_no_derivative_at_zero_keeps_its_values() -> None:
    def fn(v: Any, x: Any) -> Any:
        norm = jnp.sqrt(jnp.square(v["w"]).sum(0, keepdims=True))
        return jnp.tanh(x @ v["first"]) @ (v["w"] * norm) @ v["u"]

    with jax.enable_x64(True):
        v = variables()
        graph = jp.trace(fn, v, X)
        assert graph.groups["w"].inexact is None
        assert [slot.path for slot in graph.groups["w"].slots if not slot.masked] == ["w"]
        masked, small = kept_gradients(fn, graph, v)
        np.testing.assert_allclose(masked["first"], small["first"], rtol=1e-9)


def test_explain_says_what_to_do() -> None:
    graph = jp.trace(network(STEEP["root of a square"]), variables(), X)
    assert "way out: add a small number under the root" in jp.explain(graph, "w")
