"""Methods that choose the widths: planners of `jp.plan` on losses of training images."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import jaxprune as jp
from experiments.comparing.bench import Pruned, Work
from experiments.comparing.informed import comparable
from experiments.procedures import scoring
from experiments.runner import processes
from experiments.runner.fit import Variables
from jaxprune.keep.check import Keep

LADDER = 8
"""Widths that a group may take."""


def _ranked(work: Work) -> Mapping[str, Any]:
    """Returns {group: the places of its channels by norm}."""
    return comparable(jp.scores.l2(work.graph, work.variables))


def _problem(work: Work, **options: Any) -> jp.plan.Problem:
    """Returns the problem of the budget; at a width the channels of largest norm stay."""
    return jp.plan.problem(
        work.graph,
        _ranked(work),
        bounds={jp.cost.macs: work.share},
        ladder=LADDER,
        min_keep_ratio=work.task.config.min_keep_ratio,
        **options,
    )


def _evaluate(work: Work) -> jp.plan.Evaluator:
    """Returns what gives the loss of labels."""

    def made() -> jp.plan.Evaluator:
        def loss(outputs: Any, batch: Any) -> Any:
            return work.task.loss(outputs, batch[1])

        batches = scoring.batches(work.task)
        return jp.plan.evaluator(work.graph, work.variables, batches, loss)

    return work.bench.once(("loss", work.task.config.seed), made)


def _divergence(work: Work) -> jp.plan.Evaluator:
    """Returns what gives the divergence from the dense network, without labels."""

    def made() -> jp.plan.Evaluator:
        images = [images for images, _ in scoring.batches(work.task)]
        return jp.plan.divergence(work.graph, work.variables, images)

    return work.bench.once(("divergence", work.task.config.seed), made)


def _journal(work: Work) -> Path | None:
    """Returns where the losses of a planner are, so that one that was killed goes on."""
    return processes.own(work.run.path / "losses.jsonl")


def _replaced(work: Work, evaluate: jp.plan.Evaluator, **options: Any) -> jp.plan.Problem:
    """Returns the problem whose values are what every width costs alone."""
    problem = _problem(work, **options)
    return jp.plan.replace_one(problem, evaluate, journal=_journal(work)).problem


def _filled(work: Work, found: jp.plan.Allocation) -> Keep:
    """Returns the widths of an allocation, and what of the budget they leave: channels by rank."""
    sunk = {name: rank + 1.0 * found.keep[name] for name, rank in _ranked(work).items()}
    return work.budget(sunk)


def integer_program(work: Work) -> Pruned:
    """Puzzle: what every width costs alone, and the sum of such costs at its least."""
    problem = _replaced(work, _divergence(work))
    return Pruned(_filled(work, jp.plan.milp(problem)), work.variables)


def equal_damage(work: Work) -> Pruned:
    """The widths at which every group alone loses as much, from its sensitivity curve."""
    problem = _replaced(work, _evaluate(work))
    return Pruned(_filled(work, jp.plan.sensitivity(problem)), work.variables)


def evolution(work: Work, *, offspring: int = 16) -> Pruned:
    """EvoPress: widths that mutate in pairs, by the divergence from the dense network."""
    found = jp.plan.evolution(
        _problem(work),
        _divergence(work),
        generations=max(1, work.task.config.evaluations // offspring),
        offspring=offspring,
        seed=work.task.config.seed,
        journal=_journal(work),
    )
    return Pruned(_filled(work, found), work.variables)


def amc(work: Work) -> Pruned:
    """AMC: an actor and a critic choose the widths from the first group to the last."""
    episodes = max(2, work.task.config.evaluations // 4)
    found = jp.plan.amc(
        _problem(work),
        _evaluate(work),
        episodes=episodes,
        warmup=max(1, episodes // 4),
        seed=work.task.config.seed,
        journal=_journal(work),
    )
    return Pruned(_filled(work, found), work.variables)


def energy_aware(work: Work) -> Pruned:
    """The groups in the order of their energy, each as far as the loss allows, then fitted.

    An activation byte takes the energy of 50 multiply-accumulates. The paper fits behind every
    step; here least squares follow once, behind the last.
    """
    energy = jp.cost.energy({jp.cost.macs: 1.0, jp.cost.activation_bytes: 50.0})
    evaluate = _evaluate(work)
    found = jp.plan.energy_aware(_problem(work), energy, evaluate, journal=_journal(work))
    keep = _filled(work, found)
    images = [images for images, _ in scoring.batches(work.task)]
    fitted = jp.recover.least_squares(work.graph, work.variables, keep, images)
    return Pruned(keep, fitted.variables)


def netadapt(work: Work, *, rounds: int = 8, share: float = 0.25) -> Pruned:
    """NetAdapt: each round every group proposes a width and trains shortly; the best goes on.

    share: of an epoch of training images, in the recovery of a proposal.
    """
    shortly = _shortly(work, share)
    found = jp.plan.netadapt(
        _problem(work),
        _evaluate(work),
        recover=shortly,
        variables=work.variables,
        rounds=rounds,
        journal=_journal(work),
    )
    trained = share * rounds * len(work.graph.groups)
    return Pruned(_filled(work, found), found.variables, trained)


def _shortly(work: Work, share: float) -> Callable[[Variables, Keep], Variables]:
    how = replace(work.task.config.train, epochs=1, data=share)

    def recover(variables: Variables, keep: Keep) -> Variables:
        network = work.bench.masked(variables, keep)
        return work.bench.trained(work.task, network, how, "shortly").variables

    return recover


def arbitrary(work: Work) -> Pruned:
    """Widths and channels by chance: the best of as many as a search may look at."""
    found = jp.plan.random_search(
        _problem(work),
        _evaluate(work),
        draws=work.task.config.evaluations,
        seed=work.task.config.seed,
        journal=_journal(work),
    )
    return Pruned(_filled(work, found), work.variables)


def blocks_and_widths(work: Work) -> Pruned:
    """Puzzle with branches: the integer program may take whole branches out, beside channels."""
    branches = dict.fromkeys(jp.branches(work.graph), 1.0)
    found = jp.plan.milp(_replaced(work, _divergence(work), branches=branches))
    keep = {n: k for n, k in found.keep.items() if n in work.graph.groups or not np.all(k)}
    return Pruned(keep, work.variables)
