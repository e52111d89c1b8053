"""The law of reconstruction: on its data no reader is worse than as it was, in any layout."""

from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.recover import Form, least_squares

Network = tuple[Callable[[Any, Any], Any], dict[str, np.ndarray], tuple[int, ...]]
"""A function whose last operation but a bias is the reader, its variables, and an input's shape."""


def with_bias(y: Any, v: Any) -> Any:
    return y + v["d"].reshape([1] * (y.ndim - 1) + [-1]) if "d" in v else y


def dense(rng: np.random.Generator, n: int, outputs: int) -> Network:
    def fn(v: Any, x: Any) -> Any:
        return with_bias(jax.nn.relu(x @ v["a"]) @ v["b"], v)

    return fn, {"a": rng.normal(size=(3, n)), "b": rng.normal(size=(n, outputs))}, (3,)


def heads(rng: np.random.Generator, n: int, outputs: int) -> Network:
    """Heads go, and dimensions of all heads."""

    def fn(v: Any, x: Any) -> Any:
        h = jnp.tanh(jnp.einsum("btd,dhe->bthe", x, v["a"]))
        return with_bias(jnp.einsum("bthe,heo->bto", h, v["b"]), v)

    return fn, {"a": rng.normal(size=(3, n, 2)), "b": rng.normal(size=(n, 2, outputs))}, (2, 3)


def grouped(rng: np.random.Generator, n: int, outputs: int) -> Network:
    """A product with a kernel of its own for each of two blocks."""

    def fn(v: Any, x: Any) -> Any:
        return with_bias(jnp.einsum("bgi,gio->bgo", jax.nn.relu(x @ v["a"]), v["b"]), v)

    return fn, {"a": rng.normal(size=(3, n)), "b": rng.normal(size=(2, n, outputs))}, (2, 3)


def convolution(rng: np.random.Generator, n: int, outputs: int) -> Network:
    """Any stride, dilation of both sides, padding and, for an even n, two feature groups."""
    groups = 2 if n in (4, 6, 8) and rng.random() < 0.5 else 1
    window, strides, spread, holes = rng.integers(1, 3, (4, 2)).tolist()
    padding = [tuple(pair) for pair in rng.integers(0, 3, (2, 2)).tolist()]

    def fn(v: Any, x: Any) -> Any:
        h = jax.nn.relu(jnp.einsum("bhwc,cn->bhwn", x, v["a"]))
        y = lax.conv_general_dilated(
            h, v["b"], strides, padding, spread, holes,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        )  # fmt: skip
        return with_bias(y, v)

    kernel = rng.normal(size=(*window, n // groups, outputs * groups))
    return fn, {"a": rng.normal(size=(3, n)), "b": kernel}, (5, 4, 3)


LAYOUTS = (dense, convolution, heads, grouped)


def errors(seed: int, layout: Any, form: Form, ridge: float) -> tuple[float, float, float]:
    """Squared errors of the outputs with the reader as it was and fitted, and their squares.

    They come from runs of the masked network in float32, not from the moments.
    """
    rng = np.random.default_rng(seed)
    n, outputs = int(rng.integers(2, 9)), int(rng.integers(1, 5))
    fn, v, shape = layout(rng, n, outputs)
    if rng.random() < 0.5:
        v["d"] = rng.normal(size=v["b"].shape[-1])
    if rng.random() < 0.3:  # two channels are one, so that the Gram is singular
        v["a"][:, 0] = v["a"][:, -1]
    v = {name: w.astype(np.float32) for name, w in v.items()}
    x = rng.normal(size=(int(rng.integers(1, 30)), *shape)).astype(np.float32)
    graph = jp.trace(fn, v, x)
    keep = {
        name: rng.permutation(group.size) < rng.integers(1, max(group.size, 2))
        for name, group in graph.groups.items()
    }
    found = least_squares(graph, v, keep, [x], form=form, ridge=ridge)
    y = np.asarray(fn(v, x), np.float64)
    before, after = (
        float(((np.asarray(fn(jp.mask(graph, w, keep), x), np.float64) - y) ** 2).sum())
        for w in (v, found.variables)
    )
    (one,) = found.fits
    assert one.kernel == "b", one.why
    return before, after, float((y**2).sum())


def check(seed: int, layout: Any, form: Form, ridge: float) -> None:
    before, after, size = errors(seed, layout, form, ridge)
    assert after <= before * (1 + 1e-5) + 1e-10 * size


CASES = {
    "seed": st.integers(0, 10**6),
    "layout": st.sampled_from(LAYOUTS),
    "form": st.sampled_from(Form),
    "ridge": st.sampled_from((0.0, 1e-3, 1.0)),
}


@hypothesis.settings(max_examples=8)
@hypothesis.given(**CASES)
def test_no_reader_is_worse_on_its_data(seed: int, layout: Any, form: Form, ridge: float) -> None:
    check(seed, layout, form, ridge)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_hundred_readers_are_no_worse_on_their_data(layout: Any) -> None:
    for seed in range(25):
        check(seed, layout, list(Form)[seed % 3], (0.0, 1e-3, 1.0)[seed // 3 % 3])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_kernel_makes_up_for_something(layout: Any) -> None:
    """So that the law is not kept by leaving all as it was."""
    found = [errors(seed, layout, Form.KERNEL, 0.0) for seed in (2, 3, 5)]
    assert any(after < 0.5 * before for before, after, _ in found)
