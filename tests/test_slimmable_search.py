"""AutoSlim: the greedy pass against brute force, budgets of every kind, one compiled program."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import slimmable
from jaxprune.errors import BudgetError, JaxpruneError, KeepError, PatternError, ScoreError
from slimmable_networks import Normed, Residual, loss, setup

DOWN, UP = "down/kernel", "up/kernel"


@pytest.fixture(scope="module")
def net():
    return setup(Residual(16, 24))


@pytest.fixture(scope="module")
def space(net):
    return slimmable.space(net.graph, parts=4, divisor=4)


@pytest.fixture(scope="module")
def evaluate(net):
    return slimmable.evaluator(net.train, net.graph, net.variables, net.x, net.labels, loss)


def price(widths):
    """A made-up error, whose minimum for every widths is known."""
    return 1.0 - widths.get(UP, 24) / 100 - widths.get(DOWN, 16) ** 2 / 1000


def made_up(candidates):
    return np.array([price(widths) for widths in candidates])


def test_steps_are_a_share_of_the_group_rounded_to_the_divisor(net, space):
    assert space == {DOWN: (16, 12, 8, 4), UP: (24, 16, 8)}
    assert slimmable.space(net.graph) == {DOWN: (16, 8), UP: (24, 16, 8)}
    assert slimmable.space(net.graph, parts=4, divisor=1, min_keep_ratio=0.5)[UP] == (24, 18, 12)
    wide = setup(Residual(864, 576)).graph  # 72 and 48 in the authors' configurations
    assert [c[0] - c[1] for c in slimmable.space(wide).values()] == [72, 48]
    assert slimmable.space(wide, protect=["up/*"]).keys() == {DOWN}


def test_errors_are_those_of_the_resized_networks_and_compile_once(net, evaluate):
    traces = []

    def counted(logits, labels):
        traces.append(0)
        return loss(logits, labels)

    candidates = [{UP: 24, DOWN: 16}, {UP: 7, DOWN: 3}, {UP: 1}]
    several = slimmable.evaluator(
        net.train, net.graph, net.variables, net.x, net.labels, counted, at_once=2
    )
    expected = []
    for widths in candidates:
        keep = slimmable.prefix(net.graph, widths)
        logits, _ = net.train(keep)(jp.slice(net.graph, net.variables, keep), net.x)
        expected.append(loss(logits, net.labels))
    np.testing.assert_allclose(evaluate(candidates), expected, rtol=2e-5)
    np.testing.assert_allclose(several(candidates), expected, rtol=2e-5)
    several(candidates[:1])
    assert len(traces) == 1


def test_greedy_takes_the_step_of_the_least_error_until_every_target_is_met(net, space):
    macs = partial(jp.cost.macs, net.graph)
    targets = [0.3 * macs(), 0.9 * macs(), 0.6 * macs()]
    found = slimmable.greedy(made_up, net.graph, space, targets)

    places, path = dict.fromkeys(space, 0), []
    while True:
        path.append({name: space[name][at] for name, at in places.items()})
        steps = [name for name in space if places[name] + 1 < len(space[name])]
        if not steps:
            break
        after = [price(path[-1] | {n: space[n][places[n] + 1]}) for n in steps]
        places[steps[after.index(min(after))]] += 1

    assert [item.target for item in found] == sorted(targets, reverse=True)
    for item in found:
        first = next(widths for widths in path if macs(widths) <= item.target)
        assert item.widths == first
        assert item.cost == macs(first)
        assert item.error == price(first)


def test_equal_errors_shrink_the_first_group(space):
    def constant(candidates):
        return np.zeros(len(candidates))

    path = [widths for widths, _ in slimmable.greedy_path(constant, space)]
    assert [widths[DOWN] for widths in path] == [16, 12, 8, 4, 4, 4]
    assert [widths[UP] for widths in path] == [24, 24, 24, 24, 16, 8]


def test_the_search_ends_in_a_network(net, space):
    traces = []

    def counted(logits, labels):
        traces.append(0)
        return loss(logits, labels)

    evaluate = slimmable.evaluator(net.train, net.graph, net.variables, net.x, net.labels, counted)
    target = 0.5 * jp.cost.macs(net.graph)
    (found,) = slimmable.greedy(evaluate, net.graph, space, [target])
    assert len(traces) == 1
    keep = slimmable.prefix(net.graph, found.widths)
    small = jp.slice(net.graph, net.variables, keep)
    fresh = jp.trace(net.serve(keep), small, net.x[:1])
    assert jp.cost.macs(fresh) == found.cost <= target
    logits, _ = net.train(keep)(small, net.x)
    np.testing.assert_allclose(found.error, loss(logits, net.labels), rtol=2e-5)


def test_costs_are_closed_forms(net):
    for up, down in ((24, 16), (16, 12), (8, 4)):
        widths = {UP: up, DOWN: down}
        assert jp.cost.macs(net.graph, widths) == 2 * down + 2 * down * up + 3 * down


@pytest.mark.parametrize("cost", [jp.cost.params, jp.cost.activation_bytes])
def test_other_budgets(net, space, cost):
    target = 0.6 * cost(net.graph)
    (found,) = slimmable.greedy(made_up, net.graph, space, [target], cost=cost)
    assert found.cost == cost(net.graph, found.widths) <= target


def test_a_measured_latency_is_a_budget(net):
    resized = []

    def network(keep):
        resized.append(keep)
        return net.serve(keep)

    latency = slimmable.measured(network, net.graph, net.variables, net.x, repeats=2)
    assert latency(net.graph) == latency(net.graph, {UP: 24}) > 0
    space = {UP: (24, 8)}
    (found,) = slimmable.greedy(made_up, net.graph, space, [1e6], cost=latency)
    assert found.widths == {UP: 24}
    assert len(resized) == 2  # the whole network and the narrowest, once each


def test_greedy_ends_at_the_first_widths_that_are_fast_enough(net, monkeypatch):
    def made_up_clock(_, variables, *__, **___):
        seconds = 1e-3 * variables["params"]["up"]["bias"].size
        return jp.cost.Latency(seconds, 0.0, 1, "made up")

    monkeypatch.setattr(jp.cost, "latency", made_up_clock)
    latency = slimmable.measured(net.serve, net.graph, net.variables, net.x)
    space = {DOWN: (16, 8), UP: (24, 20, 16, 12, 8)}
    (found,) = slimmable.greedy(made_up, net.graph, space, [0.017], cost=latency)
    assert (found.widths[UP], found.cost) == (16, 0.016)


def test_random_and_evolutionary_search_meet_the_target_from_below(net, space):
    target = 0.6 * jp.cost.macs(net.graph)
    reachable = [
        {DOWN: down, UP: up}
        for down in space[DOWN]
        for up in space[UP]
        if jp.cost.macs(net.graph, {DOWN: down, UP: up}) <= target
    ]
    best = min(map(price, reachable))
    searches = (
        partial(slimmable.random_search, samples=20),
        partial(slimmable.evolve, population=6, generations=4),
    )
    for search in searches:
        found = search(made_up, net.graph, space, target, np.random.default_rng(0))
        again = search(made_up, net.graph, space, target, np.random.default_rng(0))
        assert found == again
        assert found.cost == jp.cost.macs(net.graph, found.widths) <= target
        assert found.error == price(found.widths) == best
        assert found.widths in reachable


def test_evolution_asks_for_no_more_than_it_says(net, space):
    asked = []

    def counted(candidates):
        asked.extend(candidates)
        return made_up(candidates)

    target, rng = 0.6 * jp.cost.macs(net.graph), np.random.default_rng(0)
    slimmable.evolve(counted, net.graph, space, target, rng, population=4, generations=3)
    assert len(asked) == 12
    assert all(jp.cost.macs(net.graph, widths) <= target for widths in asked)


def test_out_of_reach_and_foreign_input_are_refused(net, space):
    least = jp.cost.macs(net.graph, {DOWN: 4, UP: 8})
    search = partial(slimmable.greedy, made_up, net.graph)
    with pytest.raises(
        BudgetError, match=rf"targets \[10\] are out of reach.* costs {least}(.|\n)*Fix"
    ):
        search(space, [10, 1000])
    for targets in ([], 1000.0):
        with pytest.raises(BudgetError, match=r"is not a list of numbers.\nFix"):
            search(space, targets)
    for foreign in ({}, {"no": (2, 1)}, {UP: (25, 8)}, {UP: (8, 0)}, {UP: (8, 8)}, {UP: ()}):
        with pytest.raises(KeepError, match=r"the space does not fit the graph:(.|\n)*Fix"):
            search(foreign, [1000])
    rng = np.random.default_rng(0)
    with pytest.raises(BudgetError, match="out of reach"):
        slimmable.random_search(made_up, net.graph, space, 10, rng)
    with pytest.raises(BudgetError, match=r"samples must be an int(.|\n)*Fix"):
        slimmable.random_search(made_up, net.graph, space, 1000, rng, samples=0)
    with pytest.raises(BudgetError, match=r"population must be an int, at least 2(.|\n)*Fix"):
        slimmable.evolve(made_up, net.graph, space, 1000, rng, population=1)
    with pytest.raises(BudgetError, match=r"mutation must be in \[0, 1\](.|\n)*Fix"):
        slimmable.evolve(made_up, net.graph, space, 1000, rng, mutation=2)


def test_a_space_without_steps_is_refused(net):
    with pytest.raises(PatternError, match=r"no group can slim in steps of 99(.|\n)*Fix"):
        slimmable.space(net.graph, divisor=99)
    with pytest.raises(KeepError, match=r"parts must be an int(.|\n)*Fix"):
        slimmable.space(net.graph, parts=0)
    with pytest.raises(PatternError, match="protect pattern"):
        slimmable.space(net.graph, protect=["conv*"])


def test_an_evaluation_must_be_finite(net):
    evaluate = slimmable.evaluator(
        net.train, net.graph, net.variables, net.x, net.labels, lambda *_: jnp.nan
    )
    with pytest.raises(ScoreError, match=r"error of 1 of 1 candidates is not finite(.|\n)*Fix"):
        evaluate([{}])
    with pytest.raises(JaxpruneError, match=r"at_once must be an int(.|\n)*Fix"):
        slimmable.evaluator(net.train, net.graph, net.variables, net.x, None, loss, at_once=0)


def test_errors_of_a_function_of_ones_own_are_one_for_each_and_finite(net, space):
    targets = [0.5 * jp.cost.macs(net.graph)]
    searches = (
        lambda evaluate: slimmable.greedy(evaluate, net.graph, space, targets),
        lambda evaluate: slimmable.random_search(
            evaluate, net.graph, space, targets[0], np.random.default_rng(0), samples=3
        ),
    )
    for search in searches:
        with pytest.raises(ScoreError, match=r"is not finite(.|\n)*Fix"):
            search(lambda candidates: np.full(len(candidates), np.nan))
        with pytest.raises(ScoreError, match=r"are float64\[2, 1\](.|\n)*Fix"):
            search(lambda _: np.zeros((2, 1)))


def test_candidates_that_are_no_networks_are_refused(evaluate):
    assert evaluate([]).shape == (0,)
    for count in (0, 25, -1):
        with pytest.raises(KeepError, match=rf"group '{UP}' is {count}, (.|\n)*Fix: leave"):
            evaluate([{}, {UP: count}])


def test_what_is_inexact_is_not_searched_by_mask():
    net = setup(Normed())
    evaluate = slimmable.evaluator(
        lambda _: lambda v, x: (net.model.apply(v, x), {}),
        net.graph,
        net.variables,
        net.x,
        net.labels,
        loss,
    )
    with pytest.raises(
        KeepError, match=r"'in/kernel' has a constant that follows (.|\n)*Fix: space\(..., protect"
    ):
        evaluate([{"in/kernel": 6}])
    keep = slimmable.prefix(net.graph, {"inner/kernel": 4})
    logits = jp.narrow(net.model.apply, net.graph, keep)(
        jp.slice(net.graph, net.variables, keep), net.x
    )
    expected = loss(logits, net.labels)
    np.testing.assert_allclose(
        evaluate([{"in/kernel": 12, "inner/kernel": 4}]), expected, rtol=1e-5
    )
