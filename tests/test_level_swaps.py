"""Evolution and random search: always within the limits, as good as every combination, resumed."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
import residual_networks
from chains import chain
from jaxprune.errors import BudgetError, JaxpruneError
from jaxprune.plan import Problem, evolution, optuna_search, problem, random_search
from jaxprune.plan.prices import Prices
from test_measured_plans import Dying
from test_plan import random_problem

SEARCHES: dict[str, Callable[..., Any]] = {
    "evolution": lambda *args, **options: evolution(*args, generations=12, offspring=16, **options),
    "random": lambda *args, **options: random_search(*args, draws=150, **options),
    "optuna": lambda *args, **options: optuna_search(*args, trials=150, **options),
}


def picks_of(found: Problem, keep: Mapping[str, Any]) -> list[int]:
    """The places in the ladders of a keep."""
    picks = []
    for choice in found.choices:
        if choice.branch is None:
            width = int(np.sum(keep[choice.members[0]], axis=-1).flat[0])
        else:
            width = int(np.ravel(keep[choice.branch[0]])[choice.branch[1]])
        picks.append(choice.widths.index(width))
    return picks


def interacting(found: Problem, seed: int = 0) -> Callable[[Any], float]:
    """A loss with terms of pairs that falls with every width; takes only what is in the limits."""
    random = np.random.default_rng(seed)
    longest = max(len(choice.widths) for choice in found.choices)
    single = random.uniform(size=(len(found.choices), longest)).cumsum(1)
    pairs = random.uniform(size=(len(found.choices), len(found.choices))) / 4

    def loss(keep: Any) -> float:
        assert found.holds(keep)
        picks = np.array(picks_of(found, keep))
        return float(single[np.arange(len(picks)), picks].sum() + picks @ pairs @ picks)

    return loss


def small(**options: Any) -> Problem:
    """Three layers in a chain under two bounds."""
    graph = chain(8, 6, 8)[0]
    scores = {name: np.arange(1.0, group.size + 1) for name, group in graph.groups.items()}
    bounds = {jp.cost.macs: 0.5, jp.cost.params: 0.6}
    return problem(graph, scores, bounds=bounds, **options)


def switched() -> Problem:
    """Two blocks in a stream, which may go."""
    sizes = {"in": (2, 4), "u0": (4, 6), "d0": (6, 4), "u1": (4, 6), "d1": (6, 4), "out": (4, 2)}
    v = {name: np.ones(size) for name, size in sizes.items()}

    def fn(v: Any, x: Any) -> Any:
        x = x @ v["in"]
        for i in range(2):
            x = x + x @ v[f"u{i}"] @ v[f"d{i}"]
        return x @ v["out"]

    graph = jp.trace(fn, v, np.ones((1, 2)))
    scores = {name: np.arange(1.0, group.size + 1) for name, group in graph.groups.items()}
    branches = dict.fromkeys(jp.branches(graph), 1.0)
    assert len(branches) == 2
    bounds = {jp.cost.macs: 0.5, jp.cost.params: 0.6}
    return problem(graph, scores, bounds=bounds, ladder=3, branches=branches)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "chain": small,
    "tied": lambda: small(equal=[["layer_0/kernel", "layer_2/kernel"]], min_channels=2),
    "rounded": lambda: small(multiple_of=2),
    "branches": switched,
}


@pytest.mark.parametrize("seed", range(8))
def test_prices_are_the_costs(seed: int) -> None:
    found, random = random_problem(seed), np.random.default_rng(seed)
    point = Prices(found).start([0] * len(found.choices))
    for _ in range(12):
        choice = int(random.integers(len(found.choices)))
        point.move(choice, int(random.integers(len(found.choices[choice].widths))))
        keep = found.keep(point.picks)
        costs = [limit.cost(found.graph, keep) for limit in found.limits]
        assert point.totals == pytest.approx(costs, rel=1e-9)
        assert point.holds() == found.holds(keep)


def test_what_goes_with_two_branches_together_counts_as_staying() -> None:
    forms = ("shared", "pre")
    variables = residual_networks.variables(forms)
    graph = jp.trace(residual_networks.network(forms), variables, np.ones((2, 3)))
    scores = {name: np.ones(group.shape) for name, group in graph.groups.items()}
    branches = dict.fromkeys([n for n in jp.branches(graph) if n.startswith("+0")], 1.0)
    full = {name: [group.size] for name, group in graph.groups.items()}
    without = jp.cost.params(graph, dict.fromkeys(branches, False))
    options: dict[str, Any] = {"ladder": full, "branches": branches}
    tight = problem(graph, scores, bounds={jp.cost.params: jp.Absolute(without)}, **options)
    with pytest.raises(BudgetError, match="several branches together"):
        evolution(tight, lambda _: 0.0)
    loose = problem(graph, scores, bounds={jp.cost.macs: 0.9}, **options)
    assert evolution(loose, lambda keep: float(sum(map(np.sum, keep.values())))).costs


@pytest.mark.parametrize("which", PROBLEMS)
@pytest.mark.parametrize("name", SEARCHES)
def test_the_best_of_all_combinations_is_found(name: str, which: str) -> None:
    found = PROBLEMS[which]()
    loss = interacting(found)
    every = np.ndindex(*(len(choice.widths) for choice in found.choices))
    keeps = (found.keep(list(picks)) for picks in every)
    losses = sorted(loss(keep) for keep in keeps if found.holds(keep))
    plan = SEARCHES[name](found, loss)
    assert -plan.value == loss(plan.keep)
    assert -plan.value == losses[0]
    assert [limit.cost(found.graph, plan.keep) for limit in found.limits] == [*plan.costs.values()]
    assert plan.trace[-1].value == plan.value


def test_limits_are_held_to_the_last_bit() -> None:
    found = small()
    plan = SEARCHES["random"](found, interacting(found))
    limits = [x._replace(value=plan.costs[x.name] * (1 - 1e-13)) for x in found.limits]
    tight = replace(found, limits=tuple(limits))
    for search in SEARCHES.values():
        assert tight.holds(search(tight, interacting(tight)).keep)


def test_levels_of_equal_cost_are_swapped_and_nothing_else() -> None:
    """Four layers side by side, whose channels all cost the same."""
    v = {
        f"{part}{i}": np.ones((2, 8) if part == "a" else (8, 2)) for i in range(4) for part in "ab"
    }

    def fn(v: Any, x: Any) -> Any:
        return sum(x @ v[f"a{i}"] @ v[f"b{i}"] for i in range(4))

    graph = jp.trace(fn, v, np.ones((1, 2)))
    scores = {name: np.arange(8.0) for name in graph.groups}
    found = problem(graph, scores, bounds={jp.cost.macs: 0.5})
    seen = []

    def loss(keep: Any) -> float:
        seen.append(picks_of(found, keep))
        return float(sum((i + 1) * np.sum(kept) for i, kept in enumerate(keep.values())))

    plan = evolution(found, loss, generations=30, offspring=6)
    assert {jp.cost.macs(graph, found.keep(picks)) for picks in seen} == {found.limits[0].value}
    assert [*plan.widths.values()] == [8, 6, 1, 1]
    steps = np.abs(np.diff([picks for picks in seen[:7]], axis=0)).sum(1)
    assert max(steps) <= 12


def test_each_evaluator_sees_what_survived_the_one_before() -> None:
    found = small()
    first, second = Dying(interacting(found, 0)), Dying(interacting(found, 1))
    plan = evolution(found, [first, second], generations=1, offspring=9, survivors=(4, 1))
    assert (first.calls, second.calls) == (9, 5)
    assert -plan.value == second.evaluate(plan.keep)
    assert -plan.value <= -plan.trace[0].value


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_that_was_killed_goes_on(name: str, tmp_path: Path) -> None:
    found = small()
    loss = Dying(interacting(found))
    whole = SEARCHES[name](found, loss, journal=tmp_path / "whole")
    assert str(SEARCHES[name](found, loss.evaluate)) == str(whole)
    for after in (2, loss.calls // 2, loss.calls - 1):
        path = tmp_path / f"{after}"
        with pytest.raises(KeyboardInterrupt):
            SEARCHES[name](found, Dying(loss.evaluate, after), journal=path)
        again = SEARCHES[name](found, loss.evaluate, journal=path)
        assert (again.widths, again.value, again.trace) == (whole.widths, whole.value, whole.trace)
        assert path.read_bytes() == (tmp_path / "whole").read_bytes()


def test_optuna_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(JaxpruneError, match=r"not installed.\nFix: pip install 'jaxprune\[optuna"):
        optuna_search(small(), lambda _: 0.0)


def test_bad_losses_and_survivors_are_refused() -> None:
    found = small()
    for search in SEARCHES.values():
        with pytest.raises(JaxpruneError, match=r"gave nan for 'layer_\d/kernel' at width"):
            search(found, lambda _: np.nan)
    with pytest.raises(BudgetError, match="a count for each of 1 evaluators, the last 1"):
        evolution(found, lambda _: 0.0, survivors=(2, 1))
