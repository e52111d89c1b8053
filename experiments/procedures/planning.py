"""What `--planner` names: how much of every group stays within a budget, by `jp.plan`.

The losses are those of the validation images; what recovers between decisions sees training images.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from experiments.procedures import scoring
from experiments.procedures.scoring import BATCHES, SIZE, Given
from experiments.runner.fit import Variables
from jaxprune.plan import Allocation, Problem
from jaxprune.schedule import Progress, Prune, Quota

NONE = "none"
"""The scores of all groups together: `jp.select`."""
EVALUATIONS = 200
"""About so many losses a search measures, each on `BATCHES` batches of `SIZE` validation images."""
OFFSPRING = 16
"""Mutants of a generation; those of the paper are 64, in 400 generations."""
STEPS = 8
"""The most widths in the ladder of a group."""
TOLERATED = 0.01
"""The first tolerance of Play and Prune, a share of the dense loss."""
TUNED, TUNED_SIZE, RATE, MOMENTUM = 10, 16, 1e-2, 0.9
"""Steps of a short recovery, as many as in the code of NetAdapt, images in each, and how it goes.
"""


class Asked(NamedTuple):
    """What a planner may look at."""

    given: Given
    problem: Problem
    evaluate: Callable[..., float]
    journal: Path | None = None  # of the losses
    evaluations: int = EVALUATIONS


Planner = Callable[[Asked], Allocation]


def asked(
    given: Given,
    scores: Mapping[str, Any],
    bounds: Mapping[jp.cost.Cost, Any],
    *,
    journal: Path | None = None,
    evaluations: int = EVALUATIONS,
    batches: int = BATCHES,
    **options: Any,
) -> Asked:
    """Returns what the planners plan.

    Args:
      given: the network, which may be masked already.
      scores: {group: f32[n]}, higher means keep; made comparable between groups here.
      bounds: of `jp.plan.problem`.
      journal: a file of losses, so that a planner that was killed goes on.
      evaluations: about how many losses a search measures.
      batches: of validation images, that a loss is measured on.
      **options: the other ones of `jp.plan.problem`.
    """
    problem = jp.plan.problem(given.graph, jp.scores.normalized(scores), bounds=bounds, **options)
    task = given.task
    evaluate = jp.plan.evaluator(
        given.graph,
        given.variables,
        scoring.examples(task, task.dataset.validation, size=SIZE, count=batches),
        lambda outputs, batch: task.loss(outputs, batch[1]),
    )
    return Asked(given, problem, evaluate, journal, evaluations)


def _measured(asked: Asked) -> Problem:
    """The problem whose values are what every width costs alone."""
    return jp.plan.replace_one(asked.problem, asked.evaluate, journal=asked.journal).problem


def _expand(asked: Asked) -> Allocation:
    """The shape that the scores give where half of the channels are gone, by one factor."""
    graph, scores = asked.given.graph, asked.problem.order.scores
    within = asked.problem.order.present
    half = jp.select.global_ratio(graph, scores, prune_ratio=0.5, min_keep_ratio=0.1, within=within)
    return jp.plan.uniform(asked.problem, widths=half)


def _searched(asked: Asked, search: Callable[..., Allocation], **how: int) -> Allocation:
    """What a search that draws finds, the same for the same seed."""
    seed = asked.given.task.config.seed
    return search(asked.problem, asked.evaluate, **how, seed=seed, journal=asked.journal)


def _evolution(asked: Asked) -> Allocation:
    generations = -(-asked.evaluations // OFFSPRING)
    return _searched(asked, jp.plan.evolution, generations=generations, offspring=OFFSPRING)


def _random(asked: Asked) -> Allocation:
    return _searched(asked, jp.plan.random_search, draws=asked.evaluations)


def _optuna(asked: Asked) -> Allocation:
    return _searched(asked, jp.plan.optuna_search, trials=asked.evaluations)


def _amc(asked: Asked) -> Allocation:
    """An eighth of the episodes without learning, as in the paper."""
    episodes = asked.evaluations
    return _searched(asked, jp.plan.amc, episodes=episodes, warmup=-(-episodes // 8))


def _netadapt(asked: Asked) -> Allocation:
    return jp.plan.netadapt(
        asked.problem,
        asked.evaluate,
        recover=tuned(asked.given),
        variables=asked.given.variables,
        rescore=jp.scores.l2,
        rounds=max(1, asked.evaluations // len(asked.problem.choices)),
        journal=asked.journal,
    )


def _energy_aware(asked: Asked) -> Allocation:
    """The energy is that of the first bound; least squares restore what the readers read."""
    graph, task = asked.given.graph, asked.given.task
    images = [images for images, _ in scoring.batches(task)]

    def recover(variables: Variables, keep: Any) -> Variables:
        return jp.recover.least_squares(graph, variables, keep, images).variables

    return jp.plan.energy_aware(
        asked.problem,
        asked.problem.limits[0].cost,
        asked.evaluate,
        recover=recover,
        variables=asked.given.variables,
        journal=asked.journal,
    )


def _play_and_prune(asked: Asked) -> Allocation:
    """The tolerance is a share of the loss, and doubles until the budget is met."""
    dense = asked.evaluate({})
    return jp.plan.play_and_prune(
        asked.problem,
        asked.evaluate,
        tuned(asked.given),
        asked.given.variables,
        tolerance=TOLERATED * dense,
        grow=2.0,
        share=0.1,
        rounds=asked.evaluations,
        journal=asked.journal,
    )


def tuned(
    given: Given,
    *,
    steps: int = TUNED,
    batches: Sequence[tuple[Any, Any]] | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Callable[..., Variables]:
    """Returns a recovery: some steps of the masked network on training images.

    It is called with variables, a keep and, if there is a penalty, the channels on whose weights
    it is, {group: bool[n]}, and its strength. BatchNorms keep their statistics. It gives the same
    for the same.

    Args:
      given: whose network it is.
      steps: how many.
      batches: what they see in turn, by default `TUNED` of `TUNED_SIZE` training images.
      optimizer: SGD with momentum by default.
    """
    graph, loss = given.graph, given.task.loss
    train = given.task.dataset.train
    few = {"size": TUNED_SIZE, "count": TUNED}
    seen = scoring.examples(given.task, train, **few) if batches is None else batches
    tx = optimizer or optax.sgd(RATE, momentum=MOMENTUM)

    @jax.jit
    def step(
        params: Any, rest: Any, state: Any, keep: Any, weak: Any, strength: Any, batch: Any
    ) -> tuple[Any, Any]:
        def of(params: Any) -> jax.Array:
            variables = {**rest, "params": params}
            norms = jp.scores.l1(graph, variables)
            penalty = sum(jnp.sum(norms[name] * weak[name]) for name in norms if name in weak)
            masked = jp.mask(graph, variables, keep)
            return loss(graph.fn(masked, batch[0]), batch[1]) + strength * penalty

        updates, state = tx.update(jax.grad(of)(params), state, params)
        return optax.apply_updates(params, updates), state

    def recover(
        variables: Variables, keep: Any, weak: Any = MappingProxyType({}), strength: float = 0.0
    ) -> Variables:
        params, rest = variables["params"], {**variables, "params": {}}
        keep = {name: keep[name] for name in graph.groups if name in keep}
        none = {name: np.zeros(group.shape, bool) for name, group in graph.groups.items()}
        penalized = (none | dict(weak), strength) if weak else ({}, 0.0)
        state = tx.init(params)
        for number in range(steps):
            batch = seen[number % len(seen)]
            params, state = step(params, rest, state, keep, *penalized, batch)
        return {**rest, "params": jax.device_get(params)}

    return recover


PLANNERS: Mapping[str, Planner] = MappingProxyType(
    {
        "uniform": lambda asked: jp.plan.uniform(asked.problem),
        "expand": _expand,
        "milp": lambda asked: jp.plan.milp(_measured(asked)),
        "sensitivity": lambda asked: jp.plan.sensitivity(_measured(asked)),
        "evolution": _evolution,
        "random": _random,
        "optuna": _optuna,
        "amc": _amc,
        "netadapt": _netadapt,
        "energy_aware": _energy_aware,
        "play_and_prune": _play_and_prune,
    }
)
"""Name -> the planner of `jp.plan`; `expand` is `uniform` of the shape that scores give."""


def unknown(name: str) -> list[str]:
    """Returns what is wrong with a name on the command line, if anything is."""
    names = (NONE, *PLANNERS)
    return [] if name in names else [f"planner={name!r} is not one of {', '.join(names)}"]


def planned(name: str, asked: Asked) -> Allocation:
    """Returns the allocation of a planner; what recovers on the way is for its decisions only.

    Args:
      name: of `PLANNERS`.
      asked: what `asked` returned.
    """
    return PLANNERS[name](asked)


def after(name: str, min_keep_ratio: float) -> Callable[..., Mapping[str, Any]] | None:
    """Returns `allocate` of a `rounds.Method`; None for `none`.

    The bound of a pruning is a share of the MACs of the original; the floors are of its sizes.
    """

    def allocate(
        progress: Progress,
        prune: Prune,
        scores: Mapping[str, Any],
        given: Given,
        journal: Path | None,
    ) -> Mapping[str, Any]:
        dense = jp.cost.macs(progress.original)
        found = planned(
            name,
            asked(
                given,
                scores,
                {jp.cost.macs: jp.Absolute(_left(prune) * dense)},
                journal=journal,
                ladder=_ladder(progress, scores, min_keep_ratio),
                within=progress.keep,
                min_channels=1,
            ),
        )
        print(found)
        return found.keep

    return None if name == NONE else allocate


def _left(prune: Prune) -> float:
    """The share of the MACs of the original that a pruning leaves."""
    if prune.keep_macs is not None:
        return float(prune.keep_macs)
    if prune.of != Quota.MACS or prune.prune_ratio is None:
        raise ValueError(f"a planner needs a share of the MACs, got {prune}.\nFix: of=Quota.MACS.")
    return 1 - prune.prune_ratio


def _ladder(progress: Progress, scores: Mapping[str, Any], ratio: float) -> dict[str, list[int]]:
    """The widths of every group, from what is left of it down to its floor in the original."""
    left, ladders = jp.widths(progress.graph, progress.keep), {}
    for name in scores:
        full = progress.original.groups[name].size
        floor = min(left[name], max(1, math.ceil(ratio * full - 1e-6)))
        steps = np.linspace(floor, left[name], min(STEPS, left[name] - floor + 1))
        ladders[name] = sorted({int(step) for step in steps.round()})
    return ladders
