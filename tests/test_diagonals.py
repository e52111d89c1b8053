"""Identities: matrices that tie their two axes, in every spelling, and what is none."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from test_windows import chosen, places
from test_zoo_attention import check_narrow

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape)


V = {"a": normal(5, 8), "q": normal(8, 8), "g": normal(8), "b": normal(8, 3)}
X = normal(4, 5)
EYE = np.eye(8)


def twice(v: Any) -> Any:
    """A function that is compiled once and called with two pairs of positions."""
    same = jax.jit(lambda i, j: (i == j).astype(float))
    rows, columns = (lax.broadcasted_iota(np.int32, (8, 8), axis) for axis in (0, 1))
    return v["q"] * same(rows, columns) + same(columns, rows) @ v["q"]


TIED: dict[str, Callable[[Any], Any]] = {
    "a residual": lambda v: v["q"] + jnp.eye(8),
    "a constant": lambda v: v["q"] + EYE,
    "a multiple": lambda v: v["q"] + 0.5 * jnp.identity(8),
    "a diagonal": lambda v: v["q"] + jnp.diag(v["g"]),
    "a scale": lambda v: v["g"][:, None] * jnp.eye(8) @ v["q"],
    "one hot": lambda v: jax.nn.one_hot(jnp.arange(8), 8) @ v["q"],
    "compared": lambda v: v["q"] * (jnp.arange(8)[:, None] == jnp.arange(8)[None]),
    "the lower triangle": lambda v: jnp.tril(v["q"]),
    "without a diagonal": lambda v: v["q"] * (1 - jnp.eye(8)),
    "orthogonal": lambda v: jnp.eye(8) - 2 * jnp.outer(v["g"], v["g"]) @ v["q"],
    "in a jit": jax.jit(lambda v: v["q"] + jnp.eye(8)),
    "in a loop": lambda v: lax.fori_loop(0, 2, lambda _, w: w + jnp.eye(8), v["q"]),
    "twice": twice,
}


@pytest.mark.parametrize("how", TIED)
def test_an_identity_ties_its_axes(how: str) -> None:
    def fn(v: Any, x: Any) -> Any:
        h = jnp.tanh(x @ v["a"])
        return jnp.tanh(h @ TIED[how](v)) @ v["b"] + (h * v["g"][None]) @ v["b"]

    with jax.enable_x64(True):
        graph = jp.trace(fn, V, X)
        (group,) = graph.groups.values()
        assert places(group) == {("a", 1), ("q", 0), ("q", 1), ("g", 0), ("b", 0)}
        assert group.size == 8
        assert group.inexact is None
        check_narrow(graph, V, chosen(graph), X)


def nearly() -> np.ndarray:
    found = np.eye(8)
    found[0, 2] = 1.0
    return found


def cube(v: Any) -> Any:
    """One program that compares positions along other axes the second time."""
    same = jax.jit(lambda i, j: (i == j).astype(float))
    i, j, k = (lax.broadcasted_iota(np.int32, (8, 8, 8), axis) for axis in range(3))
    return jnp.einsum("ijk,kl->jl", same(i, j) * same(i, k), v["q"])


def stepped(v: Any) -> Any:
    """A loop hands its positions out."""

    def step(w: Any, _: Any) -> Any:
        rows, columns = positions(lambda i, j: (i, j))
        return w + (rows == columns), rows

    w, rows = lax.scan(step, v["q"], None, length=2)
    return w * rows[0]


def positions(fn: Callable[..., Any]) -> Any:
    return fn(*(lax.broadcasted_iota(np.int32, (8, 8), axis) for axis in (0, 1)))


NOT_TIED: dict[str, Callable[[Any], Any]] = {
    "beside the diagonal": lambda v: v["q"] + jnp.eye(8, k=1),
    "above the diagonal": lambda v: jnp.triu(v["q"]),
    "a band": lambda v: jnp.tril(v["q"], -1),
    "read": lambda v: v["q"] + jnp.eye(8) * jnp.arange(8)[None],
    "read before": lambda v: v["q"] * jnp.where(*positions(lambda i, j: (i == j, i, j))),
    "a number": lambda v: v["q"] * (jnp.arange(8) == 3)[None],
    "a permutation": lambda v: EYE[::-1] @ v["q"],
    "another diagonal": lambda v: v["q"] + np.diag(np.arange(8.0)),
    "nearly a diagonal": lambda v: v["q"] + nearly(),
    "handed out of a loop": stepped,
    "a table": lambda v: v["q"] + np.ones((8, 8)),
}


ALIKE: dict[str, Callable[[Any], Any]] = {
    "the same axis": lambda v: v["q"] * (jnp.arange(8) == jnp.arange(8))[None],
    "a cube": cube,
    "small integers": lambda v: v["q"] * positions(lambda i, j: i.astype(np.int8) == j),
}


@pytest.mark.parametrize("how", ALIKE)
def test_positions_that_are_compared_for_equality_are_pruned(how: str) -> None:
    def fn(v: Any, x: Any) -> Any:
        return jnp.tanh(jnp.tanh(x @ v["a"]) @ ALIKE[how](v)) @ v["b"]

    v = {key: V[key] for key in "aqb"}
    graph = jp.trace(fn, v, X)
    assert not any(item.reason == "counted by iota" for item in graph.frozen)
    check_narrow(graph, v, chosen(graph), X)


@pytest.mark.parametrize("how", NOT_TIED)
def test_other_positions_and_constants_are_frozen(how: str) -> None:
    def fn(v: Any, x: Any) -> Any:
        return jnp.tanh(jnp.tanh(x @ v["a"]) @ NOT_TIED[how](v)) @ v["b"]

    graph = jp.trace(fn, {key: V[key] for key in "aqb"}, X)
    reasons = {(item.path, item.axis): item.reason for item in graph.frozen}
    assert {reasons.get(("q", 0)), reasons.get(("q", 1))} & {
        "counted by iota",
        "constant of the function",
    }


def test_positions_that_are_returned_are_frozen() -> None:
    def fn(v: Any, x: Any) -> Any:
        rows, columns = positions(lambda i, j: (i, j))
        h = jnp.tanh(x @ v["a"]) @ (v["q"] * (rows == columns))
        return {"y": jnp.tanh(h) @ v["b"], "rows": rows}

    v = {key: V[key] for key in "aqb"}
    graph = jp.trace(fn, v, X, free_outputs=["rows"])
    reasons = {(item.path, item.axis): item.reason for item in graph.frozen}
    assert reasons["q", 0] == "counted by iota"


def test_what_is_compared_with_frozen_positions_is_frozen_too() -> None:
    """The others would be counted anew beside positions that are whole."""

    def fn(v: Any, x: Any) -> Any:
        w = v["q"] * positions(lambda i, j: (i == j) * i)
        return jnp.tanh(jnp.tanh(x @ v["a"]) @ w) @ v["b"]

    graph = jp.trace(fn, {key: V[key] for key in "aqb"}, X)
    reasons = {(item.path, item.axis): item.reason for item in graph.frozen}
    assert reasons["q", 0] == reasons["q", 1] == "counted by iota"


def test_an_identity_of_another_size_is_frozen() -> None:
    def fn(v: Any, x: Any) -> Any:
        return jnp.tanh(x @ v["a"]) @ jnp.eye(8, 6) @ v["c"]

    graph = jp.trace(fn, {"a": V["a"], "c": normal(6, 3)}, X)
    assert graph.groups == {}


class Merged(nn.Module):
    """RepVGG: three branches of one kernel, of which one is the identity."""

    width: int = 8
    constant: bool = False
    fixed: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        init = nn.initializers.normal()
        h = nn.relu(nn.Dense(self.width, name="first")(x))
        kernel = self.param("kernel", init, (3, self.width, self.width))
        point = self.param("point", init, (1, self.width, self.width))
        scale = self.param("scale", init, (self.width,))
        n = 8 if self.fixed else self.width
        eye = np.eye(n, dtype=np.float32) if self.constant else jnp.eye(n)
        middle = point + eye[None] * scale[None, None]
        kernel = kernel + jnp.pad(middle, ((1, 1), (0, 0), (0, 0)))
        layout = ("NHC", "HIO", "NHC")
        h = lax.conv_general_dilated(h, kernel, (1,), "SAME", dimension_numbers=layout)
        return nn.Dense(2, name="last")(nn.relu(h))


@pytest.mark.parametrize("constant", [False, True])
def test_a_merged_kernel_is_resized(constant: bool) -> None:
    module, x = Merged(constant=constant), normal(2, 6, 3).astype(np.float32)
    v = jax.tree.map(np.asarray, module.init(jax.random.key(0), x))
    graph = jp.trace(module.apply, v, x)
    (group,) = graph.groups.values()
    assert {("params/kernel", 1), ("params/kernel", 2), ("params/point", 1)} < places(group)
    assert group.inexact is None
    keep = chosen(graph)
    small = jp.linen.resize(module, graph, keep)
    wanted = module.apply(jp.mask(graph, v, keep), x)
    sliced = jp.slice(graph, v, keep)
    np.testing.assert_allclose(small.apply(sliced, x), wanted, 1e-5, 1e-6)
    np.testing.assert_allclose(jp.narrow(module.apply, graph, keep)(sliced, x), wanted, 1e-5, 1e-6)
    with pytest.raises(jp.errors.ResizeError):
        jp.linen.resize(Merged(constant=constant, fixed=True), graph, keep)


def test_a_constant_of_other_values_is_not_the_cut_one() -> None:
    """At the kept sizes the constant must be the identity too."""

    class Net(nn.Module):
        width: int = 8

        @nn.compact
        def __call__(self, x: Any) -> Any:
            q = self.param("q", nn.initializers.normal(), (self.width, self.width))
            h = nn.relu(nn.Dense(self.width, name="first")(x))
            factor = np.float32(self.width == 8)
            return nn.Dense(2, name="last")(h @ (q + np.eye(self.width, dtype=np.float32) * factor))

    x = X.astype(np.float32)
    v = jax.tree.map(np.asarray, Net().init(jax.random.key(0), x))
    graph = jp.trace(Net().apply, v, x)
    with pytest.raises(jp.errors.ResizeError, match="other values"):
        jp.linen.resize(Net(), graph, chosen(graph), overrides={"": {"width": 4}})
