"""A search by samplers of Optuna: they suggest places in all ladders, ours mends them."""

from collections.abc import Generator
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np

from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.extras import extra
from jaxprune.arguments.numbers import check_count
from jaxprune.errors import BudgetError, JaxpruneError
from jaxprune.plan.allocation import Allocation
from jaxprune.plan.evaluators import Evaluate
from jaxprune.plan.journals import Losses
from jaxprune.plan.least_loss import LeastLoss
from jaxprune.plan.level_swaps import mended
from jaxprune.plan.prices import Prices
from jaxprune.plan.problems import Problem, check_problem


def optuna_search(
    problem: Problem,
    evaluate: Evaluate,
    *,
    trials: int = 200,
    sampler: Any = None,
    seed: int = 0,
    journal: str | PathLike[str] | None = None,
) -> Allocation:
    """Returns the allocation of the least loss among those that a sampler of Optuna suggests.

    In every trial the sampler suggests a place in each ladder, from what it was told of the trials
    before. Choices are then narrowed until all limits hold, and widened where they go on to, as in
    `jp.plan.random_search`, by draws that are the same for the same suggestion; the sampler is told
    the loss of what comes out.

    Args:
      problem: what `jp.plan.problem` returned.
      evaluate: from a keep to a finite loss, lower is better.
      trials: how many suggestions there are; equal allocations are evaluated once.
      sampler: one of `optuna.samplers`, which has not been used; by default
        `TPESampler(seed=seed)`, the tree-structured Parzen estimator.
      seed: of all that is drawn; that of a given `sampler` is its own.
      journal: as of `jp.plan.evolution`; with a sampler of the same seed the search goes on.

    Raises:
      JaxpruneError: as `jp.plan.evolution`; Optuna is not installed (`jaxprune[optuna]`).
      BudgetError: as `jp.plan.evolution`, or no suggestion could be brought within the limits.
      CheckpointError: as `jp.plan.evolution`.

    Costs: at most `trials` evaluations.

    Source: Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD
    2019; Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 4)), "third": np.ones((4, 3))}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"] @ v["third"], v, np.ones((1, 2)))
    >>> scores = {"first": [9.0, 8.0, 1.0, 1.0], "second": [4.0, 3.0, 2.0, 1.0]}
    >>> found = jp.plan.problem(graph, scores, bounds={jp.cost.macs: 0.5})
    >>> loss = lambda keep: 29 - sum(np.sum(scores[name], where=keep[name]) for name in scores)
    >>> jp.plan.optuna_search(found, loss, trials=30).widths
    {'first': 3, 'second': 2}
    """
    check_problem(problem)
    trials = check_count(trials, "trials", "trials=200.", BudgetError)
    seed = check_count(seed, "seed", "seed=0.", BudgetError, least=0)
    library = extra("optuna")
    if not isinstance(sampler, library.samplers.BaseSampler | None):
        raise JaxpruneError(
            f"sampler must be one of optuna.samplers, got {kind_of(sampler)}.\n"
            "Fix: sampler=optuna.samplers.TPESampler(seed=0)."
        )
    losses, prices = Losses(problem, [evaluate], journal), Prices(problem)
    with _quiet(library):
        study = library.create_study(sampler=sampler or library.samplers.TPESampler(seed=seed))
    best = LeastLoss()
    for number in range(1, trials + 1):
        trial = study.ask()
        suggested = [
            trial.suggest_int(choice.name, 0, len(choice.widths) - 1) for choice in problem.choices
        ]
        point = prices.start(suggested)
        if not mended(point, np.random.default_rng(seed)):
            study.tell(trial, state=library.trial.TrialState.FAIL)
            continue
        loss = losses.at(point.picks)
        study.tell(trial, loss)
        best.offer(f"trial {number}", point.picks, loss)
    if not best.trace:
        raise BudgetError(
            f"none of {trials} suggestions is within the bounds.\nFix: a larger trials=."
        )
    return best.allocation(problem)


@contextmanager
def _quiet(library: Any) -> Generator[None, None, None]:
    """Without the line on a study that is new."""
    before = library.logging.get_verbosity()
    library.logging.set_verbosity(library.logging.WARNING)
    try:
        yield
    finally:
        library.logging.set_verbosity(before)
