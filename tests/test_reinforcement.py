"""AMC: actions that reach the budget, states and learning by hand, and runs that go on."""

import inspect
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.plan import actor_critic, amc, random_search, reinforcement
from jaxprune.plan.actor_critic import Agent, Batch, act, agent, noisy, trained, updated, worth
from jaxprune.plan.prices import Prices
from jaxprune.plan.reinforcement import States, taken
from test_level_swaps import PROBLEMS, interacting, picks_of, small
from test_measured_plans import Dying
from test_plan import random_problem


@pytest.mark.parametrize("seed", range(8))
def test_its_actions_always_reach_the_budget(seed: int) -> None:
    found = random_problem(seed)
    plan = amc(found, interacting(found), episodes=6, warmup=6, seed=seed)  # takes what holds only
    assert found.holds(plan.keep)


def test_an_action_is_cut_to_what_leaves_the_budget_reachable() -> None:
    """Asked for everything, each choice has the widest width that the ones behind it allow."""
    found = small()
    point = Prices(found).start([len(choice.widths) - 1 for choice in found.choices])
    expected = list(point.picks)
    for place, choice in enumerate(found.choices):
        holding = []
        for pick in range(len(choice.widths)):
            picks = [*expected[:place], pick, *expected[place + 1 :]]
            holding += [pick] if found.holds(found.keep(picks)) else []
        expected[place] = holding[0]
        assert taken(point, place, 1.0) == choice.widths[holding[0]] / choice.widths[0]
        assert point.picks == expected
    assert expected[-1] > 0
    again = Prices(found).start([len(choice.widths) - 1 for choice in found.choices])
    assert taken(again, 0, 0.44) == 4 / 8  # round(3.52) = 4
    assert taken(again, 0, 0.0) == 1 / 8
    branched = PROBLEMS["branches"]()
    places = [i for i, choice in enumerate(branched.choices) if choice.branch is not None]
    off = Prices(branched).start([len(choice.widths) - 1 for choice in branched.choices])
    assert places
    assert [taken(off, place, 0.3) for place in places] == [0] * len(places)


def test_the_states_by_hand() -> None:
    found = small()
    states = States(found)
    graph, macs = found.graph, found.limits[0].dense
    point = Prices(found).start([0, 0, 0])
    widths = lambda *n: jp.cost.macs(graph, dict(zip(graph.groups, n, strict=True)))  # noqa: E731
    first = states.at(0, point, 1.0)
    assert first.shape == (10,)
    gone = np.array([macs - widths(1, 6, 8), macs - widths(8, 1, 8), macs - widths(8, 6, 1)])
    scaled = (gone - gone.min()) / np.ptp(gone)
    np.testing.assert_allclose([states.at(i, point, 1.0)[6] for i in range(3)], scaled, rtol=1e-6)
    assert [states.at(i, point, 1.0)[0] for i in range(3)] == [0, 0.5, 1]
    assert [states.at(i, point, 1.0)[2] for i in range(3)] == [1, 0, 1]
    np.testing.assert_allclose(first[-3:], [0, 1 - widths(1, 1, 1) / macs, 1], rtol=1e-6)
    point.move(0, found.choices[0].widths.index(4))
    second = states.at(1, point, 0.5)
    rest = (widths(4, 6, 8) - widths(4, 1, 1)) / macs
    np.testing.assert_allclose(second[-3:], [1 - widths(4, 6, 8) / macs, rest, 0.5], rtol=1e-6)


def test_the_constants_are_those_of_the_paper() -> None:
    defaults = {name: item.default for name, item in inspect.signature(amc).parameters.items()}
    wanted = {"episodes": 800, "warmup": 100, "noise": 0.5, "noise_decay": 0.95, "hidden": 300}
    assert {name: defaults[name] for name in wanted} == wanted
    new = agent(jax.random.key(0), 10, 300)
    shapes = [layer["kernel"].shape for layer in (*new.actor, *new.critic)]
    assert shapes == [(10, 300), (300, 300), (300, 1), (10, 300), (1, 300), (300, 300), (300, 1)]


def drawn(n: int = 5) -> tuple[Agent, Batch]:
    random = np.random.default_rng(0)
    old = agent(jax.random.key(1), 3, 4)
    old = old._replace(critic_target=jax.tree.map(lambda w: w + 0.1, old.critic))
    sizes = {"state": (n, 3), "action": (n, 1), "reward": (n,), "after": (n, 3)}
    drawn = {k: jnp.asarray(random.uniform(size=s), jnp.float32) for k, s in sizes.items()}
    return old, Batch(**drawn, ended=jnp.array([0.0] * (n - 1) + [1.0]))


def test_a_step_of_learning_by_hand() -> None:
    """The first step of Adam is the rate, against the sign of the gradient."""
    old, batch = drawn()
    step = jax.jit(updated)
    new = step(old._replace(average=jnp.float32(0.2)), batch)
    mean = float(batch.reward.mean())
    average = 0.2 + 0.5 * (mean - 0.2)
    assert float(new.average) == pytest.approx(average)
    assert float(step(old, batch).average) == pytest.approx(mean)
    later = worth(old.critic_target, batch.after, act(old.actor_target, batch.after))
    goal = batch.reward - average + (1 - batch.ended) * later
    bias = lambda critic: critic[3]["bias"][0]  # noqa: E731
    slope = 2 * jnp.mean(worth(old.critic, batch.state, batch.action) - goal)
    assert float(bias(new.critic_state[0].mu)) == pytest.approx(0.1 * float(slope), rel=1e-4)
    moved = bias(new.critic) - bias(old.critic)
    assert float(moved) == pytest.approx(-1e-3 * float(jnp.sign(slope)), rel=1e-3)

    def value(last: Any) -> Any:
        actor = [*old.actor[:2], {**old.actor[2], "bias": last}]
        return worth(new.critic, batch.state, act(actor, batch.state)).mean()

    up = jax.grad(value)(old.actor[2]["bias"])
    moved = new.actor[2]["bias"] - old.actor[2]["bias"]
    np.testing.assert_allclose(moved, 1e-4 * jnp.sign(up), rtol=1e-2)
    followed = 0.99 * bias(old.critic_target) + 0.01 * bias(new.critic)
    assert float(bias(new.critic_target)) == pytest.approx(float(followed))


def test_it_learns_which_share_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """One choice, whose reward is highest at a share of 0.3 or 0.7."""
    monkeypatch.setattr(actor_critic, "ACTOR", actor_critic.CRITIC)
    random = np.random.default_rng(0)
    states = np.eye(2, 10, dtype=np.float32)[np.arange(512) % 2]
    shares = random.uniform(size=(512, 1)).astype(np.float32)
    best = np.where(states[:, :1] > 0, 0.3, 0.7)
    reward = -4 * (shares - best)[:, 0] ** 2
    memory = Batch(states, shares, reward.astype(np.float32), states, np.ones(512, np.float32))
    found = trained(agent(jax.random.key(0), 10, 32), memory, random.integers(512, size=(600, 64)))
    np.testing.assert_allclose(act(found.actor, states[:2])[:, 0], [0.3, 0.7], atol=0.12)


def test_the_noise_is_a_truncated_normal() -> None:
    random = np.random.default_rng(0)
    wide = np.array([noisy(0.9, 0.5, random) for _ in range(4000)])
    assert 0 <= wide.min() < 0.02
    assert 0.98 < wide.max() <= 1
    x = np.linspace(0, 1, 2001)
    density = np.exp(-((x - 0.9) ** 2) / 2 / 0.25)
    assert wide.mean() == pytest.approx((x * density).sum() / density.sum(), abs=0.015)
    assert noisy(0.4, 1e-9, random) == pytest.approx(0.4, abs=1e-6)
    assert 0 <= noisy(1.0, 1e-9, random) <= 1


SHORT: dict[str, Any] = {"episodes": 14, "warmup": 8, "hidden": 8}


def test_answers_are_drawn_evenly_and_then_about_the_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    deviations = []

    def watched(mean: float, deviation: float, random: np.random.Generator) -> float:
        deviations.append(deviation)
        return noisy(mean, deviation, random)

    monkeypatch.setattr(reinforcement, "noisy", watched)
    found = small()
    amc(found, interacting(found), **SHORT)
    np.testing.assert_allclose(deviations, np.repeat(0.5 * 0.95 ** np.arange(6), 3))


def test_a_run_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[float] = []

    def watched(mean: float, deviation: float, random: np.random.Generator) -> float:
        answers.append(mean)
        return noisy(mean, deviation, random)

    monkeypatch.setattr(reinforcement, "noisy", watched)
    found = small()
    counted = Dying(interacting(found))
    whole = amc(found, counted, **SHORT, journal=tmp_path / "whole")
    expected = [*answers]
    for after in (3, 9, counted.calls - 1):
        path = tmp_path / f"{after}"
        with pytest.raises(KeyboardInterrupt):
            amc(found, Dying(counted.evaluate, after), **SHORT, journal=path)
        answers.clear()
        again = amc(found, counted.evaluate, **SHORT, journal=path)
        assert answers == expected
        assert (again.widths, again.value, again.trace) == (whole.widths, whole.value, whole.trace)
        assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    random_search(found, counted.evaluate, draws=3, journal=tmp_path / "whole")  # losses are shared


def test_the_recovery_follows_every_choice_in_turn() -> None:
    found = PROBLEMS["tied"]()
    loss = interacting(found)

    def recover(variables: Any, keep: Any) -> Any:
        return [*variables, picks_of(found, keep)]

    def evaluate(keep: Any, variables: Any) -> float:
        picks = picks_of(found, keep)
        steps = [[*picks[: i + 1], *[0] * (len(picks) - i - 1)] for i in range(len(picks))]
        assert variables == [step for step, pick in zip(steps, picks, strict=True) if pick]
        return loss(keep)

    plan = amc(found, evaluate, recover=recover, variables=[], episodes=5, warmup=5)
    assert evaluate(plan.keep, plan.variables) == -plan.value
