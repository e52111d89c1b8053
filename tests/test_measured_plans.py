"""Measured values of planners: by mask from one program, resumed from a journal, and refused."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
import residual_networks
from chains import INPUTS, apply, chain
from jaxprune.errors import CheckpointError, JaxpruneError
from jaxprune.plan import (
    Evaluator,
    Problem,
    amc,
    divergence,
    energy_aware,
    evaluator,
    evolution,
    milp,
    netadapt,
    problem,
    random_search,
    replace_one,
)

A, B = "layer_0/kernel", "layer_1/kernel"
FORMS = ("pre", "scanned")


@functools.cache
def residual() -> tuple[jp.ChannelGraph, Any, Any]:
    variables = residual_networks.variables(FORMS)
    fn = residual_networks.network(FORMS)
    return jp.trace(fn, variables, np.ones((2, 3))), variables, fn


def squares(outputs: Any, batch: Any) -> Any:
    return jnp.mean(outputs**2) + 0 * jnp.sum(batch)


def test_the_loss_is_that_of_the_sliced_network_from_one_program() -> None:
    graph, variables, fn = residual()
    random = np.random.default_rng(0)
    batches = [random.normal(size=(n, 3)) for n in (2, 2, 4)]
    traced = []

    def loss(outputs: Any, batch: Any) -> Any:
        traced.append(batch.shape)
        return jnp.mean(outputs**2)

    evaluate = evaluator(graph, variables, batches, loss)
    for _ in range(2):
        keep = residual_networks.drawn_keep(graph, random)
        small = jp.slice(graph, variables, keep)
        run = jax.jit(jp.narrow(fn, graph, keep))
        outputs = [run(small, batch) for batch in batches]
        every = np.concatenate([np.ravel(out) for out in outputs])
        assert evaluate(keep) == pytest.approx(np.mean(every**2), rel=1e-4)
    assert traced == [(2, 3), (4, 3)]
    halved = jax.tree.map(lambda w: w / 2, variables)
    assert evaluate({}, halved) == evaluator(graph, halved, batches, loss)({}) != evaluate({})


def test_the_divergence_is_from_the_dense_network() -> None:
    graph, variables = chain(4, 5)
    x = np.random.default_rng(0).normal(size=(6, INPUTS)).astype(np.float32)
    evaluate = divergence(graph, variables, [x[:2], x[2:]])
    keep = {A: np.array([True, False, False, False])}
    p, q = (
        jax.nn.softmax(apply(v, jnp.asarray(x)))
        for v in (variables, jp.mask(graph, variables, keep))
    )
    assert evaluate(keep) == pytest.approx(
        float(jnp.mean(jnp.sum(p * jnp.log(p / q), 1))), rel=1e-4
    )
    assert evaluate({}) == pytest.approx(0, abs=1e-7)
    padded = divergence(graph, variables, [x], fn=lambda v, x: apply(v, x).at[:, 0].set(-jnp.inf))
    assert 0 < padded(keep) < 10  # a word that never comes


def found(**options: Any) -> tuple[Problem, Evaluator]:
    graph, variables = chain(4, 5)
    scores = {name: np.arange(1.0, group.size + 1) for name, group in graph.groups.items()}
    x = np.random.default_rng(0).normal(size=(6, INPUTS)).astype(np.float32)
    asked = problem(graph, scores, bounds={jp.cost.macs: 0.6}, **options)
    return asked, divergence(graph, variables, [x])


def test_measured_values_are_planned_with() -> None:
    asked, evaluate = found()
    curves = replace_one(asked, evaluate)
    assert [*curves.losses] == [A, B]
    for place, choice in enumerate(asked.choices):
        for pick in range(len(choice.widths)):
            keep = asked.keep([pick if i == place else 0 for i in range(2)])
            assert curves.losses[choice.name][pick] == evaluate(keep)
    plan = milp(curves.problem, gap=0.0)
    rises = {
        (i, j): curves.losses[A][i] + curves.losses[B][j] - 2 * curves.dense
        for i in range(4)
        for j in range(5)
        if asked.holds(asked.keep([i, j]))
    }
    assert -plan.value == pytest.approx(min(rises.values()))
    assert str(curves).count("\n") == 5


def test_tied_groups_and_branches_are_one_choice_each() -> None:
    graph, variables, _ = residual()
    scores = {name: np.ones(group.shape) for name, group in graph.groups.items()}
    tied = [name for name in graph.groups if "up" in name and graph.groups[name].layers is None]
    branch = next(n for n, item in jp.branches(graph).items() if item.steps)
    asked = problem(
        graph, scores, bounds={jp.cost.macs: 0.9}, equal=[tied], only=tied, ladder=2,
        branches={branch: np.zeros(residual_networks.STEPS)},
    )  # fmt: skip
    evaluate = evaluator(graph, variables, [np.ones((2, 3))], squares)
    curves = replace_one(asked, evaluate)
    assert [*curves.losses] == [tied[0], *(f"{branch}[{i}]" for i in range(3))]
    alone = {name: np.arange(5) == 4 for name in tied}
    assert curves.losses[tied[0]][1] == evaluate(alone)
    stay = np.array([True, False, True])
    assert curves.losses[f"{branch}[1]"][1] == evaluate({branch: stay})


class Dying:
    """An evaluator that is killed at its call number `after`."""

    def __init__(self, evaluate: Any, after: float = np.inf):
        self.evaluate, self.after, self.calls = evaluate, after, 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls > self.after:
            raise KeyboardInterrupt
        return self.evaluate(*args)


def test_a_table_that_was_killed_goes_on(tmp_path: Path) -> None:
    asked, evaluate = found()
    whole = replace_one(asked, evaluate, journal=tmp_path / "whole")
    for after in (1, 3, 7):
        path = tmp_path / f"{after}"
        with pytest.raises(KeyboardInterrupt):
            replace_one(asked, Dying(evaluate, after), journal=path)
        with path.open("ab") as file:
            file.write(b'{"key": [0, 3,')
        counted = Dying(evaluate)
        again = replace_one(asked, counted, journal=path)
        assert path.read_bytes() == (tmp_path / "whole").read_bytes()
        assert {n: v.tobytes() for n, v in again.losses.items()} == {
            n: v.tobytes() for n, v in whole.losses.items()
        }
        assert counted.calls == 8 - after + 1  # 8 values, and the dense network again


def test_a_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    asked, evaluate = found()
    path = tmp_path / "new" / "journal"
    replace_one(asked, evaluate, journal=path)
    with pytest.raises(CheckpointError, match="journal of something else:\nchoices is '"):
        replace_one(found(multiple_of=2)[0], evaluate, journal=path)
    with pytest.raises(CheckpointError, match="other weights or data"):
        replace_one(asked, lambda keep: evaluate(keep) + 1, journal=path)
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, lines[0].split("value")[0] + 'value": NaN}', ""]))
    with pytest.raises(CheckpointError, match="is not a journal"):
        replace_one(asked, evaluate, journal=path)
    path.write_text("no journal\n")
    with pytest.raises(CheckpointError, match="is not a journal"):
        replace_one(asked, evaluate, journal=path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        replace_one(asked, evaluate, journal=tmp_path)


def test_a_divergence_by_other_weights_is_seen(tmp_path: Path) -> None:
    """From itself every network has the divergence 0, and each evaluator has its own values."""
    asked, _ = found()
    energy = jp.cost.macs

    def away(by: float) -> Any:
        return lambda keep: by * (1 - energy(asked.graph, keep) / energy(asked.graph))

    plans: dict[str, Any] = {
        "one": replace_one,
        "random": lambda *args, **options: random_search(*args, draws=9, **options),
        "amc": lambda *args, **options: amc(*args, episodes=2, warmup=2, hidden=3, **options),
        "proposals": netadapt,
        "energy": lambda asked, *args, **options: energy_aware(asked, energy, *args, **options),
    }
    for name, plan in plans.items():
        plan(asked, away(1.0), journal=tmp_path / name)
        before = (tmp_path / name).read_bytes()
        with pytest.raises(CheckpointError, match="other weights or data"):
            plan(asked, away(1.1), journal=tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    for seed in (1, 2):  # whose first draw the journal does not have
        with pytest.raises(CheckpointError, match="other weights or data"):
            random_search(asked, away(1.1), draws=9, seed=seed, journal=tmp_path / "one")
    with pytest.raises(CheckpointError, match="other weights or data"):
        evolution(asked, [away(2.0), away(1.0)], generations=2, journal=tmp_path / "one")


def test_losses_that_are_no_numbers_are_refused() -> None:
    asked, _ = found()
    with pytest.raises(JaxpruneError, match=r"gave nan for 'layer_1/kernel' at width 4"):
        replace_one(asked, lambda keep: 0.0 if keep[B].all() else np.nan)
    graph, variables = chain(4, 5)
    x = np.ones((1, INPUTS), np.float32)
    with pytest.raises(JaxpruneError, match=r"loss gave float32\[1, 3\], not a number"):
        evaluator(graph, variables, [x], lambda out, _: out)({})
    with pytest.raises(JaxpruneError, match="there is no batch"):
        evaluator(graph, variables, [], squares)
    with pytest.raises(JaxpruneError, match="one array of logits, got 2"):
        divergence(graph, variables, [x], fn=lambda v, x: (apply(v, x), x))
