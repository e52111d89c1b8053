"""Of two attributes of one value the right one is found, wherever attributes stand.

The first candidate is a decoy, which scales the result. Where the code holds the number itself, no
attribute is right: that is refused, and what was given stays as it was.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.errors import ResizeError

X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
KEY = jax.random.key(0)


def tail(h: Any, decoy: int, heads: int, reshape: Callable[..., Any] = jnp.reshape) -> Any:
    """Heads whose number the code knows, each with as many channels as there are."""
    return reshape(reshape(h, (-1, heads, 2)) * (decoy / 4), (-1, 2 * heads))


class Found(NamedTuple):
    """How a model was resized: what it computes, what `narrow` does, and what was found."""

    resized: Any
    narrow: Any
    overrides: Any


def keep_of(graph: jp.ChannelGraph) -> dict[str, np.ndarray]:
    """Three of four heads."""
    (name,) = (name for name, group in graph.groups.items() if group.size == 4)
    return {name: np.array([True, False, True, True])}


def of_linen(literal: bool) -> Found:
    class Net(nn.Module):
        decoy: int = 4
        heads: int = 4

        @nn.compact
        def __call__(self, x):
            h = tail(nn.Dense(8)(x), self.decoy, 4 if literal else self.heads)
            return nn.Dense(2)(h)

    variables = Net().init(KEY, X)
    graph = jp.linen.trace(Net(), variables, X)
    keep = keep_of(graph)
    small = jp.linen.resize(Net(), graph, keep)
    cut = jp.slice(graph, variables, keep)
    return Found(small.apply(cut, X), jp.narrow(graph.fn, graph, keep)(cut, X), small.overrides[""])


def of_nnx(literal: bool) -> Found:
    class Net(nnx.Module):
        def __init__(self):
            self.decoy, self.heads = 4, 4
            self.first, self.last = (nnx.Linear(*n, rngs=nnx.Rngs(0)) for n in ((3, 8), (8, 2)))

        def __call__(self, x):
            return self.last(tail(self.first(x), self.decoy, 4 if literal else self.heads))

    model = Net()
    graph, variables = jp.nnx.trace(model, X), jp.nnx.variables(model)
    keep = keep_of(graph)
    small = jp.nnx.resize(model, graph, keep)
    expected = jp.narrow(graph.fn, graph, keep)(jp.slice(graph, variables, keep), X)[0]
    assert (model.decoy, model.heads) == (4, 4)
    return Found(small(X), expected, jp.nnx.overrides(graph, keep)[""])


def of_haiku(literal: bool) -> Found:
    class Net(hk.Module):
        def __init__(self):
            super().__init__(name="net")
            self.decoy, self.heads = 4, 4

        def __call__(self, x):
            h = hk.Linear(8)(x)
            return hk.Linear(2)(tail(h, self.decoy, 4 if literal else self.heads))

    model = hk.without_apply_rng(hk.transform(lambda x: Net()(x)))
    variables = model.init(KEY, X)
    graph = jp.trace(model.apply, variables, X)
    keep = keep_of(graph)
    run, cut = jp.haiku.resize(model.apply, graph, keep), jp.slice(graph, variables, keep)
    return Found(run(cut, X), jp.narrow(graph.fn, graph, keep)(cut, X), run.overrides["net"])


def of_keras(literal: bool) -> Found:
    class Heads(keras.layers.Layer):
        def __init__(self, decoy: int, heads: int, **words: Any):
            super().__init__(**words)
            self.decoy, self.heads = decoy, heads

        def call(self, h):
            return tail(h, self.decoy, 4 if literal else self.heads, keras.ops.reshape)

        def get_config(self):
            return super().get_config() | {"decoy": self.decoy, "heads": self.heads}

    layers = [keras.layers.Dense(8, use_bias=False), Heads(4, 4, name="heads")]
    layers.append(keras.layers.Dense(2, use_bias=False))
    model = keras.Sequential([keras.Input((3,)), *layers])
    graph = jp.keras.trace(model, X)
    keep = keep_of(graph)
    small = jp.keras.resize(model, graph, keep)
    cut = jp.slice(graph, jp.keras.variables(model), keep)
    assert (layers[1].decoy, layers[1].heads) == (4, 4)
    expected = jax.tree.leaves(jp.narrow(graph.fn, graph, keep)(cut, X))[0]
    return Found(small(X), expected, jp.keras.overrides(graph, keep)["heads"])


def of_equinox(literal: bool) -> Found:
    class Net(eqx.Module):
        w: list[jax.Array]
        decoy: int = eqx.field(static=True, default=4)
        heads: int = eqx.field(static=True, default=4)

        def __call__(self, x):
            h = tail(x @ self.w[0], self.decoy, 4 if literal else self.heads)
            return h @ self.w[1]

    w = [jax.random.normal(KEY, shape) for shape in ((3, 8), (8, 2))]
    variables, static = eqx.partition(Net(w), eqx.is_array)
    found = of_function(lambda v, x: eqx.combine(v, static)(x), variables)
    return found._replace(overrides=found.overrides["static"])


def of_closure(literal: bool) -> Found:
    decoy, heads = 4, 4

    def fn(v, x):
        return tail(x @ v["a"], decoy, 4 if literal else heads) @ v["b"]

    found = of_function(fn, {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2))})
    return found._replace(overrides=found.overrides[""])


def of_function(fn: Any, variables: Any) -> Found:
    graph = jp.trace(fn, variables, X)
    keep = keep_of(graph)
    run, cut = jp.resize(fn, graph, keep), jp.slice(graph, variables, keep)
    return Found(run(cut, X), jp.narrow(fn, graph, keep)(cut, X), run.overrides)


EVERY = [of_linen, of_nnx, of_haiku, of_keras, of_equinox, of_closure]


@pytest.mark.parametrize("resized", EVERY)
def test_the_right_attribute_need_not_be_the_first(resized: Callable[[bool], Found]) -> None:
    found = resized(False)
    assert found.overrides == {"heads": 3}
    np.testing.assert_allclose(found.resized, found.narrow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("resized", EVERY)
def test_where_no_attribute_is_right_it_is_refused(resized: Callable[[bool], Found]) -> None:
    with pytest.raises(ResizeError, match=r"(none is the same|does not run|not the same network)"):
        resized(True)
