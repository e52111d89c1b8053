"""Planners: the integer program against every combination, and what is refused."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
import residual_networks
from chains import chain
from jaxprune.errors import BudgetError, PatternError
from jaxprune.plan import Problem, linear_program, milp, problem

A, B, C = (f"layer_{i}/kernel" for i in range(3))


@functools.cache
def attention() -> jp.ChannelGraph:
    """Heads times head sizes times a stream, beside an MLP: products of three widths."""
    random = np.random.default_rng(0)
    v = {
        "embed": random.normal(size=(3, 6)),
        **{name: random.normal(size=(6, 4, 5)) for name in ("q", "k", "v")},
        "o": random.normal(size=(4, 5, 6)),
        "up": random.normal(size=(6, 7)),
        "down": random.normal(size=(7, 6)),
        "head": random.normal(size=(6, 2)),
    }

    def fn(v: Any, x: Any) -> Any:
        x = x @ v["embed"]
        q, k, u = (jnp.einsum("te,ehd->thd", x, v[name]) for name in ("q", "k", "v"))
        y = jnp.einsum("hts,shd->thd", jnp.einsum("thd,shd->hts", q, k), u)
        x = x + jnp.einsum("thd,hde->te", y, v["o"])
        return (x + x @ v["up"] @ v["down"]) @ v["head"]

    return jp.trace(fn, v, np.ones((3, 3)))


@functools.cache
def joined() -> jp.ChannelGraph:
    """Two concatenated layers, once multiplied with each other: sums in products."""
    v = {"a": np.ones((2, 4)), "b": np.ones((2, 5)), "c": np.ones((9, 6)), "d": np.ones((6, 2))}

    def fn(v: Any, x: Any) -> Any:
        y = jnp.concatenate([x @ v["a"], x @ v["b"]], 1)
        return (y @ (y.T @ y)) @ v["c"] @ v["d"]

    return jp.trace(fn, v, np.ones((3, 2)))


@functools.cache
def residual() -> jp.ChannelGraph:
    forms = ("pre", "scanned")
    variables = residual_networks.variables(forms)
    return jp.trace(residual_networks.network(forms), variables, np.ones((2, 3)))


@functools.cache
def plain() -> jp.ChannelGraph:
    return chain(8, 8, 6)[0]


GRAPHS = (attention, joined, residual, plain)
COSTS = (jp.cost.macs, jp.cost.params, jp.cost.activation_bytes, jp.cost.weights)


def random_problem(seed: int) -> Problem:
    """One of some networks with random values, bounds, ladders, ties, multiples and branches."""
    random = np.random.default_rng(seed)
    graph = GRAPHS[seed % len(GRAPHS)]()
    scores = {name: random.uniform(size=group.shape) for name, group in graph.groups.items()}
    options: dict[str, Any] = {"multiple_of": int(random.integers(1, 3))}
    if graph is plain() and random.random() < 0.7:
        options["equal"] = [[A, B]]
    known = [name for name, item in jp.branches(graph).items() if item.within is None]
    known = [str(name) for name in random.permutation(known)[:2]]
    branches = {n: random.uniform(size=jp.branches(graph)[n].shape) for n in known}
    costs = random.permutation(len(COSTS))[: random.integers(2, 4)]
    bounds = {COSTS[i]: jp.Share(float(random.uniform(0.45, 0.9))) for i in costs}
    ladder = int(random.integers(2, 4 if branches else 6))
    return problem(graph, scores, bounds=bounds, ladder=ladder, branches=branches, **options)


def best_of_all(found: Problem) -> float:
    """The value of the first that is within the bounds, from the highest value down."""
    values = functools.reduce(np.add.outer, [choice.values for choice in found.choices])
    for place in np.argsort(-values, axis=None, kind="stable"):
        picks = [int(i) for i in np.unravel_index(place, values.shape)]
        if found.holds(found.keep(picks)):
            return found.value(picks)
    raise AssertionError("nothing is within the bounds")


@pytest.mark.parametrize("seed", range(20))
def test_the_integer_program_finds_the_best_of_all_combinations(seed: int) -> None:
    check_best(seed)


@pytest.mark.parametrize(("name", "value"), [("FEW", 0), ("CELLS", (6,)), ("CELLS", (1,))])
def test_large_problems_are_taken_apart_without_loss(
    name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_program, name, value)
    for seed in range(4, 12):
        check_best(seed, parts=5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 220))
def test_the_integer_program_finds_the_best_of_more(seed: int) -> None:
    check_best(seed)


def check_best(seed: int, parts: int = 1) -> None:
    found = random_problem(seed)
    allocation = milp(found, gap=0.0)
    assert found.holds(allocation.keep)
    assert len(allocation.trace) <= parts  # what the solver gives is within the bounds at once
    assert allocation.value == pytest.approx(best_of_all(found), rel=1e-6)
    for limit in found.limits:
        assert allocation.costs[limit.name] == limit.cost(found.graph, allocation.keep)


def uniform(graph: jp.ChannelGraph) -> dict[str, np.ndarray]:
    return {name: np.arange(1.0, group.size + 1) for name, group in graph.groups.items()}


def test_the_dearest_of_a_cond_is_bounded() -> None:
    v = {"in": np.ones((2, 8)), "a": np.ones((8, 3)), "b": np.ones((8, 6)), "c": np.ones((6, 3))}

    def fn(v: Any, x: Any) -> Any:
        first, second = lambda y: y @ v["a"], lambda y: (y * 2) @ v["b"] @ v["c"]
        return jax.lax.cond(x.sum() > 0, first, second, x @ v["in"])

    graph = jp.trace(fn, v, np.ones((1, 2)))
    found = problem(graph, uniform(graph), bounds={jp.cost.macs: 0.5}, ladder=8)
    assert milp(found, gap=0.0).value == pytest.approx(best_of_all(found))


def test_given_values_take_the_place_of_sums_of_scores() -> None:
    graph = plain()
    values = {A: {8: 1.0, 4: 0.9, 1: 0.0}}
    found = problem(
        graph, {A: np.ones(8)}, bounds={jp.cost.params: 0.9}, ladder={A: [8, 4, 1]}, values=values
    )
    assert milp(found).widths == {A: 4}
    with pytest.raises(BudgetError, match=r"values of 'layer_0/kernel' lack the widths \[4\]"):
        problem(
            graph, {A: np.ones(8)}, bounds={jp.cost.params: 0.9}, values={A: {8: 1.0, 1: 0.0}},
            ladder={A: [8, 4, 1]},
        )  # fmt: skip


def test_a_bound_out_of_reach_is_named_with_the_nearest() -> None:
    graph = plain()
    least = jp.cost.params(graph, dict.fromkeys(graph.groups, 1))
    with pytest.raises(BudgetError, match=rf"params may be 2 of .*jp.Absolute\({least}\)") as error:
        problem(
            graph,
            uniform(graph),
            bounds={jp.cost.params: jp.Absolute(2), jp.cost.macs: jp.Share(1.0)},
        )
    assert "macs" not in str(error.value)


def test_a_ladder_without_the_full_width_is_refused() -> None:
    graph, bounds = plain(), {jp.cost.macs: 0.5}
    with pytest.raises(BudgetError, match="'layer_0/kernel' lacks its full width, 8: \\[4, 2\\]"):
        problem(graph, uniform(graph), bounds=bounds, ladder={A: [4, 2]})
    with pytest.raises(BudgetError, match=r"holds \[9\]"):
        problem(graph, uniform(graph), bounds=bounds, ladder={A: [8, 9]})
    with pytest.raises(BudgetError, match="ladder must be"):
        problem(graph, uniform(graph), bounds=bounds, ladder=1)
    with pytest.raises(PatternError):
        problem(graph, uniform(graph), bounds=bounds, ladder={"none": [4, 2]})


def test_groups_of_unlike_sizes_cannot_be_tied() -> None:
    graph = plain()
    with pytest.raises(BudgetError, match="unlike numbers of channels"):
        problem(graph, uniform(graph), bounds={jp.cost.macs: 0.5}, equal=["*"])


def test_no_layer_is_emptied_by_default_and_what_was_held_is_printed() -> None:
    graph = chain(40, 30)[0]
    scores = {A: np.ones(40), B: np.full(30, 1e-3)}
    bounds = {jp.cost.macs: jp.Absolute(jp.cost.macs(graph, {B: 1}))}
    best = milp(problem(graph, scores, bounds=bounds), gap=0.0)
    assert best.widths[B] == 3
    assert f"the default floor, 10% of a group, holds 1: {B}; min_keep_ratio=" in str(best)
    others: list[Any] = [{"min_keep_ratio": 0.0}, {"max_prune_ratio": 1.0}, {"min_channels": 1}]
    for lifted in others:
        free = milp(problem(graph, scores, bounds=bounds, ladder=40, **lifted), gap=0.0)
        assert free.widths[B] == 1
        assert "floor" not in str(free)


def test_a_cost_without_a_closed_form_is_refused_by_the_integer_program() -> None:
    graph = plain()

    def own(graph: jp.ChannelGraph, widths: Any = None) -> int:
        return jp.cost.macs(graph, widths)

    found = problem(graph, uniform(graph), bounds={own: 0.5})
    with pytest.raises(BudgetError, match="own are not"):
        milp(found)


def test_a_cost_needs_no_name_and_no_hash() -> None:
    graph = plain()
    unnamed = functools.partial(jp.cost.macs)
    found = problem(graph, uniform(graph), bounds={unnamed: 0.5})
    assert [limit.name for limit in found.limits] == ["a cost"]

    class Unhashable:
        __hash__ = None  # pyright: ignore[reportAssignmentType]

        def __call__(self, graph: jp.ChannelGraph, widths: Any = None) -> int:
            return jp.cost.macs(graph, widths)

    assert jp.cost.channel_cost(graph, Unhashable()) == jp.cost.channel_cost(graph)


def test_no_bound_and_bad_values_are_refused() -> None:
    graph = plain()
    with pytest.raises(BudgetError, match="there is no bound"):
        problem(graph, uniform(graph), bounds={})
    with pytest.raises(BudgetError, match="may be all of the cost, or one"):
        problem(graph, uniform(graph), bounds={jp.cost.macs: 1})
    with pytest.raises(PatternError, match="branch"):
        problem(graph, uniform(graph), bounds={jp.cost.macs: 0.5}, branches={"+none": 1.0})
    with pytest.raises(BudgetError, match="gap must be"):
        milp(problem(graph, uniform(graph), bounds={jp.cost.macs: 0.5}), gap=-1)


def test_a_cost_that_is_not_a_finite_number_is_refused() -> None:
    graph = plain()
    for bad in (np.nan, np.inf, "much"):

        def cost(_: Any, keep: Any = None, bad: Any = bad) -> Any:
            return 10.0 if keep is None or keep[A].all() else bad

        with pytest.raises(BudgetError, match=r"cost of a keep is .*, not a finite number"):
            problem(graph, uniform(graph), bounds={cost: jp.Absolute(5.0)})
    with pytest.raises(BudgetError, match="of the dense network is 0"):
        problem(graph, uniform(graph), bounds={lambda *_: 0: 0.5})


def test_nothing_is_widened_beyond_a_table() -> None:
    graph = plain()
    table = jp.cost.latency_table(graph, timer=lambda calls: [1e-6] * len(calls))
    with pytest.raises(BudgetError, match="a table ends"):
        jp.plan.expand(graph, {A: 2}, bounds={jp.cost.tabled(table): 0.9})
