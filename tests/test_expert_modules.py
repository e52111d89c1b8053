"""Modules with fewer experts: masked, narrow and resized they are one network, Linen and NNX."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxprune as jp
from expert_modules import ROUTERS, Moe, Switch, Twin, X
from expert_networks import DISPATCHES
from test_experts import check_close


def drawn_keep(graph: jp.ChannelGraph, seed: int) -> dict[str, np.ndarray]:
    """Some of the channels of every group, and at least as many experts as a token has."""
    random = np.random.default_rng(seed)
    keep = {}
    for name, group in graph.groups.items():
        count = random.integers(group.least, group.size + 1)
        keep[name] = random.permutation(group.size) < count
    return keep


def value_and_gradients(fn: Any, v: Any) -> Any:
    def loss(v: Any) -> Any:
        out = fn(v)
        return jnp.sum(jnp.sin(out)), out

    return jax.value_and_grad(loss, has_aux=True)(v)


def first(outputs: Any) -> Any:
    """What a network returns beside losses and updates."""
    return jax.tree.leaves(outputs)[0]


def check_law(graph: jp.ChannelGraph, fn: Any, keep: Any, v: Any, resized: Any, x: Any = X) -> None:
    """At -inf, narrow and resized: the same outputs, and gradients of what is kept."""
    small = jp.slice(graph, v, keep)

    def results(v: Any, small: Any) -> Any:
        return (
            value_and_gradients(lambda v: first(jp.narrow(fn, graph, keep)(v, x)), small),
            value_and_gradients(lambda v: first(resized(v, x)), small),
            value_and_gradients(lambda v: first(jp.masked(fn, graph)(v, keep, x)), v),
        )

    narrow, other, masked = jax.jit(results)(v, small)
    jax.tree.map(check_close, other, narrow)
    jax.tree.map(check_close, (masked[0], jp.slice(graph, masked[1], keep)), narrow)


def check(drawn: tuple[int, int, int, str, str, int, bool]) -> None:
    experts, hidden, k, how, dispatch, seed, twin = drawn
    if twin:
        model = Twin(experts, hidden, k, how, dispatch, nnx.Rngs(seed))
        graph = jp.nnx.trace(model, X)
        keep = drawn_keep(graph, seed)
        small = jp.nnx.function(jp.nnx.resize(model, graph, keep))
        check_law(graph, jp.nnx.function(model), keep, jp.nnx.variables(model), small)
        return
    module = Moe(experts, hidden, top_k=k, how=how, dispatch=dispatch)
    v = jax.jit(module.init)(jax.random.key(seed), X)
    graph = jp.linen.trace(module, v, X)
    keep = drawn_keep(graph, seed)
    small = jp.linen.resize(module, graph, keep)
    check_law(graph, module.apply, keep, v, small.apply)


def of_experts(graph: jp.ChannelGraph) -> str:
    """The name of the group of the experts."""
    return next(
        name
        for name, group in graph.groups.items()
        if any(slot.path.endswith("router/kernel") and slot.axis == 1 for slot in group.slots)
    )


Networks = st.tuples(
    st.integers(3, 6),
    st.integers(2, 5),
    st.integers(1, 2),
    st.sampled_from(ROUTERS),
    st.sampled_from([*DISPATCHES]),
    st.integers(0, 2**16),
    st.booleans(),
)


@settings(max_examples=3)
@given(Networks)
def test_three_ways_to_have_fewer_experts_are_one_network(drawn: Any) -> None:
    check(drawn)


@pytest.mark.slow
@settings(max_examples=100)
@given(Networks)
def test_many_more_mixtures(drawn: Any) -> None:
    check(drawn)


@pytest.mark.parametrize("dispatch", ["one_hot", "sort"])
@pytest.mark.parametrize("twin", [False, True])
def test_the_number_of_experts_is_found_and_balancing_by_it_is_listed(
    dispatch: str, twin: bool
) -> None:
    kept = np.array([1, 0, 1, 1, 0, 1], bool)
    if twin:
        model = Twin(6, 6, 2, "after", dispatch, nnx.Rngs(0))
        graph = jp.nnx.trace(model, X)
        small: Any = jp.nnx.resize(model, graph, {of_experts(graph): kept})
        assert small.num_experts == 4
        assert small.up.shape == (4, 4, 6)
        follows = jp.nnx.follows(graph, {of_experts(graph): kept})
    else:
        module = Moe(6, 6, dispatch=dispatch)
        v = jax.jit(module.init)(jax.random.key(0), X)
        graph = jp.linen.trace(module, v, X)
        small = jp.linen.resize(module, graph, {of_experts(graph): kept})
        assert small.overrides == {"": {"num_experts": 4}}
        follows = small.follows
    assert any("6 became 4" in text for text in follows)


@pytest.mark.parametrize("masks", [False, True])
def test_a_capacity_that_would_change_is_refused(masks: bool) -> None:
    module = Switch(6, masks=masks)
    x = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    v = jax.jit(module.init)(jax.random.key(0), x)
    graph = jp.linen.trace(module, v, x)
    keep = {of_experts(graph): np.array([1, 0, 1, 1, 0, 1], bool)}
    with pytest.raises(
        jp.errors.ResizeError, match="constant 3.0, it was 2.0" if masks else r"\[12, 4, 2\]"
    ):
        jp.linen.resize(module, graph, keep)


@pytest.mark.parametrize("masks", [False, True])
def test_a_switch_layer_of_a_given_capacity(masks: bool) -> None:
    module = Switch(6, capacity=2, masks=masks)
    x = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    v = jax.jit(module.init)(jax.random.key(0), x)
    graph = jp.linen.trace(module, v, x)
    keep = {of_experts(graph): np.array([1, 0, 1, 1, 0, 1], bool)}
    small = jp.linen.resize(module, graph, keep)
    assert small.follows == ()
    check_law(graph, module.apply, keep, v, small.apply, x)
