"""Dropout in the layers of frameworks: narrowed, and resized."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from test_draws import KEY, V, X, check, dropout, network, per_key
from test_draws_layers import doubled

WIDTH = 8
KEEP = np.array([False, True, True, False, False, True, False, True])


class Linen(nn.Module):
    """Dropout of entries and of whole rows of channels."""

    @nn.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        x = nn.Dropout(0.3, deterministic=not train)(nn.relu(nn.Dense(WIDTH, name="first")(x)))
        x = nn.relu(nn.Dense(WIDTH, name="second")(x))
        x = nn.Dropout(0.3, broadcast_dims=(0,), deterministic=not train)(x)
        return nn.Dense(4)(x)


class Model(nnx.Module):
    """Dropout, from the model's own random state."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(5, WIDTH, param_dtype=jnp.float64, rngs=rngs)
        self.last = nnx.Linear(WIDTH, 4, param_dtype=jnp.float64, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.last(self.dropout(nnx.relu(self.first(x))))


def linen() -> tuple[Any, Any]:
    variables = Linen().init({"params": KEY, "dropout": KEY}, X)
    return lambda v, x: Linen().apply(v, x, rngs={"dropout": KEY}), variables


def of_nnx() -> tuple[Any, Any]:
    model = Model(nnx.Rngs(0))
    model.train()
    fn = jp.nnx.function(model)
    return lambda v, x: fn(v, x)[0], jp.nnx.variables(model)


def haiku() -> tuple[Any, Any]:
    def forward(x: Any) -> Any:
        x = hk.dropout(hk.next_rng_key(), 0.3, jax.nn.relu(hk.Linear(WIDTH)(x)))
        return hk.Linear(4)(x)

    net = hk.transform(forward)
    return lambda v, x: net.apply(v, KEY, x), net.init(KEY, X)


def equinox() -> tuple[Any, Any]:
    layers = [
        eqx.nn.Linear(5, WIDTH, key=KEY),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Dropout(0.3),
        eqx.nn.Linear(WIDTH, 4, key=KEY),
    ]
    variables, static = eqx.partition(eqx.nn.Sequential(layers), eqx.is_array)
    keys = jax.random.split(KEY, len(X))
    return lambda v, x: jax.vmap(eqx.combine(v, static))(x, key=keys), variables


@pytest.mark.parametrize("model", [linen, of_nnx, haiku, equinox])
def test_dropout_of_a_framework(model: Any) -> None:
    with jax.enable_x64(True):
        fn, variables = model()
        variables = doubled(variables)
        graph = jp.trace(fn, variables, X)
        assert {group.size for group in graph.groups.values()} == {WIDTH}
        assert all(group.inexact is None for group in graph.groups.values())
        check(fn, graph, variables, X, dict.fromkeys(graph.groups, KEEP))


def test_a_resized_module_says_what_it_draws() -> None:
    variables = Linen().init({"params": KEY, "dropout": KEY}, X)
    fn = lambda v, x: Linen().apply(v, x, rngs={"dropout": KEY})  # noqa: E731
    graph = jp.trace(fn, variables, X)
    keep = {"first/kernel": KEEP}
    resized = jp.linen.resize(Linen(), graph, keep)
    assert resized.follows == ()
    assert resized.draws == ("random_bits([]) -> [3, 8] at Linen/Dropout_0 became [3, 4]",)
    again = jp.linen.resize(resized, *_again(resized, graph, variables, keep))
    assert len(again.draws) == 2
    still = jp.trace(lambda v, x: Linen().apply(v, x, train=False), variables, X)
    assert jp.linen.resize(Linen(), still, keep).draws == ()
    assert jp.linen.resize(Linen(), graph, {"first/kernel": np.ones(8, bool)}).draws == ()


def _again(resized: Any, graph: Any, variables: Any, keep: Any) -> tuple[Any, Any]:
    """The graph of a resized module, and a keep of its other layer."""
    small = jp.slice(graph, variables, keep)
    fn = lambda v, x: resized.apply(v, x, rngs={"dropout": KEY})  # noqa: E731
    return jp.trace(fn, small, X), {"second/kernel": KEEP}


def test_a_resized_model_of_nnx_says_what_it_draws() -> None:
    with jax.enable_x64(True):
        model = Model(nnx.Rngs(0))
        model.train()
        graph, keep = jp.nnx.trace(model, X), {"first/kernel": KEEP}
        (found,) = jp.nnx.draws(graph, keep)
        assert found == "random_bits([]) -> [3, 8] at dropout became [3, 4]"
        assert jp.nnx.draws(graph, {}) == jp.nnx.follows(graph, keep) == ()


DRAWN = {
    "dropout": (dropout, 1),
    "of every channel at once": (lambda h: dropout(h, shape=(3, 1)), 0),
    "in a scan": (lambda h: jax.lax.scan(lambda h, _: (dropout(h), None), h, length=2)[0], 1),
    "gamma": (lambda h: jax.random.gamma(KEY, 0.5 + jnp.abs(h)), 1),
    "keys of the channels": (lambda h: per_key(h, jax.random.split(KEY, h.shape[1])), 1),
    "flat": (lambda h: h * jax.random.uniform(KEY, (h.size,)).reshape(h.shape), 1),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_resized_function_says_what_it_draws(name: str) -> None:
    layer, count = DRAWN[name]
    fn, v = network(layer), jax.tree.map(np.float32, V)
    graph = jp.trace(fn, v, X.astype(np.float32))
    resized = jp.resize(fn, graph, {"w": KEEP})
    assert len(resized.draws) == count
    assert all("random_" in text and "became" in text for text in resized.draws)
    assert resized(jp.slice(graph, v, {"w": KEEP}), X.astype(np.float32)).shape == (3, 4)


def test_a_key_that_the_function_closes_over_is_compared() -> None:
    def noisy(seed: int) -> Any:
        keys = jax.random.key(seed)
        return lambda v, x: (x @ v["a"]) @ v["b"] + jax.random.normal(keys, (3,))[None]

    v = {"a": np.ones((2, 4), np.float32), "b": np.ones((4, 3), np.float32)}
    x, keep = np.ones((1, 2), np.float32), {"a": np.arange(4) < 2}
    graph = jp.trace(noisy(7), v, x)
    assert jp.resize(noisy(7), graph, keep).follows == ()
    with pytest.raises(jp.errors.ResizeError, match="or other values"):
        jp.resize(noisy(8), graph, keep)
