"""Play and Prune: rounds by hand on a table of accuracies, what ends them, and runs that go on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from chains import chain
from jaxprune.errors import BudgetError, CheckpointError, JaxpruneError, ScoreError
from jaxprune.plan import Problem, netadapt, play_and_prune, problem
from jaxprune.plan.ranked_anew import ranked_anew
from test_level_swaps import PROBLEMS, small
from test_measured_plans import Dying

FINE: dict[str, Any] = {"ladder": 64, "min_channels": 1}
Values = dict[str, np.ndarray]


def drawn(found: Problem, seed: int = 0) -> Values:
    """The weights of a game: one number for every channel, its score."""
    random = np.random.default_rng(seed)
    return {name: random.uniform(0, 1, group.shape) for name, group in found.graph.groups.items()}


def shrunk(values: Values, keep: Any, weak: Any, strength: float) -> Values:
    """A training: the penalty shrinks what is weak, and all else grows."""
    assert all(not np.any(weak[name] & ~keep[name]) for name in weak)
    still: dict[str, Any] = {name: np.zeros(v.shape, bool) for name, v in values.items()}
    return {
        name: np.where({**still, **weak}[name], v - 100 * strength, v + 0.01)
        for name, v in values.items()
    }


def missed(keep: Any, values: Values) -> float:
    """A loss: the weights that are gone, less what training made good."""
    gone = sum(float(np.sum(v, where=~keep[name])) for name, v in values.items())
    return gone / 10 - 0.05 * float(np.mean(next(iter(values.values()))))


def of_values(_: Any, values: Values) -> Values:
    return values


def by_hand(
    values: Values, tolerance: float, share: float, strength: float, base: float, rounds: int
) -> tuple[dict[str, np.ndarray], list[float]]:
    """The channels that stay and the losses of the rounds, channel by channel."""
    keep = {name: np.ones(len(v), bool) for name, v in values.items()}
    dense = loss = missed(keep, values)
    losses, within = [], keep
    for _ in range(rounds):
        slack = max(0.0, dense + tolerance - loss) / tolerance
        weak = {}
        for name, v in values.items():
            left = [c for c in np.argsort(v, kind="stable") if keep[name][c]]
            lowest = left[: max(1, int(share * len(left)))] if len(left) > 1 else []
            weak[name] = np.isin(np.arange(len(v)), lowest)
        values = shrunk(values, keep, weak, strength * slack)
        after = {}
        for name, v in values.items():
            left = [c for c in np.argsort(v, kind="stable") if keep[name][c]]
            below = [c for c in left if v[c] < slack * base]
            gone = below[: min(weak[name].sum(), len(left) - 1)]
            after[name] = keep[name] & ~np.isin(np.arange(len(v)), gone)
        keep, loss = after, missed(after, values)
        losses.append(loss)
        if loss <= dense + tolerance:
            within = keep
        elif slack == 0:
            break
    return within, losses


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tolerance", [0.05, 0.4])
def test_the_rounds_are_those_by_hand(seed: int, tolerance: float) -> None:
    graph = chain(8, 6, 8)[0]
    start = {name: np.arange(1.0, group.size + 1) for name, group in graph.groups.items()}
    found = problem(graph, start, bounds={jp.cost.macs: 0.06}, **FINE)
    values = drawn(found, seed)
    options: dict[str, Any] = {"tolerance": tolerance, "share": 0.3, "rounds": 12}
    plan = play_and_prune(
        found, missed, shrunk, values, scores=of_values, threshold=0.5, strength=1e-3, **options
    )
    keep, losses = by_hand(values, tolerance, 0.3, 1e-3, 0.5, 12)
    assert {name: kept.tolist() for name, kept in plan.keep.items()} == {
        name: kept.tolist() for name, kept in keep.items()
    }
    assert [-step.value for step in plan.trace] == losses
    assert any(not kept.all() for kept in keep.values())
    assert -plan.value <= missed({n: np.ones(len(v), bool) for n, v in values.items()}, values) + (
        tolerance
    )
    assert "not held" in str(plan)


def test_the_first_threshold_is_the_largest_that_the_dense_network_bears() -> None:
    graph = chain(8, 6, 8)[0]
    start = {name: np.arange(1.0, group.size + 1) for name, group in graph.groups.items()}
    found = problem(graph, start, bounds={jp.cost.macs: 0.06}, **FINE)
    values, base, seen = drawn(found), 0.0, []
    dense = missed({name: np.ones(len(v), bool) for name, v in values.items()}, values)
    for score in np.concatenate([*values.values()]):
        keep = {
            name: (v >= score) | (np.arange(len(v)) == v.argmax()) for name, v in values.items()
        }
        base = max(base, score) if missed(keep, values) <= dense + 0.1 else base

    def train(values: Values, _: Any, weak: Any, strength: float) -> Values:
        seen.append((strength, sorted(weak)))
        return values

    plan = play_and_prune(
        found, missed, train, values, scores=of_values, tolerance=0.1, share=1.0, rounds=1
    )
    assert plan.trace[0].what.startswith(f"round 1: threshold {base:.3g}, strength 0.0001, ")
    for name, v in values.items():
        assert plan.keep[name].tolist() == (v >= base).tolist()
    assert seen == [(1e-4, sorted(values))]


@pytest.mark.parametrize("which", ["chain", "tied", "rounded", "branches"])
def test_a_growing_tolerance_reaches_the_bounds_and_goes_no_further(which: str) -> None:
    found = PROBLEMS[which]()
    if which == "branches":
        scores = {name: np.ones(group.size) for name, group in found.graph.groups.items()}
        found = problem(found.graph, scores, bounds={jp.cost.macs: 0.5}, ladder=3)
    values = drawn(found)
    options: dict[str, Any] = {"scores": of_values, "tolerance": 0.01, "grow": 2.0, "share": 0.2}
    plan = play_and_prune(found, missed, shrunk, values, **options)
    assert found.holds(plan.keep)
    last = [step.what for step in plan.trace if " 0 removed" not in step.what]
    assert plan.trace[-1].what == last[-1]
    picks = [c.widths.index(plan.widths[c.name]) for c in found.choices]
    wider = ([*picks[:i], n - 1, *picks[i + 1 :]] for i, n in enumerate(picks) if n)
    assert not all(found.holds(found.keep(p)) for p in wider)
    if which == "chain":
        with pytest.raises(BudgetError, match="after 1 rounds the limits do not hold: macs"):
            play_and_prune(found, missed, shrunk, values, **options, rounds=1)


def test_a_game_that_was_killed_goes_on(tmp_path: Path) -> None:
    found = small(**FINE)
    values = drawn(found)
    options: dict[str, Any] = {"scores": of_values, "tolerance": 0.1, "share": 0.2}
    counted = Dying(missed)
    whole = play_and_prune(found, counted, shrunk, values, **options, journal=tmp_path / "whole")
    assert counted.calls > 8
    for after in (1, 3, counted.calls - 1):
        path = tmp_path / f"{after}"
        with pytest.raises(KeyboardInterrupt):
            play_and_prune(found, Dying(missed, after), shrunk, values, **options, journal=path)
        plan = play_and_prune(found, missed, shrunk, values, **options, journal=path)
        assert (plan.widths, plan.trace) == (whole.widths, whole.trace)
        assert all(np.array_equal(plan.variables[n], v) for n, v in whole.variables.items())
        assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    again: dict[str, Any] = dict(options, share=0.3)
    with pytest.raises(CheckpointError, match=r"share is 0\.2, here 0\.3"):
        play_and_prune(found, missed, shrunk, values, **again, journal=tmp_path / "1")
    other = {name: v + 1 for name, v in values.items()}
    with pytest.raises(CheckpointError, match="other weights or data"):
        play_and_prune(found, missed, shrunk, other, **options, journal=tmp_path / "1")


def test_what_is_left_leaves_by_new_scores() -> None:
    found = small(**FINE)
    picks = [3, 0, 2]
    new = drawn(found, 7)
    again = ranked_anew(found, picks, new)
    before = found.keep(picks)
    assert all(np.array_equal(again.keep(picks)[name], before[name]) for name in before)
    narrower = [p + 2 for p in picks]
    for choice, pick in zip(found.choices, narrower, strict=True):
        order = [c for c in np.argsort(new[choice.name]) if before[choice.name][c]]
        expected = np.isin(np.arange(len(new[choice.name])), order[2:])
        assert again.keep(narrower)[choice.name].tolist() == expected.tolist()
        assert expected.sum() == choice.widths[pick]
    with pytest.raises(ScoreError, match="the new scores lack"):
        ranked_anew(found, picks, {"layer_0/kernel": np.ones(8)})


def test_stacked_layers_are_ranked_each_alone() -> None:
    v = {"in": np.ones((2, 4)), "up": np.ones((3, 4, 5)), "down": np.ones((3, 5, 4))}

    def fn(v: Any, x: Any) -> Any:
        import jax

        step = lambda x, w: (x + x @ w[0] @ w[1], None)  # noqa: E731
        return jax.lax.scan(step, x @ v["in"], (v["up"], v["down"]))[0]

    graph = jp.trace(fn, v, np.ones((1, 2)))
    (name,) = [name for name, group in graph.groups.items() if group.layers]
    scores = {name: np.ones(graph.groups[name].shape)}
    found = problem(graph, scores, bounds={jp.cost.macs: 0.6}, **FINE)
    new = np.random.default_rng(0).uniform(size=(3, 5))
    kept = ranked_anew(found, [1], {name: new}).keep([3])[name]
    for row, values in zip(kept, new, strict=True):
        left = [c for c in np.argsort(values) if c != 0]
        assert row.tolist() == np.isin(np.arange(5), left[2:]).tolist()
    plan = play_and_prune(
        found, missed, shrunk, {name: new}, scores=of_values, tolerance=0.02, grow=2.0
    )
    assert found.holds(plan.keep)


def test_netadapt_ranks_the_filters_anew() -> None:
    """A recovery that turns the order of what is left around."""
    found = small(**FINE)

    def turned(variables: Values, _: Any) -> Values:
        return {name: -v for name, v in variables.items()}

    def loss(keep: Any, _: Values) -> float:
        return -float(sum(map(np.sum, keep.values())))

    values = {name: np.arange(1.0, len(v) + 1) for name, v in drawn(found).items()}
    options: dict[str, Any] = {"recover": turned, "variables": values}
    plan = netadapt(found, loss, **options, rescore=of_values)
    assert found.holds(plan.keep)
    assert plan.widths == netadapt(found, loss, **options).widths
    rounds = [step.what.split()[0] for step in plan.trace]
    for name, kept in plan.keep.items():
        low, high = 0, len(kept)
        turns = [i for i, each in enumerate(rounds) if each == name]
        steps = [step.what.split()[1:4:2] for step in plan.trace if step.what.split()[0] == name]
        for turn, (old, new) in zip(turns, steps, strict=True):
            gone = int(old) - int(new)
            low, high = (low + gone, high) if turn % 2 == 0 else (low, high - gone)
        assert np.flatnonzero(kept).tolist() == list(range(low, high))


def test_what_makes_no_sense_is_refused() -> None:
    found = small()
    values = drawn(found)
    with pytest.raises(ScoreError, match="nothing changes the weights to rescore"):
        netadapt(found, lambda _: 0.0, rescore=of_values)
    with pytest.raises(JaxpruneError, match="train has no variables"):
        play_and_prune(found, missed, shrunk, None)
    with pytest.raises(BudgetError, match="grow must be at least 1"):
        play_and_prune(found, missed, shrunk, values, grow=0.5)
