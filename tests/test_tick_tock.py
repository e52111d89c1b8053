"""Tick-Tock on a small network: what is frozen does not move, milestones agree, one program."""

import itertools
import json
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune import schedule
from jaxprune.arguments import paths
from jaxprune.schedule import Part, Phase, Progress, Training
from jaxprune.select import quota
from jaxprune.sparsify.gates import l1_gates

IMAGES = np.random.default_rng(0).normal(size=(4, 16, 6, 6, 1)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 4, (4, 16))
RATE = schedule.constant(0.02)
TICK = Training(epochs=1, rates=RATE, part=Part.GATES)
TOCK = Training(epochs=2, rates=schedule.triangular(0.01, 0.05), strength=1e-2)
TARGETS = (0.6, 0.3)
FLOOR = 0.4
PLAN = schedule.tick_tock(
    keep_macs=TARGETS, prune_ratio=0.08, ticks=2, tick=TICK, tock=TOCK,
    finetune=(Training(epochs=1, rates=RATE),),
)  # fmt: skip


class Block(nn.Module):
    """A stem and a residual block, each convolution with BatchNorm."""

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        def conv(features: int, x: Any) -> Any:
            x = nn.Conv(features, (3, 3), use_bias=False)(x)
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = nn.relu(conv(10, x))
        x = nn.relu(x + conv(10, nn.relu(conv(12, x))))
        return nn.Dense(4)(x.mean((1, 2)))


MODEL = Block()
STREAM, MIDDLE = "Conv_0/kernel", "Conv_1/kernel"


class Run(NamedTuple):
    """What a run that was killed needs to go on."""

    model: nn.Module
    variables: Any  # decorated
    progress: Progress
    done: Phase | None = None


def start() -> Run:
    x = IMAGES[0, :1]
    variables = jax.jit(MODEL.init)(jax.random.key(0), x)
    graph = jp.trace(MODEL.apply, variables, x)
    progress = schedule.begin(
        graph, keep_macs=TARGETS[-1], members=quota.members(graph), min_keep_ratio=FLOOR
    )
    return Run(MODEL, jax.device_get(jp.gates.decorate(variables).variables), progress)


def optimizer(training: Training, graph: jp.ChannelGraph, variables: Any) -> Any:
    tx = optax.chain(
        l1_gates(training.strength, jp.scale_mask(variables)),
        optax.add_decayed_weights(training.weight_decay),
        optax.sgd(training.learning_rate(training.epochs * len(IMAGES)), training.momentum),
    )
    return schedule.masked_updates(tx, graph, schedule.trainable(graph, variables, training.part))


def make_step(model: nn.Module, graph: jp.ChannelGraph, traced: list[str]) -> Any:
    @partial(jax.jit, static_argnames="training")
    def step(training: Training, state: Any, tally: Any, keep: Any, x: Any, y: Any) -> Any:
        traced.append(training.part)
        variables, opt_state = state

        def loss(params: Any) -> Any:
            whole = jp.gates.melt(jp.mask(graph, variables | {"params": params}, keep))
            logits, rest = model.apply(whole, x, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), rest

        gradients, rest = jax.grad(loss, has_aux=True)(params := variables["params"])
        scores = jp.scores.taylor_gate(graph, variables, {"params": gradients})
        tx = optimizer(training, graph, variables)
        updates, opt_state = tx.update(gradients, opt_state, params, keep=keep)
        variables = variables | {"params": optax.apply_updates(params, updates)} | rest
        return (variables, opt_state), tally.add(scores)

    return step


def train(run: Run, training: Training, step: Any) -> tuple[Any, Any]:
    graph, keep = run.progress.graph, run.progress.keep
    tx = optimizer(training, graph, run.variables)
    state, tally = (run.variables, tx.init(run.variables["params"])), schedule.tally(graph)
    for x, y in [*zip(IMAGES, LABELS, strict=True)] * training.epochs:
        state, tally = step(training, state, tally, keep, x, y)
    return jax.device_get(state[0]), tally


def commit(run: Run) -> Run:
    progress = run.progress
    model = jp.linen.resize(MODEL, progress.original, progress.total)
    small = jp.slice(progress.graph, run.variables, progress.keep)
    graph = jp.trace(model.apply, small, IMAGES[0, :1])
    return run._replace(model=model, variables=small, progress=progress.commit(graph))


def tick_tock(run: Run, traced: list[str]) -> Any:
    """Yields the run after each phase."""
    step = make_step(run.model, run.progress.graph, traced)
    while phase := PLAN(run.done, run.progress.left()):
        if phase.training:
            variables, tally = train(run, phase.training, step)
            run = run._replace(variables=variables)
            if phase.prune:
                progress = run.progress.prune(phase.prune, tally.scores())
                masked = jp.mask(progress.graph, variables, progress.keep)
                run = run._replace(progress=progress, variables=masked)
        if phase.commit:
            run = commit(run)
            step = make_step(run.model, run.progress.graph, traced)
        run = run._replace(done=phase)
        yield run


@pytest.fixture(scope="module")
def runs() -> tuple[list[Run], list[str]]:
    traced: list[str] = []
    first = start()
    return [first, *tick_tock(first, traced)], traced


def names(runs: Any) -> list[str]:
    return [run.done.name for run in runs]


def test_the_procedure(runs: Any) -> None:
    found, _ = runs
    phases = names(found[1:])
    kinds = [name.split("-")[0] for name in phases]
    assert phases[:3] == ["tock-1", "tick-1", "tick-2"]
    assert kinds.count("commit") == 2
    assert kinds[-2:] == ["commit", "finetune"]
    assert {STREAM, MIDDLE} == {n for n, k in found[-1].progress.total.items() if not k.all()}
    left = [run.progress.left() for run in found]
    assert left == sorted(left, reverse=True)
    for run in found[1:]:
        if run.done.commit:
            target = TARGETS[run.done.milestone - 1]
            assert target - 0.1 < run.progress.left() <= target, "no further than it must"
            assert all(kept.all() for kept in run.progress.keep.values())


def test_one_program_for_all_ticks(runs: Any) -> None:
    """And one for all Tocks, until a commit changes the shapes; the keep is an argument."""
    found, traced = runs
    used: list[set[str]] = [set()]
    for run in found[1:]:
        if run.done.commit:
            used.append(set())
        else:
            used[-1].add(str(run.done.training))
    assert sum(run.done.kind in ("tick", "tock") for run in found[1:]) > 2 * sum(map(len, used))
    assert len(traced) == sum(map(len, used))


def test_milestones_agree(runs: Any) -> None:
    """Masked, melted and sliced are one network, in eval and in train mode."""
    found, _ = runs
    pairs = [(old, new) for old, new in itertools.pairwise(found) if new.done.commit]
    for old, new in pairs:
        graph, keep = old.progress.graph, old.progress.keep
        masked = jp.gates.melt(jp.mask(graph, old.variables, keep))
        small = jp.slice(graph, jp.gates.melt(old.variables), keep)
        for train in (False, True):
            expected = _apply(old.model, train)(masked, IMAGES[0])
            for variables in (small, jp.gates.melt(new.variables)):
                got = _apply(new.model, train)(variables, IMAGES[0])
                np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def _apply(model: nn.Module, train: bool) -> Any:
    def run(variables: Any, x: Any) -> Any:
        if train:
            return model.apply(variables, x, train=True, mutable=["batch_stats"])[0]
        return model.apply(variables, x)

    return jax.jit(run)


def test_commits_compose(runs: Any) -> None:
    """The last network is the original cut once by the total keep."""
    found, _ = runs
    first, last = found[0], found[-1]
    small = jp.slice(first.progress.original, first.variables, last.progress.total)
    assert jax.tree.map(np.shape, small) == jax.tree.map(np.shape, last.variables)
    assert jp.cost.macs(last.progress.graph) == jp.cost.macs(
        first.progress.original, last.progress.total
    )
    for old, new in itertools.pairwise(found):
        for name, kept in new.progress.total.items():
            assert not (kept & ~old.progress.total[name]).any(), "nothing grows again"


def test_a_tick_moves_only_gates_and_head(runs: Any) -> None:
    found, _ = runs
    for old, new in itertools.pairwise(found):
        if new.done.kind != "tick":
            continue
        before, after = old.variables["params"], new.variables["params"]
        for name in before:
            moves = name.startswith(("BatchNorm", "Dense"))
            masked = jp.mask(
                new.progress.graph, {"params": {name: before[name]}}, new.progress.keep
            )
            expected = masked["params"][name]
            same = jax.tree.map(np.array_equal, after[name], expected)
            assert all(jax.tree.leaves(same)) != moves, name


def test_pruned_channels_stay_zero_in_a_tock(runs: Any) -> None:
    found, _ = runs
    tocks = [run for run in found[2:] if run.done.kind == "tock"]
    assert any(not kept.all() for run in tocks for kept in run.progress.keep.values())
    for run in tocks:
        assert np.abs(run.variables["params"]["Conv_1"]["kernel"]).max() > 0
        params = {"params": run.variables["params"]}
        masked = jp.mask(run.progress.graph, params, run.progress.keep)
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, params, masked)))


@pytest.mark.parametrize("name", ["tick-1", "tick-6", "commit-2", "finetune-1"])
def test_a_killed_run_goes_on(runs: Any, name: str) -> None:
    """From what was written down after a phase: the same phases, the same network to the bit."""
    found, _ = runs
    at = next(i for i, run in enumerate(found[1:], 1) if run.done.name == name)
    saved = json.loads(json.dumps([schedule.to_json(found[at].done), found[at].progress.to_json()]))
    done, (model, graph) = schedule.from_json(saved[0]), (MODEL, None)
    if done.milestone:
        original = found[0].progress.original
        kept = jp.keep_from_spec(saved[1]["committed"])
        model = jp.linen.resize(MODEL, original, kept)
        graph = jp.trace(model.apply, found[at].variables, IMAGES[0, :1])
    progress = found[0].progress.restored(saved[1], graph)
    killed = Run(model, found[at].variables, progress, done)
    again = list(itertools.islice(tick_tock(killed, []), None if at > 6 else 2))
    rest = found[at + 1 :][: len(again)]
    assert names(again) == names(rest)
    for one, other in zip(again, rest, strict=True):
        assert jp.spec(progress.original, one.progress.total) == jp.spec(
            progress.original, other.progress.total
        )
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one.variables, other.variables)))


def test_floors_hold_in_every_round(runs: Any) -> None:
    found, _ = runs
    assert all(kept.sum() >= FLOOR * kept.size for kept in found[-1].progress.total.values())


def test_what_trains() -> None:
    run = start()
    graph, variables = run.progress.graph, run.variables
    light = schedule.trainable(graph, variables, Part.GATES)
    on = [path for path, flag in paths.flatten(light)[0].items() if flag]
    norms = [f"BatchNorm_{i}/{leaf}" for i in range(3) for leaf in ("bias", "scale")]
    assert on == [*norms, "Dense_0/bias", "Dense_0/kernel"]
    assert all(jax.tree.leaves(schedule.trainable(graph, variables, Part.ALL)))
    assert not any(jax.tree.leaves(schedule.trainable(graph, variables, Part.NOTHING)))
    named = schedule.trainable(graph, variables, Part.GATES, head=("*/Conv_2/*",))
    assert named["Conv_2"]["kernel"]
    assert not named["Dense_0"]["kernel"]
