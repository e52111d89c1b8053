"""Costs: closed forms against hand counts and fresh traces, and the latency of a call."""

import time

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import jaxprune as jp
from chains import INPUTS, OUTPUTS, chain
from jaxprune import cost
from jaxprune.errors import JaxpruneError

A, B = "layer_0/kernel", "layer_1/kernel"
NHWC = ("NHWC", "HWIO", "NHWC")


def by_hand(a, b):
    """Returns the costs of a chain of widths a and b: MACs, parameters, weights, bytes."""
    kernels = INPUTS * a + a * b + b * OUTPUTS
    return kernels, kernels + a + b + OUTPUTS, kernels, 4 * (a + b + OUTPUTS)


COSTS = (cost.macs, cost.params, cost.weights, cost.activation_bytes)


@given(st.integers(1, 7), st.integers(1, 5))
def test_a_chain_costs_what_it_costs_by_hand_and_when_traced_anew(a, b):
    graph, _ = chain(7, 5)
    keep = {A: np.arange(7) < a, B: np.arange(5) >= 5 - b}
    small, _ = chain(a, b)
    for price, expected in zip(COSTS, by_hand(a, b), strict=True):
        assert price(graph, {A: a, B: b}) == price(graph, keep) == price(small) == expected
        assert type(price(graph, keep)) is int


def test_absent_groups_are_whole():
    graph, _ = chain(7, 5)
    for price, expected, dense in zip(COSTS, by_hand(7, 2), by_hand(7, 5), strict=True):
        assert price(graph, {B: 2}) == expected
        assert price(graph) == price(graph, None) == price(graph, {}) == dense


def test_cost_of_one_channel():
    graph, _ = chain(7, 5)
    assert cost.channel_cost(graph) == {A: INPUTS + 5, B: 7 + OUTPUTS}
    assert cost.channel_cost(graph, cost.params) == {A: INPUTS + 5 + 1, B: 7 + OUTPUTS + 1}
    assert cost.channel_cost(graph, cost.activation_bytes) == {A: 4, B: 4}
    single, _ = chain(3)
    assert cost.channel_cost(single) == {A: INPUTS + OUTPUTS}


def branching(v, x):
    def narrow(x):
        return x @ v["narrow"]

    def wide(x):
        return (x @ v["first"]) @ v["second"]

    return jax.lax.cond(x.sum() > 0, narrow, wide, x)


def test_the_dearest_branch_counts_and_every_kernel_once():
    shapes = {"narrow": (2, 3), "first": (2, 8), "second": (8, 3)}
    v = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    graph = jp.trace(branching, v, np.ones((1, 2), np.float32))
    assert list(graph.groups) == ["first"]
    assert cost.macs(graph) == 2 * 8 + 8 * 3
    assert cost.macs(graph, {"first": 1}) == 2 * 3  # now the other branch is dearer: 6 against 5
    assert cost.weights(graph) == 6 + 16 + 24
    assert cost.activation_bytes(graph) == 4 * (8 + 3)


def test_a_kernel_that_is_used_twice_has_its_weights_once():
    graph = jp.trace(
        lambda v, x: (jnp.tanh(x @ v["w"]) @ v["w"]) @ v["out"],
        {"w": np.ones((4, 4), np.float32), "out": np.ones((4, 2), np.float32)},
        np.ones((1, 4), np.float32),
    )
    assert cost.macs(graph) == 2 * 16 + 8
    assert cost.weights(graph) == 16 + 8


def test_without_a_params_collection_the_floating_leaves_are_the_parameters():
    v = {"w": np.ones((2, 3), np.float32), "step": np.zeros((), np.int32)}
    graph = jp.trace(lambda v, x: x @ v["w"] + v["step"], v, np.ones((1, 2), np.float32))
    assert cost.params(graph) == 6
    stats = {"params": {"w": v["w"]}, "batch_stats": {"mean": np.ones(3, np.float32)}}
    graph = jp.trace(
        lambda v, x: x @ v["params"]["w"] - v["batch_stats"]["mean"][None],
        stats,
        np.ones((1, 2), np.float32),
    )
    assert cost.params(graph) == 6


def test_loops_count_every_turn():
    def looped(v, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, v["w"])[0] @ v["out"]

    v = {"w": np.ones((5, 4, 4), np.float32), "out": np.ones((4, 2), np.float32)}
    graph = jp.trace(looped, v, np.ones((1, 4), np.float32))
    assert cost.macs(graph) == 5 * 16 + 8
    assert cost.weights(graph) == 5 * 16 + 8
    assert cost.activation_bytes(graph) == 4 * (5 * 4 + 2)


def test_convolutions_count_windows_and_places():
    def fn(v, x):
        x = jax.lax.conv_general_dilated(x, v["conv"], (1, 1), "VALID", dimension_numbers=NHWC)
        return jax.lax.conv_transpose(x, v["transposed"], (2, 2), "VALID", dimension_numbers=NHWC)

    v = {
        "conv": np.ones((3, 3, 2, 5), np.float32),
        "transposed": np.ones((2, 2, 5, 3), np.float32),
    }
    graph = jp.trace(fn, v, np.ones((1, 5, 5, 2), np.float32))
    assert cost.macs(graph) == 9 * 9 * 2 * 5 + 9 * 4 * 5 * 3  # 3 x 3 places, before the upsampling
    assert cost.macs(graph, {"conv": 1}) == 9 * 9 * 2 + 9 * 4 * 3
    assert cost.activation_bytes(graph) == 4 * (9 * 5 + 36 * 3)


def test_a_thousand_evaluations_take_no_time():
    """Each of other widths; of this thread, and the quickest: what else runs does not count."""
    graph, _ = chain(*[8] * 50)
    took = []
    for width in range(1, 9):
        start = time.thread_time()
        cost.macs(graph, dict.fromkeys(graph.groups, width))
        took.append(time.thread_time() - start)
    assert min(took) < 5e-3  # 0.1 ms on an idle machine


def test_latency_waits_for_a_compiled_call():
    traces = []

    def fn(v, x):
        traces.append(None)
        return v["w"] @ x

    result = jp.cost.latency(fn, {"w": np.ones((8, 8))}, np.ones(8), repeats=5)
    assert len(traces) == 1
    assert result.repeats == 5
    assert result.median > 0 <= result.spread
    assert str(result).endswith(f"(5 calls on {jax.devices()[0].device_kind})")
    assert f"{1e3 * result.median:.3f} ms" in str(result)


def test_latency_of_no_calls():
    with pytest.raises(JaxpruneError, match=r"at least 1, got 0.\nFix: latency\("):
        cost.latency(jnp.sin, 1.0, repeats=0)


def everywhere(v, x):
    """A network with heads, a concatenation, grouped channels, a branch and a scan."""
    h = jnp.concatenate([x @ v["a"], jnp.tanh(x @ v["b"])], 1)
    h = jax.lax.cond(h.sum() > 0, lambda h: h @ v["c"], lambda h: h @ v["d"] @ v["e"], h)
    heads = (h @ v["q"]).reshape(-1, 3, 4)
    mixed = jnp.einsum("nhd,mhd->hnm", heads, heads)
    out = jnp.einsum("hnm,mhd->nhd", mixed, (h @ v["k"]).reshape(-1, 3, 4)).reshape(-1, 12)
    h = jax.lax.scan(lambda h, w: (h + jnp.tanh(h @ w["u"]) @ w["d"], None), out @ v["o"], v["s"])
    return h[0].sum(1)


@given(st.data())
def test_a_channel_costs_the_difference_for_every_cost_at_any_widths(data):
    shapes = {"a": (3, 5), "b": (3, 4), "c": (9, 6), "d": (9, 7), "e": (7, 6), "q": (6, 12)}
    shapes |= {"k": (6, 12), "o": (12, 8)}
    v = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    v["s"] = {"u": np.ones((2, 8, 5), np.float32), "d": np.ones((2, 5, 8), np.float32)}
    graph = jp.trace(everywhere, v, np.ones((2, 3), np.float32))
    assert len(graph.groups) >= 8
    widths = {n: data.draw(st.integers(2, g.size)) for n, g in graph.groups.items()}
    for price in COSTS:
        total = price(graph, widths)
        expected = {n: total - price(graph, widths | {n: widths[n] - 1}) for n in widths}
        assert cost.channel_cost(graph, price, widths) == expected
        mine = cost.channel_cost(graph, lambda g, w, price=price: price(g, w), widths)
        assert mine == expected


def test_a_branch_without_a_contraction_costs_nothing_and_the_other_counts():
    def fn(v, x):
        return jax.lax.cond(x[0, 0] > 0, lambda h: h @ v["b"], lambda h: h[:, :2], x @ v["a"])

    v = {"a": np.ones((3, 8)), "b": np.ones((8, 2))}
    assert cost.macs(jp.trace(fn, v, np.ones((1, 3)))) == 3 * 8 + 8 * 2
