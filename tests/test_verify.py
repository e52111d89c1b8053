"""`verify` tells exact, inexact and broken groups apart, and names what is broken."""

import dataclasses
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


class Net(nn.Module):
    """A normalized stream between two dense layers, and a hidden layer."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        x = x + nn.Dense(8)(nn.relu(nn.Dense(10)(x)))
        x = nn.LayerNorm()(nn.softmax(nn.Dense(12)(nn.relu(x))))
        return nn.Dense(3)(x)


MODEL = Net()


@pytest.fixture(scope="module")
def variables():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), X)
    random = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: random.uniform(0.5, 1, leaf.shape).astype(leaf.dtype), shapes)


def evaluated(v, x):
    return MODEL.apply(v, x)


def trained(v, x):
    return MODEL.apply(v, x, train=True, mutable=["batch_stats"])


def half(graph):
    return {name: np.arange(group.size) % 2 == 0 for name, group in graph.groups.items()}


@pytest.mark.parametrize("fn", [evaluated, trained])
def test_groups_are_exact_or_inexact_as_the_graph_says(fn, variables):
    graph = jp.trace(fn, variables, X)
    found = jp.verify(graph, fn, half(graph), variables, X)
    assert found.ok
    assert found.difference < 1e-4
    verdicts = {name: verdict.split(":")[0] for name, verdict in found.groups.items()}
    assert verdicts == {
        name: "exact" if group.inexact is None else "inexact"
        for name, group in graph.groups.items()
    }
    assert "reduce_max" in found.groups["Dense_3/kernel"]


def test_a_group_that_is_wrongly_called_exact_is_found_broken(variables):
    def fn(v, x):
        return evaluated(v, x) + jnp.max(jnp.exp(x @ v["params"]["Dense_0"]["kernel"]))

    graph = jp.trace(fn, variables, X)
    called = {name: dataclasses.replace(g, inexact=None) for name, g in graph.groups.items()}
    wrong = dataclasses.replace(graph, groups=MappingProxyType(called))
    keep = {name: np.arange(group.size) == 0 for name, group in graph.groups.items()}
    negative = {"Dense_0": jax.tree.map(np.negative, variables["params"]["Dense_0"])}
    below_zero = variables | {"params": variables["params"] | negative}
    found = jp.verify(wrong, fn, keep, below_zero, np.abs(X))
    assert not found.ok
    assert found.groups["Dense_0/kernel"].startswith("broken: differs by ")
    assert found.groups["Dense_2/kernel"] == "exact"


def test_the_resized_network_is_compared_too(variables):
    graph = jp.trace(evaluated, variables, X)
    keep = {n: k for n, k in half(graph).items() if graph.groups[n].inexact is None}
    model = jp.linen.resize(MODEL, graph, keep)
    found = jp.verify(graph, evaluated, keep, variables, X, resized=lambda v, x: model.apply(v, x))
    assert found.resized == "exact"
    assert "resized network: exact" in str(found)
    other = jp.verify(
        graph, evaluated, keep, variables, X, resized=lambda v, x: 1 + model.apply(v, x)
    )
    assert not other.ok
    assert other.resized is not None
    assert other.resized.startswith("broken: differs by ")


def test_constants_that_follow_are_listed_and_the_rest_is_compared(variables):
    graph = jp.trace(evaluated, variables, X)
    keep = half(graph)
    model = jp.linen.resize(MODEL, graph, keep)
    assert model.follows
    found = jp.verify(graph, evaluated, keep, variables, X, resized=lambda v, x: model.apply(v, x))
    assert found.ok
    assert found.resized == f"exact, but for {len(model.follows)} constants that follow"
    assert len(found.follows) == len(model.follows)
    assert "follows a width: div(" in str(found)
    assert "12 became 6" in str(found)


def test_what_differs_beside_a_constant_that_follows_is_broken(variables):
    def fn(v, x):
        h = x @ v["params"]["Dense_0"]["kernel"]
        return h.mean(-1, keepdims=True) + evaluated(v, x)

    graph = jp.trace(fn, variables, X)
    keep = {"Dense_0/kernel": np.arange(8) < 5}
    small = jp.slice(graph, variables, keep)
    model = jp.linen.resize(MODEL, jp.trace(evaluated, variables, X), keep)

    def resized(v, x):
        h = x @ v["params"]["Dense_0"]["kernel"]
        return h.mean(-1, keepdims=True) + model.apply(v, x)

    assert resized(small, X).shape == (4, 3)
    found = jp.verify(graph, fn, keep, variables, X, resized=resized)
    assert found.ok
    assert found.resized == "exact, but for 1 constants that follow"
    wrong = jp.verify(graph, fn, keep, variables, X, resized=lambda v, x: 1.01 * resized(v, x))
    assert not wrong.ok


def test_gradients_are_compared(variables):
    """A root of a square gives the right outputs, and gradients that are not numbers."""

    def fn(v, x):
        h = jnp.tanh(x @ v["params"]["Dense_0"]["kernel"]) @ v["params"]["Dense_2"]["kernel"]
        return jnp.sqrt(h * h) @ v["params"]["Dense_1"]["kernel"]

    graph = jp.trace(fn, variables, X)
    called = {name: dataclasses.replace(g, inexact=None) for name, g in graph.groups.items()}
    wrong = dataclasses.replace(graph, groups=MappingProxyType(called))
    keep = {"Dense_2/kernel": np.arange(10) % 2 == 0}
    found = jp.verify(wrong, fn, keep, variables, X)
    assert found.difference < 1e-5
    assert not found.ok
    assert "its gradients by" in found.groups["Dense_2/kernel"]


def test_a_network_without_a_gradient_is_compared_by_its_outputs(variables):
    def fn(v, x):
        h = x @ v["params"]["Dense_0"]["kernel"]
        h = jax.lax.while_loop(lambda h: jnp.abs(h).max() > 1, lambda h: h / 2, h)
        return h @ v["params"]["Dense_2"]["kernel"]

    graph = jp.trace(fn, variables, X)
    found = jp.verify(graph, fn, half(graph), variables, X)
    assert found.gradients is None
    assert "gradients" not in str(found)


def test_a_resized_network_that_draws_is_compared_by_its_equations():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dropout(0.5, deterministic=False)(nn.relu(nn.Dense(8)(x)))
            return nn.Dense(3)(x)

    net, keys = Noisy(), {"dropout": jax.random.key(1)}
    variables = net.init({"params": jax.random.key(0), **keys}, X)

    def fn(v, x):
        return net.apply(v, x, rngs=keys)

    graph = jp.trace(fn, variables, X)
    keep = {"Dense_0/kernel": np.arange(8) < 5}
    model = jp.linen.resize(net, graph, keep)
    found = jp.verify(
        graph, fn, keep, variables, X, resized=lambda v, x: model.apply(v, x, rngs=keys)
    )
    assert found.ok
    assert found.resized == "exact, but for random numbers of its own"
    assert found.draws == model.draws != ()


def test_a_wrong_tree_or_keep_is_refused_before_anything_runs(variables):
    graph = jp.trace(evaluated, variables, X)
    with pytest.raises(jp.errors.KeepError, match="has shape"):
        jp.verify(graph, evaluated, {"Dense_0/kernel": np.ones(3, bool)}, variables, X)
    with pytest.raises(jp.errors.TreeError, match="does not mirror"):
        jp.verify(graph, evaluated, {}, {"other": X}, X)
