"""Masks, checks and rescaling of networks that lose branches: full shapes and the same numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp
import residual_networks as networks

X = np.random.default_rng(1).normal(size=(3, 3))
LINEAR = ("pre", "post", "activated", "parallel", "scaled", "jitted", "remat", "scanned", "nested")
"""Forms whose branches end in weights of their own."""


def traced(forms: tuple[str, ...]) -> tuple[Any, Any, jp.ChannelGraph]:
    variables, fn = networks.variables(forms), networks.network(forms)
    return fn, variables, jp.trace(fn, variables, X)


@pytest.mark.parametrize("forms", [LINEAR[:5], LINEAR[5:]])
def test_zeros_in_the_last_weights_take_a_branch_out(forms: tuple[str, ...]) -> None:
    with jax.enable_x64(True):
        fn, v, graph = traced(forms)
        keep = networks.drawn_keep(graph, np.random.default_rng(2))
        zeroed = jax.jit(lambda v, keep: fn(jp.mask(graph, v, keep), X))(v, keep)
        wanted = jax.jit(jp.narrow(fn, graph, keep))(jp.slice(graph, v, keep), X)
        np.testing.assert_allclose(zeroed, wanted, rtol=1e-9)
        on_host = jp.mask(graph, v, keep)
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(on_host))
        changed = {
            path
            for path, leaf in jp.arguments.paths.flatten(on_host)[0].items()
            if not np.array_equal(leaf, jp.arguments.paths.flatten(v)[0][path])
        }
        only = jp.mask(graph, v, {n: m for n, m in keep.items() if n in graph.groups})
        assert changed
        assert jax.tree.structure(only) == jax.tree.structure(on_host)


def test_where_no_zeros_are_the_network_without_it_a_mask_says_so() -> None:
    _, v, graph = traced(("shared", "dropped"))
    text = r"branch '\+0/a/down': what it is made of is read elsewhere too\nbranch '\+1/a/down'"
    with pytest.raises(jp.errors.KeepError, match=text):
        jp.mask(graph, v, {"+0/a/down": False, "+1/a/down": False})
    kept = jp.mask(graph, v, {"+0/a/down": True, "+1/a/down": True})
    assert all(map(np.array_equal, jax.tree.leaves(kept), jax.tree.leaves(v)))
    assert jp.mask(graph, {}, {}) == {}


def test_a_traced_keep_leaves_any_branch_out() -> None:
    forms = networks.FORMS
    with jax.enable_x64(True):
        fn, v, graph = traced(forms)
        run = jax.jit(jp.masked(fn, graph))
        for seed in (0, 1):
            keep = networks.drawn_keep(graph, np.random.default_rng(seed))
            kept = {name: keep[name] for name in jp.branches(graph)}
            channels = {n: m for n, m in keep.items() if n not in kept}
            wanted = networks.network(forms, kept)(jp.mask(graph, v, channels), X)
            np.testing.assert_allclose(run(v, keep, X), wanted, rtol=1e-9)


class Net(nn.Module):
    """Two residual blocks with BatchNorm, and a mean over channels that a width decides."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(6)(x)
        for _ in range(2):
            y = nn.BatchNorm(use_running_average=not train)(nn.Dense(5, use_bias=False)(x))
            x = x + nn.Dense(6)(nn.relu(y))
        h = nn.Dense(7, use_bias=False, name="last")(x)
        return nn.Dense(2, use_bias=False)(h * (h * h).mean(-1, keepdims=True))


MODEL = Net()
GONE = {"+Dense_4/kernel": False, "Dense_1/kernel": np.arange(5) < 3}
FOLLOWS = {"last/kernel": np.arange(7) < 4}


@pytest.fixture(scope="module")
def variables() -> Any:
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 3)))
    random = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: random.uniform(0.5, 1, leaf.shape).astype(leaf.dtype), shapes)


def test_verify_compares_a_gate_with_the_narrow_network_in_training(variables: Any) -> None:
    def fn(v, x):
        return MODEL.apply(v, x, train=True, mutable=["batch_stats"])

    x = X.astype(np.float32)
    graph = jp.trace(fn, variables, x)
    small = jp.linen.resize(MODEL, graph, GONE)
    run = lambda v, x: small.apply(v, x, train=True, mutable=["batch_stats"])  # noqa: E731
    found = jp.verify(graph, fn, GONE, variables, x, resized=run)
    assert found.groups == {"Dense_1/kernel": "exact", "+Dense_4/kernel": "exact"}
    assert found.resized == "exact"
    assert found.ok
    assert found.gradients is not None
    wrong = jp.verify(graph, fn, GONE, variables, x, resized=lambda v, x: run(v, 2 * x))
    assert not wrong.ok


def test_verify_names_a_branch_that_is_not_what_goes(variables: Any, monkeypatch: Any) -> None:
    def narrow(fn: Any, graph: Any, keep: Any) -> Any:
        run = jp.narrow(fn, graph, keep)
        return run if keep.get("+Dense_2/kernel", True) else lambda v, x: 2 * run(v, x)

    monkeypatch.setattr("jaxprune.running.verify.narrow", narrow)
    fn = lambda v, x: MODEL.apply(v, x)  # noqa: E731
    graph = jp.trace(fn, variables, X.astype(np.float32))
    keep = {"+Dense_2/kernel": False, "+Dense_4/kernel": False}
    found = jp.verify(graph, fn, keep, variables, X.astype(np.float32))
    assert found.groups["+Dense_2/kernel"].startswith("broken: differs by")
    assert found.groups["+Dense_4/kernel"] == "exact"


def test_weights_make_up_for_constants_of_what_is_left(variables: Any) -> None:
    fn = lambda v, x: MODEL.apply(v, x)  # noqa: E731
    x = X.astype(np.float32)
    graph, keep = jp.trace(fn, variables, x), {**GONE, **FOLLOWS}
    small = jp.slice(graph, variables, keep, rescale=True)
    resized = jp.linen.resize(MODEL, graph, keep)
    assert resized.follows
    wanted = jp.masked(fn, graph)(variables, keep, x)
    np.testing.assert_allclose(resized.apply(small, x), wanted, rtol=1e-5)
    plain = jp.slice(graph, variables, keep)
    assert not np.allclose(resized.apply(plain, x), wanted, rtol=1e-3)
