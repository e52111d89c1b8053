"""Functions of Haiku modules at the kept widths."""

import sys
from functools import partial

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(2, 8, 8, 3)).astype(np.float32)
TOKENS = RANDOM.normal(size=(2, 5, 6)).astype(np.float32)


def convolutions(x, train):
    x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(hk.Conv2D(8, 3)(x), is_training=train))
    x = jax.nn.relu(hk.Conv2D(8, 3, feature_group_count=8)(x))
    x = jax.nn.relu(hk.Conv2DTranspose(6, 3)(x))
    return hk.nets.MLP([10, 4])(x.mean((1, 2)))


def attention(x, _train):
    y = hk.MultiHeadAttention(4, 3, w_init=hk.initializers.VarianceScaling(), model_size=6)(x, x, x)
    y = hk.LayerNorm(-1, True, True)(x + y)
    return hk.Linear(2)(jax.nn.gelu(hk.Linear(12)(y)))


class Reshaped(hk.Module):
    """Sizes that only attributes show."""

    def __init__(self, heads, size):
        super().__init__()
        self.heads, self.size = heads, size

    def __call__(self, x):
        y = hk.Linear(self.heads * self.size)(x)
        y = jnp.tanh(y.reshape(*x.shape[:-1], self.heads, self.size).sum(-2))
        return hk.Linear(2)(y)


def resnet(x, train):
    return hk.nets.ResNet18(5, resnet_v2=True)(x, is_training=train)


NETWORKS = {
    "convolutions": (convolutions, IMAGES),
    "attention": (attention, TOKENS),
    "reshaped": (lambda x, _train: Reshaped(4, 3)(x), TOKENS),
    "resnet": (resnet, RANDOM.normal(size=(1, 32, 32, 3)).astype(np.float32)),
}


def made(name):
    """Returns (training call, variables, input) of a network; its state is a variable too."""
    network, x = NETWORKS[name]
    model = hk.transform_with_state(network)
    params, state = jax.eval_shape(lambda: model.init(jax.random.key(0), x, True))

    def draw(leaf):
        return RANDOM.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype)

    variables = jax.tree.map(draw, {"params": params, "state": state})
    return lambda v, x: model.apply(v["params"], v["state"], None, x, True), variables, x


def half(graph):
    return {n: np.arange(g.size) % 2 == 0 for n, g in graph.groups.items() if g.inexact is None}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_resized_function_is_the_narrow_one(name):
    fn, variables, x = made(name)
    graph = jp.trace(fn, variables, x)
    keep = half(graph)
    assert keep
    small, run = jp.slice(graph, variables, keep), jp.haiku.resize(fn, graph, keep)
    expected = jax.jit(jp.narrow(fn, graph, keep))(small, x)
    found = jax.jit(run)(small, x)
    assert bool(run.overrides) == (name in ("attention", "reshaped"))  # others: from kernels
    if not run.follows:
        close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
        jax.tree.map(close, found, expected)
    whole = jp.haiku.resize(fn, graph, {})
    jax.tree.map(
        np.testing.assert_array_equal, jax.jit(whole)(variables, x), jax.jit(fn)(variables, x)
    )


def test_what_was_found_is_listed_and_can_be_given(monkeypatch):
    fn, variables, x = made("reshaped")
    graph = jp.trace(fn, variables, x)
    run = jp.haiku.resize(fn, graph, half(graph))
    assert run.overrides == {"reshaped": {"heads": 2, "size": 2}}
    monkeypatch.setattr("jaxprune.running.attribute_search.TRIES", 0)
    given = jp.haiku.resize(fn, graph, half(graph), overrides=run.overrides)
    small = jp.slice(graph, variables, half(graph))
    np.testing.assert_array_equal(given(small, x)[0], run(small, x)[0])
    with pytest.raises(jp.errors.ResizeError, match="Fix: give the module"):
        jp.haiku.resize(fn, graph, half(graph))
    with pytest.raises(jp.errors.PatternError, match="override for modules"):
        jp.haiku.resize(fn, graph, half(graph), overrides={"absent": {"heads": 2}})


def test_another_function_is_refused():
    fn, variables, x = made("convolutions")
    graph = jp.trace(fn, variables, x)
    with pytest.raises(jp.errors.ResizeError, match="Fix:"):
        jp.haiku.resize(lambda v, x: fn(v, 2 * x), graph, half(graph))


def test_without_haiku_the_error_says_how_to_get_it(monkeypatch):
    fn, variables, x = made("convolutions")
    graph = jp.trace(fn, variables, x)
    monkeypatch.setitem(sys.modules, "haiku", None)
    with pytest.raises(jp.errors.JaxpruneError, match="Fix: pip install dm-haiku"):
        jp.haiku.resize(fn, graph, half(graph))
