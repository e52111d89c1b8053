"""What a function closes over is found by trying, and what the user holds stays as it is."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import ResizeError
from jaxprune.running.verify import following

X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
KEY = jax.random.key(0)


def attend(x: Any, w: Any, heads: int, size: int) -> Any:
    """Attention whose reshapes know both sizes."""
    q, k, u = (jnp.reshape(x @ w[name], (5, heads, size)) for name in "qku")
    weights = jax.nn.softmax(jnp.einsum("shd,thd->hst", q, k))
    return jnp.reshape(jnp.einsum("hst,thd->shd", weights, u), (5, heads * size)) @ w["out"]


class Layer(eqx.Module):
    """Heads, their size and another size that is as large as the heads."""

    w: dict[str, Any]
    norm: eqx.nn.LayerNorm
    depth: int = eqx.field(static=True)
    heads: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __init__(self, heads: int, size: int, key: Any):
        self.depth, self.heads, self.size = heads, heads, size
        wide = heads * size
        shapes = {"q": (6, wide), "k": (6, wide), "u": (6, wide), "out": (wide, 6)}
        self.w = {name: jax.random.normal(key, shape) / 4 for name, shape in shapes.items()}
        self.norm = eqx.nn.LayerNorm(6)

    def __call__(self, x):
        return x + attend(jax.vmap(self.norm)(x), self.w, self.heads, self.size) * self.depth / 8


class Net(eqx.Module):
    """Layers on a stream, which is normalized by its static width."""

    first: eqx.nn.Linear
    layers: list[Layer]
    last: eqx.nn.Linear

    def __init__(self):
        self.first = eqx.nn.Linear(6, 6, key=KEY)
        self.layers = [Layer(heads, size, KEY) for heads, size in ((4, 2), (3, 2))]
        self.last = eqx.nn.Linear(6, 3, key=KEY)

    def __call__(self, x):
        x = jax.vmap(self.first)(x)
        for layer in self.layers:
            x = layer(x)
        return jax.vmap(self.last)(x)


def whole(fn: Any, variables: Any, keep: Any, graph: jp.ChannelGraph) -> Any:
    """Resizes and compares with `narrow`, but for the constants that follow a width."""
    small = jp.slice(graph, variables, keep)
    run = jp.resize(fn, graph, keep)
    expected = following(fn, graph, keep, run)(small, X)
    np.testing.assert_allclose(run(small, X), expected, rtol=1e-4, atol=1e-5)
    return run


@pytest.mark.parametrize("nested", [False, True])
def test_static_fields_of_modules(nested):
    v, static = eqx.partition(Net(), eqx.is_array)
    before = jax.tree.structure(static), jax.tree.structure(v)

    def fn(v, x):
        return eqx.combine(v["net"] if nested else v, static)(x)

    variables = {"net": v} if nested else v
    graph = jp.trace(fn, variables, X)
    keep = {n: np.arange(g.size) % 3 != 1 for n, g in graph.groups.items()}
    run = whole(fn, variables, keep, graph)
    heads = {path: values["heads"] for path, values in run.overrides.items() if "heads" in values}
    assert heads == {"static/layers/0": 3, "static/layers/1": 2}
    assert not any("depth" in values for values in run.overrides.values())
    assert (jax.tree.structure(static), jax.tree.structure(v)) == before
    assert [layer.heads for layer in static.layers] == [4, 3]


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes that check each other."""

    depth: int = 4
    heads: int = 4
    wide: int = 8

    def __post_init__(self) -> None:
        if self.wide % self.heads:
            raise ValueError("wide must be a multiple of heads")


W = {
    name: np.random.default_rng(i).normal(size=shape).astype(np.float32)
    for i, (name, shape) in enumerate(
        {"q": (6, 8), "k": (6, 8), "u": (6, 8), "out": (8, 3)}.items()
    )
}


def made(config: Config) -> Any:
    """A function that closes over a configuration."""

    def fn(v, x):
        return attend(x, v, config.heads, config.wide // config.heads) * (config.depth / 4)

    return fn


def of_integers(heads: int, size: int) -> Any:
    """A function that closes over a function that closes over integers."""

    def inner(v, x):
        return attend(x, v, heads, size)

    return lambda v, x: inner(v, x)


def with_words(v: Any, x: Any, *, sizes: Any) -> Any:
    """A function that gets its sizes as a keyword."""
    return attend(x, v, *sizes)


@pytest.mark.parametrize(
    ("fn", "overrides"),
    [
        (made(Config()), {"": {"config.heads": 3}}),
        (of_integers(4, 2), {"inner": {"heads": 3}}),
        (functools.partial(with_words, sizes=(4, 2)), {"": {"sizes.0": 3}}),
    ],
)
def test_cells_configurations_and_partials(fn, overrides):
    graph = jp.trace(fn, W, X)
    name = next(name for name, group in graph.groups.items() if group.size == 4)
    keep = {name: np.arange(4) != 1}
    assert whole(fn, W, keep, graph).overrides == overrides
    assert fn(W, X).shape == (5, 3)  # it has the sizes that it had


def test_where_no_size_is_right_it_is_refused_and_says_how_near_it_came():
    heads, size = 4, 2

    def fn(v, x):
        if v["q"].shape[1] != 8:
            raise ValueError("no other width")
        return attend(x, v, heads, size)

    graph = jp.trace(fn, W, X)
    name = next(name for name, group in graph.groups.items() if group.size == 4)
    with pytest.raises(ResizeError, match="no other width"):
        jp.resize(fn, graph, {name: np.arange(4) != 1})
    assert (heads, size) == (4, 2)


class Jitted(eqx.Module):
    """Sizes of several modules in one `jit`, which hides how far what raises inside came."""

    first: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    last: eqx.nn.Linear
    width: int = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, width: int = 6):
        self.first, self.last = eqx.nn.Linear(6, 6, key=KEY), eqx.nn.Linear(6, 3, key=KEY)
        self.norm, self.width, self.shape = eqx.nn.LayerNorm(width), width, (width,)

    @eqx.filter_jit
    def __call__(self, x):
        h = jax.vmap(self.first)(x)
        if h.shape[1] != self.width or h.shape[1:] != self.shape:
            raise ValueError("another width")
        return jax.vmap(self.last)(jax.vmap(self.norm)(h))


def test_what_raises_inside_of_a_jit_hides_no_size():
    v, static = eqx.partition(Jitted(), eqx.is_array)

    def fn(v, x):
        return eqx.combine(v, static)(x)

    graph = jp.trace(fn, v, X)
    (name,) = graph.groups
    run = whole(fn, v, {name: np.arange(6) % 3 != 1}, graph)
    assert run.overrides == {
        "static": {"width": 4, "shape.0": 4},
        "static/norm": {"shape.0": 4},
    }


def test_a_jit_that_holds_a_number_of_its_own_is_refused():
    v, static = eqx.partition(Jitted(), eqx.is_array)

    @jax.jit
    def only(h):
        if h.shape[1] != 6:
            raise ValueError("six channels")
        return h

    def fn(v, x):
        net = eqx.combine(v, static)
        return jax.vmap(net.last)(only(jax.vmap(net.first)(x)))

    graph = jp.trace(fn, v, X)
    (name,) = graph.groups
    with pytest.raises(ResizeError, match="six channels"):
        jp.resize(fn, graph, {name: np.arange(6) % 3 != 1})
