"""Plans by hand, the progress through rounds and commits, and what a bad plan is told."""

import itertools
import json
from typing import Any

import numpy as np
import optax
import pytest

import jaxprune as jp
from chains import chain, kept, widths
from jaxprune import schedule
from jaxprune.arguments.paths import flatten
from jaxprune.errors import BudgetError, JaxpruneError, KeepError, ScoreError
from jaxprune.schedule import Part, Phase, Prune, Quota, Training

A, B = "layer_0/kernel", "layer_1/kernel"
ONCE = Training(epochs=1, rates=schedule.constant(0.1))
SCORES = {A: [4.0, 1.0, 3.0, 2.0], B: [5.0, 6.0, 0.5, 7.0, 8.0]}


def played(plan: schedule.Plan, left: list[float]) -> list[Phase]:
    """The phases of a plan when the shares of `left` are reached by its prunings."""
    here, found = [1.0, *left], []
    for phase in itertools.islice(schedule.phases(plan, lambda: here[0]), 200):
        found.append(phase)
        if phase.prune:
            here.pop(0)
    return found


def names(phases: list[Phase]) -> list[str]:
    return [phase.name for phase in phases]


# Plans.


def test_tick_tock_with_the_numbers_of_the_paper() -> None:
    """ResNet-56 to 30 %: 153 Ticks and 16 Tocks, then 40 and 10 epochs of fine-tuning."""
    plan = schedule.tick_tock(keep_macs=0.3)
    found = played(plan, [1.0 - 0.7 * k / 153 for k in range(1, 154)])
    kinds = [phase.kind for phase in found]
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)} == {
        "tock": 16, "tick": 153, "commit": 1, "finetune": 2,
    }  # fmt: skip
    assert names(found[:13]) == [
        "tock-1",
        *(f"tick-{k}" for k in range(1, 11)),
        "tock-2",
        "tick-11",
    ]
    ticks_and_tocks = [phase for phase in found if phase.kind in ("tick", "tock")]
    assert sum(phase.training.epochs for phase in ticks_and_tocks) == 313
    assert [phase.training.epochs for phase in found[-2:]] == [40, 10]
    tick, tock = found[1], found[0]
    assert tick.prune == Prune(prune_ratio=0.002, keep_macs=0.3)
    assert (tick.training.part, tock.training.part) == (Part.GATES, Part.ALL)
    assert (tick.training.strength, tock.training.strength) == (0, 1e-3)
    assert tock.prune is None


def test_several_targets_are_committed_each() -> None:
    plan = schedule.tick_tock(keep_macs=(0.7, 0.6, 0.4), ticks=2, tick=ONCE, tock=ONCE, finetune=())
    assert names(played(plan, [0.8, 0.65, 0.5, 0.4])) == [
        "tock-1", "tick-1", "tick-2", "commit-1", "tock-2", "tick-3", "commit-2", "tick-4",
        "commit-3",
    ]  # fmt: skip
    assert names(played(plan, [0.55, 0.4])) == [
        "tock-1",
        "tick-1",
        "commit-2",
        "tick-2",
        "commit-3",
    ]
    aims = [phase.prune.keep_macs for phase in played(plan, [0.8, 0.65, 0.5, 0.4]) if phase.prune]
    assert aims == [0.7, 0.7, 0.6, 0.4]


def test_a_target_is_reached_when_the_budget_says_so() -> None:
    """1 - 0.9 is a little below a tenth, and so is what the budget lets stay."""
    graph, _ = chain(4, 5)
    share = 14 / 43 - 1e-12
    assert jp.cost.macs(graph, jp.select.budget(graph, SCORES, keep_macs=share)) / 43 > share
    plan = schedule.tick_only(keep_macs=share, tick=ONCE, finetune=())
    assert names(played(plan, [14 / 43])) == ["tick-1", "commit-1"]


def test_the_other_plans() -> None:
    plan = schedule.tick_only(keep_macs=0.5, tick=ONCE, finetune=[ONCE])
    assert names(played(plan, [0.8, 0.5])) == ["tick-1", "tick-2", "commit-1", "finetune-1"]
    plan = schedule.iterative(keep_macs=0.5, prune_ratio=0.3, training=ONCE, finetune=[ONCE])
    found = played(plan, [0.8, 0.5])
    assert names(found) == ["train-1", "train-2", "commit-1", "finetune-1"]
    assert found[0].prune == Prune(prune_ratio=0.3, keep_macs=0.5)
    found = played(schedule.one_shot(keep_macs=0.5), [0.5])
    assert names(found) == ["score-1", "commit-1", "finetune-1", "finetune-2"]
    assert found[0].prune == Prune(keep_macs=0.5)
    assert found[0].training.part is Part.NOTHING


def test_layers_one_after_another() -> None:
    readers = Training(epochs=1, rates=schedule.constant(0.1), part=Part.READERS)
    plan = schedule.layerwise([B, A], prune_ratio=0.5, training=readers, finetune=(ONCE,))
    found = played(plan, [0.8, 0.6])
    assert names(found) == [
        "layer-1",
        "recover-1",
        "layer-2",
        "recover-2",
        "commit-1",
        "finetune-1",
    ]
    assert [phase.groups for phase in found[:4]] == [(B,), (B,), (A,), (A,)]
    assert [phase.training for phase in found[:2]] == [None, readers]
    for phase in found:  # a run that was killed goes on from any of them
        again = schedule.from_json(json.loads(json.dumps(schedule.to_json(phase))))
        assert again == phase
        assert plan(again, 0.6) == plan(phase, 0.6)
    closed = schedule.layerwise([A], prune_ratio=0.5, training=None)
    assert names(played(closed, [0.8])) == ["layer-1", "commit-1"]
    graph, variables = chain(4, 5)
    progress = schedule.begin(graph)
    half = found[0].prune
    first = progress.prune(half, SCORES, found[0].groups)
    np.testing.assert_array_equal(first.keep[B], [False, True, False, True, True])
    assert first.keep[A].all()
    second = first.prune(half, SCORES, found[2].groups)
    np.testing.assert_array_equal(second.keep[A], [True, False, True, False])
    np.testing.assert_array_equal(second.keep[B], first.keep[B])
    tied = schedule.begin(graph, only=[A])
    assert tied.prune(half, SCORES, [A]).keep[B].all()
    trains = schedule.trainable(graph, variables, Part.READERS, groups=[A])
    flags = {path: leaf for path, leaf in flatten(trains)[0].items() if leaf}
    assert list(flags) == ["layer_1/kernel"]
    for groups, why in ((None, "no kernel reads"), ([A, "z"], r"\['z'\] are not in the graph")):
        with pytest.raises(JaxpruneError, match=rf"{why}.*\nFix: groups=phase.groups"):
            schedule.trainable(graph, variables, Part.READERS, groups=groups)
    with pytest.raises(KeepError, match=r"no groups \['z'\]"):
        progress.prune(half, SCORES, ["z"])
    with pytest.raises(BudgetError, match=r"only a share of their channels can be pruned"):
        progress.prune(Prune(keep_macs=0.5), SCORES, [A])
    with pytest.raises(JaxpruneError, match=r"groups must be names, each once"):
        schedule.layerwise([A, A], prune_ratio=0.5, training=None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"prune_ratio": 0.8, "rounds": 4}, [0.4625, 0.7, 0.7875, 0.8]),
        ({"prune_ratio": 0.6, "initial": 0.2, "rounds": 2}, [0.55, 0.6]),
        ({"prune_ratio": 0.5, "rounds": 5, "power": 1}, [0.1, 0.2, 0.3, 0.4, 0.5]),
    ],
)
def test_agp_by_hand(options: dict, expected: list[float]) -> None:
    found = played(schedule.agp(**options, training=ONCE, finetune=[ONCE]), [1.0] * 9)
    count = len(expected)
    ramp = [f"ramp-{k}" for k in range(1, count + 1)]
    assert names(found) == [*ramp, "commit-1", "finetune-1"]
    shares = [phase.prune.prune_ratio for phase in found if phase.prune]
    np.testing.assert_allclose(shares, expected, rtol=1e-12)
    assert all(phase.prune.of is Quota.CHANNELS for phase in found[:count])


PLANS = {
    "tick_tock": schedule.tick_tock(keep_macs=(0.7, 0.4), ticks=2),
    "tick_only": schedule.tick_only(keep_macs=0.4),
    "iterative": schedule.iterative(
        keep_macs=0.4, prune_ratio=0.2, training=ONCE, finetune=(ONCE, ONCE)
    ),
    "one_shot": schedule.one_shot(keep_macs=0.4),
    "agp": schedule.agp(prune_ratio=0.6, rounds=3, training=ONCE, finetune=(ONCE,)),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_goes_on_after_any_phase(name: str) -> None:
    """What follows a phase that went through JSON is what followed it before."""
    plan, left = PLANS[name], {0: 1.0, 1: 0.8, 2: 0.6, 3: 0.5, 4: 0.3}
    if name == "one_shot":
        left = {0: 1.0, 1: 0.4}

    def play(after: Phase | None) -> list[Phase]:
        done, found = after, []
        while (done := plan(done, left[done.rounds if done else 0])) is not None:
            found.append(done)
        return found

    whole = play(None)
    assert len(whole) >= 4
    for at, phase in enumerate(whole):
        again = schedule.from_json(json.loads(json.dumps(schedule.to_json(phase))))
        assert again == phase
        assert play(again) == whole[at + 1 :]


def test_a_generator_reads_what_is_left_as_it_goes() -> None:
    here = [1.0]
    going = schedule.phases(PLANS["tick_only"], lambda: here[0])
    assert names(list(itertools.islice(going, 2))) == ["tick-1", "tick-2"]
    here[0] = 0.4
    assert next(going).name == "commit-1"


def test_learning_rates() -> None:
    def of(rates: Any, steps: int) -> list[float]:
        at = Training(epochs=1, rates=rates).learning_rate(steps)
        return [float(at(step)) for step in range(steps + 1)]

    np.testing.assert_allclose(of(schedule.constant(0.1), 3), [0.1] * 4)
    np.testing.assert_allclose(of(schedule.triangular(0.0, 1.0), 4), [0, 0.5, 1, 0.5, 0])
    drops = optax.piecewise_constant_schedule(0.1, {4: 0.1, 6: 0.1})
    expected = [float(drops(step)) for step in range(9)]
    np.testing.assert_allclose(of(schedule.stepped(0.1), 8), expected, rtol=1e-6)


def test_a_training_is_a_static_argument() -> None:
    """Equal settings are one program."""
    again = Training(epochs=1, rates=schedule.constant(0.1))
    assert again == ONCE
    assert hash(again) == hash(ONCE)
    assert len({ONCE, again, Training(epochs=2, rates=ONCE.rates)}) == 2


# Progress.


def test_rounds_add_up_across_a_commit() -> None:
    """Ramp, commit, ramp: the shares are of the network before any pruning."""
    graph, variables = chain(4, 5)
    progress = schedule.begin(graph)
    progress = progress.prune(Prune(prune_ratio=1 / 3, of=Quota.CHANNELS), SCORES)
    assert kept(progress.total) == {A: [0, 2], B: [0, 1, 3, 4]}
    small = jp.slice(graph, variables, progress.keep)
    progress = progress.commit(jp.trace(graph.fn, small, *graph.inputs))
    assert kept(progress.keep) == {A: [0, 1], B: [0, 1, 2, 3]}
    now = {A: [4.0, 3.0], B: [5.0, 6.0, 7.0, 8.0]}
    progress = progress.prune(Prune(prune_ratio=5 / 9, of=Quota.CHANNELS), now)
    assert kept(progress.keep) == {A: [0], B: [1, 2, 3]}
    assert kept(progress.total) == {A: [0], B: [1, 3, 4]}
    assert progress.left() == jp.cost.macs(graph, {A: 1, B: 3}) / jp.cost.macs(graph)
    assert progress.left(jp.cost.params) == jp.cost.params(graph, {A: 1, B: 3}) / jp.cost.params(
        graph
    )


def test_a_group_of_one_channel_leaves_the_graph() -> None:
    """An axis of size 1 is not a group any more; the total still knows it, and what it costs."""
    graph, variables = chain(4, 5)
    progress = schedule.begin(graph)
    progress = progress.prune(Prune(prune_ratio=4 / 9, of=Quota.CHANNELS), SCORES)
    assert widths(progress.total) == [1, 4]
    small = jp.slice(graph, variables, progress.keep)
    progress = progress.commit(jp.trace(graph.fn, small, *graph.inputs))
    assert list(progress.keep) == [B]
    progress = progress.prune(Prune(prune_ratio=0.3), {B: [1.0, 2.0, 3.0, 4.0]})
    assert kept(progress.total) == {A: [0], B: [1, 3, 4]}
    bound = jp.cost.macs(graph, {A: 1, B: 2}) / jp.cost.macs(graph)
    progress = progress.prune(Prune(keep_macs=bound), {B: [1.0, 2.0, 3.0, 4.0]})
    assert widths(progress.total) == [1, 2]


def test_a_round_goes_no_further_than_the_target() -> None:
    graph, _ = chain(4, 5)
    at = {n: jp.cost.macs(graph, w) / jp.cost.macs(graph) for n, w in {"near": {B: 4}}.items()}
    progress = schedule.begin(graph)
    near = progress.prune(Prune(prune_ratio=0.5, keep_macs=at["near"]), SCORES)
    assert kept(near.total) == {A: [0, 1, 2, 3], B: [0, 1, 3, 4]}
    far = progress.prune(Prune(prune_ratio=0.12, keep_macs=0.2), SCORES)
    assert kept(far.total) == kept(near.total)
    for of in (Quota.MACS, Quota.WEIGHTS):
        assert progress.prune(Prune(prune_ratio=0.5, of=of), SCORES).left() <= 0.5


def test_what_is_gone_stays_gone() -> None:
    graph, _ = chain(4, 5)
    first = schedule.begin(graph).prune(Prune(prune_ratio=0.3, of=Quota.CHANNELS), SCORES)
    turned = {name: [-value for value in values] for name, values in SCORES.items()}
    for prune in (
        Prune(prune_ratio=0.1, of=Quota.CHANNELS),
        Prune(keep_macs=1.0),
        Prune(keep_macs=0.3),
    ):
        again = first.prune(prune, turned)
        assert all((again.total[n] <= first.total[n]).all() for n in graph.groups)
    assert kept(first.prune(Prune(keep_macs=1.0), turned).total) == kept(first.total)


def test_a_progress_comes_back() -> None:
    graph, variables = chain(4, 5)
    fresh = schedule.begin(graph, min_keep_ratio=0.1)
    masked = fresh.prune(Prune(prune_ratio=0.3), SCORES)
    again = fresh.restored(json.loads(json.dumps(masked.to_json())))
    assert kept(again.keep) == kept(masked.keep)
    small = jp.slice(graph, variables, masked.keep)
    cut = masked.commit(jp.trace(graph.fn, small, *graph.inputs))
    later = cut.prune(
        Prune(prune_ratio=0.3), {n: np.arange(1.0, g.size + 1) for n, g in cut.graph.groups.items()}
    )
    again = fresh.restored(json.loads(json.dumps(later.to_json())), later.graph)
    assert (kept(again.keep), kept(again.total)) == (kept(later.keep), kept(later.total))


def test_errors_of_progress() -> None:
    graph, variables = chain(4, 5)
    with pytest.raises(BudgetError, match=r"smallest reachable is 1[\s\S]*Fix: a looser bound"):
        schedule.begin(graph, keep_macs=0.1, min_keep_ratio=0.5)
    with pytest.raises(KeepError, match=r"within is what a progress keeps"):
        schedule.begin(graph, within={A: np.ones(4, bool)})
    with pytest.raises(BudgetError, match="min_channels must be an int"):
        schedule.begin(graph, min_channels=0)
    progress = schedule.begin(graph).prune(Prune(prune_ratio=0.3), SCORES)
    with pytest.raises(KeepError, match=r"has 4 channels, the keep leaves 3[\s\S]*Fix: trace the"):
        progress.commit(graph)
    with pytest.raises(KeepError, match=r"not the graph of the cut network"):
        schedule.begin(graph).commit(chain(4)[0])
    with pytest.raises(ScoreError, match=r"'other', which is not a group[\s\S]*Fix: compute"):
        progress.prune(Prune(prune_ratio=0.3), {**SCORES, "other": [1.0]})
    small = jp.slice(graph, variables, progress.keep)
    cut = progress.commit(jp.trace(graph.fn, small, *graph.inputs))
    with pytest.raises(ScoreError, match=r"shape \(5,\), the group has 4 channels"):
        cut.prune(Prune(prune_ratio=0.3), SCORES)


# Bad input.

ROUNDS = {"rounds": 2, "training": ONCE}
BAD: dict[str, tuple[Any, type, str]] = {
    "all": (lambda: schedule.tick_tock(keep_macs=1.0), BudgetError, "must be a share in"),
    "rising": (lambda: schedule.tick_tock(keep_macs=(0.4, 0.7)), BudgetError, "large to small"),
    "no target": (lambda: schedule.tick_tock(keep_macs=()), BudgetError, "must be a share in"),
    "share": (
        lambda: schedule.tick_only(keep_macs=0.5, prune_ratio=1.0),
        BudgetError,
        "prune_ratio must be",
    ),
    "ticks": (lambda: schedule.tick_tock(keep_macs=0.5, ticks=0), JaxpruneError, "ticks must be"),
    "nothing": (lambda: schedule.one_shot(keep_macs=0), BudgetError, "must be a share in"),
    "final": (lambda: schedule.agp(prune_ratio=1.0, **ROUNDS), BudgetError, "ramp must rise"),
    "falling": (
        lambda: schedule.agp(prune_ratio=0.3, initial=0.5, **ROUNDS),
        BudgetError,
        "got 0.5 to 0.3",
    ),
    "rounds": (
        lambda: schedule.agp(prune_ratio=0.5, rounds=0, training=ONCE),
        JaxpruneError,
        "rounds must be",
    ),
    "left": (
        lambda: schedule.agp(prune_ratio=0.5, of=Quota.LEFT, **ROUNDS),
        BudgetError,
        "not a share of what is left",
    ),
    "epochs": (lambda: Training(epochs=-1, rates=ONCE.rates), JaxpruneError, "epochs must be"),
    "no rate": (lambda: Training(epochs=1, rates=()), JaxpruneError, "shares of rates must rise"),
    "order": (
        lambda: Training(epochs=1, rates=((0, 0.1), (0.5, 0.2), (0.2, 0.1))),
        JaxpruneError,
        r"must rise from 0 to at most 1, got \[0, 0.5, 0.2\]",
    ),
    "rate": (lambda: Training(epochs=1, rates=((0, -1.0),)), JaxpruneError, "rates must be finite"),
    "data": (
        lambda: Training(epochs=1, rates=ONCE.rates, data=0),
        JaxpruneError,
        "data must be in",
    ),
    "part": (
        lambda: Training(epochs=1, rates=ONCE.rates, part="most"),  # pyright: ignore[reportArgumentType]
        JaxpruneError,
        r"part must be one of \['all', 'gates', 'readers', 'nothing'\], got 'most'",
    ),
    "of": (
        lambda: Prune(prune_ratio=0.1, of="bytes"),  # pyright: ignore[reportArgumentType]
        BudgetError,
        "of must be one of",
    ),
    "several": (
        lambda: Training(epochs=1, rates=ONCE.rates, strength=-1, momentum=float("nan")),
        JaxpruneError,
        r"strength must be a finite number[\s\S]*momentum must be[\s\S]*Fix: Training",
    ),
    "neither": (lambda: Prune(), BudgetError, "neither prune_ratio nor keep_macs"),
    "negative": (lambda: Prune(prune_ratio=-0.1), BudgetError, "prune_ratio must be in"),
    "json": (lambda: schedule.from_json({"kind": "tick"}), JaxpruneError, r"it lacks \['commit'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_plans(name: str) -> None:
    make, error, text = BAD[name]
    with pytest.raises(error, match=text) as raised:
        make()
    assert "\nFix: " in str(raised.value)
