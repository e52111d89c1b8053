"""Haiku: params and state are the variables; its layers hold their sizes, so `narrow` runs them."""

from functools import partial

import haiku as hk
import jax
import numpy as np
import pytest

import jaxprune as jp

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 8, 8, 3)).astype(np.float32)


def forward(x, train, stream=8, inner=12):
    def norm(y):
        return hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(y, train)

    x = jax.nn.relu(norm(hk.Conv2D(stream, 3, with_bias=False)(x)))
    y = jax.nn.relu(norm(hk.Conv2D(inner, 3, with_bias=False)(x)))
    x = jax.nn.relu(x + norm(hk.Conv2D(stream, 1, with_bias=False)(y)))
    return hk.Linear(5)(x.mean((1, 2)))


def mode(train, **sizes):
    net = hk.without_apply_rng(hk.transform_with_state(partial(forward, **sizes)))

    def fn(v, x):
        logits, state = net.apply(v["params"], v["state"], x, train)
        return (logits, state) if train else logits

    return net, fn


@pytest.fixture(scope="module")
def variables():
    params, state = jax.eval_shape(lambda: mode(True)[0].init(jax.random.key(0), X, True))

    def drawn(leaf):
        return RANDOM.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype)

    return jax.tree.map(drawn, {"params": params, "state": state})


@pytest.fixture(scope="module")
def graph(variables):
    return jp.trace(mode(True)[1], variables, X)


@pytest.fixture(scope="module")
def keep(graph):
    return {name: RANDOM.permutation(group.size) % 5 < 3 for name, group in graph.groups.items()}


def test_train_mode_ties_all_of_the_state(graph):
    assert list(graph.groups) == ["conv2_d/w", "conv2_d_1/w"]
    assert {slot.path for slot in graph.groups["conv2_d_1/w"].slots} >= {
        "params/batch_norm_1/scale",
        "params/conv2_d_2/w",
        "state/batch_norm_1/~/mean_ema/average",
        "state/batch_norm_1/~/mean_ema/hidden",
        "state/batch_norm_1/~/var_ema/hidden",
    }
    assert "vector  state/batch_norm/~/mean_ema/hidden axis 3" in jp.explain(graph, "conv2_d/w")


@pytest.mark.parametrize("train", [True, False])
def test_both_modes_run_narrow(graph, keep, variables, train):
    fn = mode(train)[1]
    small = jp.slice(graph, variables, keep)
    found = jax.jit(jp.narrow(fn, graph, keep))(small, X)
    expected = jax.jit(fn)(jp.mask(graph, variables, keep), X)
    if train:
        assert jax.tree.map(np.shape, found[1]) == jax.tree.map(np.shape, small["state"])
        found, expected = found[0], expected[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_sizes_that_layers_hold_are_an_error(graph, keep):
    with pytest.raises(jp.errors.ResizeError) as error:
        jp.resize(mode(True)[1], graph, keep)
    first, place, fix = str(error.value).splitlines()
    assert first.startswith("the function does not run at the kept widths: ")
    assert (
        "'conv2_d/w' with retrieved shape (3, 3, 3, 6) does not match shape=(3, 3, 3, 8)" in first
    )
    assert "haiku" in place
    assert fix.endswith("or run jp.narrow(fn, graph, keep), which takes any function.")


def test_a_function_with_the_kept_sizes_is_the_same_network(graph, keep, variables):
    widths = jp.widths(graph, keep)
    sizes = {"stream": widths["conv2_d/w"], "inner": widths["conv2_d_1/w"]}
    small = jp.slice(graph, variables, keep)
    found = jax.jit(jp.resize(mode(True, **sizes)[1], graph, keep))(small, X)
    expected = jax.jit(jp.narrow(mode(True)[1], graph, keep))(small, X)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)
