"""Equinox: the arrays of a model are the variables, and its static sizes are checked."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(2, 3, 10, 10)).astype(np.float32)


class Net(eqx.Module):
    """A stem, a normalized layer, attention over the pixels, and a head."""

    stem: eqx.nn.Conv2d
    conv: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    attention: eqx.nn.MultiheadAttention
    head: eqx.nn.Linear
    activation: Any

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.stem = eqx.nn.Conv2d(3, 10, 3, stride=2, key=keys[0])
        self.conv = eqx.nn.Conv2d(10, 8, 3, key=keys[1])
        self.norm = eqx.nn.GroupNorm(4, 8)
        self.attention = eqx.nn.MultiheadAttention(4, 8, key=keys[2])
        self.head = eqx.nn.Linear(8, 5, key=keys[3])
        self.activation = jax.nn.relu

    def __call__(self, x):
        x = self.conv(self.activation(self.stem(x)))
        x = self.activation(self.norm(x)).reshape(x.shape[0], -1).T
        x = x + self.attention(x, x, x)
        return self.head(x.mean(0))


MODEL = Net(KEY)
VARIABLES, STATIC = eqx.partition(MODEL, eqx.is_array)


def fn(v, x):
    return jax.vmap(eqx.combine(v, STATIC))(x)


def run(fn, *args):
    return jax.jit(fn)(*args)


@pytest.fixture(scope="module")
def graph():
    return jp.trace(fn, VARIABLES, X)


def kept(graph, *names):
    return {name: np.arange(graph.groups[name].size) % 2 == 1 for name in names or graph.groups}


def test_groups_go_by_the_fields_of_the_model(graph):
    assert {name: group.size for name, group in graph.groups.items()} == {
        "stem/weight": 10,
        "conv/weight[0.0]": 4,
        "conv/weight[0.1]": 2,
        "attention/query_proj/weight[0.0]": 4,
        "attention/query_proj/weight[0.1]": 2,
        "attention/value_proj/weight[0.1]": 2,
    }
    assert "    out     stem/weight axis 0\n" in jp.explain(graph, "stem/weight")


def test_where_it_resizes_the_combined_model_is_the_smaller_one(graph):
    keep = kept(graph, "stem/weight", "attention/value_proj/weight[0.1]")
    small = jp.slice(graph, VARIABLES, keep)
    resized = jp.resize(fn, graph, keep)
    assert resized.follows == ()
    found = run(resized, small, X)
    expected = run(fn, jp.mask(graph, VARIABLES, keep), X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    model2 = eqx.combine(small, STATIC)
    assert model2.stem.weight.shape == (5, 3, 3, 3)
    np.testing.assert_allclose(run(jax.vmap(model2), X), found, rtol=1e-4, atol=1e-6)


def test_a_narrow_model_is_a_pytree_that_trains(graph):
    keep = kept(graph, "stem/weight", "attention/query_proj/weight[0.0]", "conv/weight[0.0]")
    small = jp.slice(graph, VARIABLES, keep)
    model2 = jax.tree_util.Partial(jp.narrow(fn, graph, keep), small)
    expected = run(fn, jp.mask(graph, VARIABLES, keep), X)
    np.testing.assert_allclose(run(lambda m, x: m(x), model2, X), expected, rtol=1e-4, atol=1e-6)
    gradient = run(jax.grad(lambda model: jnp.sum(model(X) ** 2)), model2)
    assert jax.tree.map(jnp.shape, gradient.args[0]) == jax.tree.map(jnp.shape, small)
    assert np.abs(gradient.args[0].attention.query_proj.weight).max() > 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "attention/query_proj/weight[0.0]",
            r"reshape\(.*MultiheadAttention.* should give \[.*, 2, 2\] .*, gives \[.*, 4, 1\] "
            r"\(near the variable attention/query_proj/weight\)",
        ),
        (
            "conv/weight[0.0]",
            r"reshape\(.*GroupNorm.* should give \[2, 2, 2, 2, 2\] .*, gives \[2, 4, 1, 2, 2\] "
            r"\(near the variable conv/bias\)",
        ),
    ],
)
def test_a_static_size_is_an_error(graph, name, text):
    with pytest.raises(jp.errors.ResizeError, match=text):
        jp.resize(fn, graph, kept(graph, name))


def test_a_model_with_the_right_static_sizes_is_taken_for_it(graph):
    keep = kept(graph, "attention/query_proj/weight[0.0]")
    small = jp.slice(graph, VARIABLES, keep)
    attention = eqx.nn.MultiheadAttention(2, 8, qk_size=2, vo_size=2, key=KEY)
    model = eqx.tree_at(lambda m: m.attention, MODEL, attention)
    arrays, static = eqx.partition(model, eqx.is_array)

    def two_heads(v, x):
        v = jax.tree.unflatten(jax.tree.structure(arrays), jax.tree.leaves(v))
        return jax.vmap(eqx.combine(v, static))(x)

    found = run(jp.resize(two_heads, graph, keep), small, X)
    expected = run(jp.narrow(fn, graph, keep), small, X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_static_leaves_in_the_tree_are_refused(graph):
    with pytest.raises(jp.errors.TraceError, match=r"'activation'.* are not arrays") as error:
        jp.trace(lambda model, x: jax.vmap(model)(x), MODEL, X)
    assert "\nFix: " in str(error.value)
    with pytest.raises(jp.errors.TreeError, match=r"'activation' is not a variable of the graph"):
        jp.slice(graph, MODEL, kept(graph))


def test_a_model_is_refused_where_a_function_is_wanted(graph):
    """It holds its variables itself; a function or a method of Equinox is a function."""
    keep = kept(graph, "stem/weight")
    for call in (
        lambda: jp.trace(MODEL, VARIABLES, X),
        lambda: jp.narrow(MODEL, graph, keep),
        lambda: jp.resize(MODEL, graph, keep),
        lambda: jp.gated(MODEL, graph),
        lambda: jp.tap(MODEL, graph),
        lambda: jp.verify(graph, MODEL, keep, VARIABLES, X),
    ):
        with pytest.raises(jp.errors.TraceError, match=r"an object of Net.\nFix: v, static = eqx"):
            call()
    names = list(jp.trace(eqx.filter_jit(fn), VARIABLES, X).groups)
    assert names == list(graph.groups)

    class Holder(eqx.Module):
        offset: jax.Array

        def run(self, v, x):
            return fn(v, x) + self.offset

    assert list(jp.trace(Holder(jnp.zeros(())).run, VARIABLES, X).groups) == names
