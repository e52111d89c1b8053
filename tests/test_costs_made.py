"""Costs of state, of weights by dtype and of energy, against counts by hand."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import expert_networks
import jaxprune as jp
from chains import chain
from jaxprune.errors import BudgetError, PatternError


@pytest.fixture(scope="module")
def cached() -> jp.ChannelGraph:
    """A step that fills a cache [batch, time, heads, size], and counts."""
    v = {"k": np.ones((4, 3, 8), np.float32), "out": np.ones((3, 8, 2), np.float32)}

    def step(v: Any, x: Any, cache: Any) -> Any:
        row = jnp.einsum("be,ehd->bhd", x, v["k"])
        keys = cache["k"].at[:, 0].set(row.astype(jnp.bfloat16))
        y = jnp.einsum("bhd,hdo->bo", keys.astype(jnp.float32).sum(1), v["out"])
        return y, {"k": keys, "end": cache["end"] + 1}

    cache = {"k": jnp.zeros((2, 16, 3, 8), jnp.bfloat16), "end": jnp.zeros((), jnp.int32)}
    return jp.trace(step, v, np.ones((2, 4), np.float32), cache, state="cache")


def test_bytes_of_state_at_another_batch_and_length(cached: jp.ChannelGraph) -> None:
    at_run = jp.cost.state_bytes(sizes={"cache/k": {0: 96, 1: 8192}})
    eight = jp.cost.state_bytes(sizes={"cache/k": {1: 64}}, dtype="float8_e4m3fn")
    assert jp.cost.state_bytes()(cached) == 2 * 2 * 16 * 3 * 8 + 4
    assert at_run(cached) == 2 * 96 * 8192 * 3 * 8 + 4
    assert eight(cached) == 2 * 64 * 3 * 8 + 4
    sized = next(name for name, group in cached.groups.items() if group.size == 8)
    assert at_run(cached, {sized: 5}) == 2 * 96 * 8192 * 3 * 5 + 4


def test_state_that_is_not_there_or_axes_that_are_pruned(cached: jp.ChannelGraph) -> None:
    with pytest.raises(BudgetError, match="axis 3 of 'cache/k' is pruned"):
        jp.cost.state_bytes(sizes={"cache/k": {3: 4}})(cached)
    with pytest.raises(BudgetError, match="it has the axes 0 to 3"):
        jp.cost.state_bytes(sizes={"cache/k": {4: 4}})(cached)
    with pytest.raises(PatternError, match="sizes pattern"):
        jp.cost.state_bytes(sizes={"none": {0: 4}})(cached)
    with pytest.raises(BudgetError, match="the graph has no state"):
        jp.cost.state_bytes()(chain(2)[0])


def test_bytes_of_weights_and_energy_by_hand() -> None:
    graph, _ = chain(8, 6)
    params, a = jp.cost.params(graph), "layer_0/kernel"
    kernel = graph.variables["params/layer_0/kernel"].shape
    assert jp.cost.weight_bytes()(graph) == 4 * params
    quantized = jp.cost.weight_bytes({"*": "bfloat16", "params/layer_0/kernel": "int4"})
    assert quantized(graph) == 2 * (params - 8 * kernel[0]) + 4 * kernel[0]
    left = jp.cost.params(graph, {a: 3})
    assert quantized(graph, {a: 3}) == 2 * (left - 3 * kernel[0]) + 1.5 * kernel[0]
    spent = jp.cost.energy({jp.cost.macs: 2.0, jp.cost.weight_bytes(): 0.5})
    assert spent(graph, {a: 3}) == 2 * jp.cost.macs(graph, {a: 3}) + 2 * left
    with pytest.raises(BudgetError, match="not a closed form"):
        jp.cost.energy({len: 1.0})
    with pytest.raises(BudgetError, match="at least 0"):
        jp.cost.energy({jp.cost.macs: -1.0})
    with pytest.raises(BudgetError, match="not a dtype"):
        jp.cost.weight_bytes({"*": "int9"})


def test_a_budget_takes_any_costs() -> None:
    graph, _ = chain(8, 6)
    scores = {name: np.arange(1.0, group.size + 1) for name, group in graph.groups.items()}

    def own(graph: jp.ChannelGraph, widths: Any = None) -> float:
        return 1e-6 * jp.cost.macs(graph, widths)

    keep = jp.select.budget(graph, scores, bounds={own: 0.5})
    same = jp.select.budget(graph, scores, keep_macs=0.5)
    assert all((keep[name] == same[name]).all() for name in same)
    both = {own: jp.Absolute(0.6 * own(graph)), jp.cost.weight_bytes(): 0.4}
    keep = jp.select.budget(graph, scores, bounds=both)
    assert own(graph, keep) <= 0.6 * own(graph)
    assert jp.cost.weight_bytes()(graph, keep) <= 0.4 * jp.cost.weight_bytes()(graph)
    with pytest.raises(BudgetError, match="the smallest reachable"):
        jp.select.budget(graph, scores, bounds={own: jp.Absolute(1e-9)})


@pytest.mark.parametrize(("routing", "chosen"), [("mixtral", 2), ("switch", 1)])
def test_parameters_that_a_token_meets_by_hand(routing: str, chosen: int) -> None:
    v, x = expert_networks.variables()
    graph = jp.trace(expert_networks.network(routing, "one_hot"), v, x)
    router, hidden, stem = graph.groups

    def by_hand(d: int, experts: int, h: int, met: int = chosen) -> int:
        return 3 * d + d * experts + met * 2 * d * h + d * 2

    assert [graph.groups[name].size for name in (stem, router, hidden)] == [4, 6, 5]
    assert jp.cost.active_params(graph) == by_hand(4, 6, 5)
    assert jp.cost.active_params(graph, {stem: 3, router: 3, hidden: 2}) == by_hand(3, 3, 2)
    assert jp.cost.params(graph) == by_hand(4, 6, 5, met=6)
