"""Costs with branches: tables, prices and expectations against the cost of every keep."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.inspecting.staying import staying
from jaxprune.plan.cost_tables import cost_tables, price
from jaxprune.plan.prices import Prices

COSTS = (jp.cost.macs, jp.cost.params, jp.cost.activation_bytes, jp.cost.weights)
ENERGY = jp.cost.energy({jp.cost.macs: 1.0, jp.cost.weight_bytes(): 3.0})


def stacked(lead: Sequence[int], **shapes: Sequence[int]) -> dict[str, np.ndarray]:
    return {name: np.ones((*lead, *shape)) for name, shape in shapes.items()}


def nested() -> jp.ChannelGraph:
    """A residual inside of a residual, and a sum of two terms, in every step of a scan."""
    v = stacked((2,), up=(4, 3), a=(3, 3), down=(3, 4), s=(4, 2), t=(2, 4))

    def body(x: Any, w: Any) -> Any:
        y = x @ w["up"]
        y = y + y @ w["a"]
        return x + (y @ w["down"] + x @ w["s"] @ w["t"]), None

    return jp.trace(lambda v, x: jax.lax.scan(body, x, v)[0], v, np.ones((1, 4)))


def apart() -> jp.ChannelGraph:
    """Stacks that no step has its row of: one reshaped, one that two scans read; and a `cond`."""
    v = stacked((), up=(8, 3), a=(4, 4), b=(4, 4), inside=(4, 4), head=(4, 2))
    v |= stacked((2,), down=(3, 4), both=(4, 2), first=(2, 4), second=(2, 4))

    def fn(v: Any, x: Any) -> Any:
        def one(x: Any, w: Any) -> Any:
            return x + x @ w[0] @ w[1], None

        def two(x: Any, w: Any) -> Any:
            return x + x @ w[0] @ w[1], None

        x = jax.lax.scan(one, x, (v["up"].reshape(2, 4, 3), v["down"]))[0]
        x = jax.lax.scan(two, x, (v["both"], v["first"]))[0]
        x = jax.lax.scan(two, x, (v["both"], v["second"]))[0]
        y = x @ v["inside"]
        y = jax.lax.cond(x.sum() > 0, lambda y: y @ v["a"], lambda y: jnp.tanh(y) @ v["b"], y)
        return (x + y @ v["a"]) @ v["head"]

    return jp.trace(fn, v, np.ones((1, 4)))


@pytest.mark.parametrize("make", [nested, apart])
def test_a_cost_with_branches_is_that_of_its_keep(make: Any) -> None:
    graph = make()
    known = jp.branches(graph)
    name = next(n for n, group in graph.groups.items() if group.size == 3)
    found = jp.plan.problem(
        graph,
        {name: np.ones(graph.groups[name].shape)},
        bounds=dict.fromkeys([*COSTS, ENERGY], jp.Share(1.0)),
        ladder=2,
        branches=dict.fromkeys(known, 1.0),
    )
    tables = [cost_tables(found, limit.cost) for limit in found.limits]
    prices, random = Prices(found), np.random.default_rng(0)
    row = 4 * 2  # of `both`, which goes with the step of two scans, and is counted as staying
    every = list(itertools.product(*(range(len(choice.widths)) for choice in found.choices)))
    for i in random.permutation(len(every))[:80]:
        keep = found.keep(every[i])
        steps = [~keep[n] for n in ("+first", "+second") if n in known]
        both = row * np.count_nonzero(steps[0] & steps[1]) if steps else 0
        more = [0, both, 0, both, 3 * 8 * both]
        true = [x.cost(graph, keep) + rest for x, rest in zip(found.limits, more, strict=True)]
        assert [price(table, every[i]) for table in tables] == pytest.approx(true)
        assert prices.start(every[i]).totals == pytest.approx(true)
        widths = {
            n: float(np.sum(keep[n], -1).flat[0]) if n == name else 1.0 * keep[n] for n in keep
        }
        for cost, each in zip(COSTS[:2], true, strict=False):
            assert float(jp.cost.expected(graph, cost, widths)) == pytest.approx(each)


@pytest.mark.parametrize("make", [nested, apart])
def test_what_a_branch_costs_is_what_the_network_costs_less(make: Any) -> None:
    graph = make()
    for cost in COSTS[:2]:
        less = {n: cost(graph, None) - cost(graph, {n: False}) for n in jp.branches(graph)}
        assert jp.cost.branch_cost(graph, cost) == less


def test_steps_are_shared_where_every_step_has_its_row() -> None:
    known = staying(apart())
    assert (known["up"].steps, known["up"].by_step) == (("+down",), False)
    assert (known["down"].steps, known["down"].by_step) == (("+down",), True)
    assert "both" not in known


def test_the_integer_program_says_no_gap_where_it_counts_too_much() -> None:
    def gap(graph: jp.ChannelGraph, cost: Any) -> float | None:
        scores = {name: np.ones(group.shape) for name, group in graph.groups.items()}
        branches = dict.fromkeys(jp.branches(graph), 1.0)
        bounds = {cost: jp.Share(0.9)}
        found = jp.plan.problem(graph, scores, bounds=bounds, branches=branches, ladder=2)
        return jp.plan.milp(found, gap=0.0).gap

    assert gap(nested(), jp.cost.macs) == pytest.approx(0.0, abs=1e-6)
    assert gap(nested(), jp.cost.peak_memory) is None
    assert gap(apart(), jp.cost.params) is None
    assert gap(apart(), jp.cost.macs) == pytest.approx(0.0, abs=1e-6)


def test_a_network_may_be_left_with_nothing() -> None:
    """A bound of 0, which only branches that go bring."""
    v = {"a": np.ones((1, 2)), "b": np.ones((2, 1))}
    graph = jp.trace(lambda v, x: x + x @ v["a"] @ v["b"], v, np.ones((1, 1)))
    scores = {name: np.ones(2) for name in graph.groups}
    found = jp.plan.problem(graph, scores, bounds={jp.cost.macs: 0.2}, branches={"+b": 1.0})
    assert jp.plan.milp(found, gap=0.0).costs == {"macs": 0}
