"""Searches over the places in all ladders, every one of them within the limits."""

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any

import numpy as np

from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.numbers import check_count, is_count, plain
from jaxprune.errors import BudgetError
from jaxprune.plan.allocation import Allocation, Decision, allocation
from jaxprune.plan.evaluators import Evaluate
from jaxprune.plan.journals import Losses
from jaxprune.plan.least_loss import LeastLoss
from jaxprune.plan.prices import Point, Prices
from jaxprune.plan.problems import Problem, check_problem

Picks = tuple[int, ...]
SURVIVORS = (8, 2, 1)
"""Of EvoPress, on about 2,000, 16,000 and 65,000 tokens."""
TRIES = 10
"""After so many draws in a row that give nothing new a generation is complete."""


def evolution(
    problem: Problem,
    evaluate: Evaluate | list[Evaluate] | tuple[Evaluate, ...],
    *,
    generations: int = 400,
    offspring: int = 64,
    survivors: Sequence[int] | None = None,
    swaps: int = 3,
    seed: int = 0,
    journal: str | PathLike[str] | None = None,
) -> Allocation:
    """Returns the allocation of the least loss that mutations of one parent lead to.

    A parent has `offspring` mutants a generation, and the best of them all, or the parent, is the
    next parent. A mutation swaps levels: one choice takes the next narrower width of its ladder,
    another the next wider; so min(a, b) times, with a and b drawn from 1 to `swaps`. Where widths
    of the two do not cost the same, choices drawn at random are narrowed until all limits hold, and
    then each is widened by one place where they go on to. The first parent has the same share of
    every ladder.

    It knows how the network does at whole allocations, and so what choices do together; the values
    of the problem are not used. It takes for granted that a wider choice is no worse.

    Args:
      problem: what `jp.plan.problem` returned.
      evaluate: from a keep to a finite loss, lower is better, or several such, of which each takes
        more data than the one before: all mutants are evaluated by the first, those that survive by
        the next. The parent is compared by the last.
      generations: how many parents there are.
      offspring: how many mutants each of them has.
      survivors: how many each of the evaluators lets through, the last of them 1; by default those
        of EvoPress, (8, 2, 1), or as many of its last as there are evaluators.
      swaps: the most swaps of one mutation.
      seed: of all that is drawn.
      journal: a file of losses, as of `jp.plan.replace_one`: killed and called again, the search
        goes on, and its result is the same.

    Raises:
      JaxpruneError: `problem` is not one, or a loss is not finite: the message names the widths.
      BudgetError: a number makes no sense, or only what goes with several branches together brings
        the smallest widths within the limits.
      CheckpointError: the journal is of another problem, other weights or other data.

    Costs: at most generations x offspring evaluations; what was evaluated is remembered.

    Source: Sieberling et al., "EvoPress: Towards Optimal Dynamic Model Compression via Evolutionary
    Search", 2024, algorithm 1, whose levels cost the same in all layers; so also the search of Týr.
    Mending unlike costs is our addition.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 4)), "third": np.ones((4, 3))}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"] @ v["third"], v, np.ones((1, 2)))
    >>> scores = {"first": [9.0, 8.0, 1.0, 1.0], "second": [4.0, 3.0, 2.0, 1.0]}
    >>> found = jp.plan.problem(graph, scores, bounds={jp.cost.macs: 0.5})
    >>> loss = lambda keep: 29 - sum(np.sum(scores[name], where=keep[name]) for name in scores)
    >>> jp.plan.evolution(found, loss, generations=8, offspring=4).widths
    {'first': 3, 'second': 2}
    """
    check_problem(problem)
    evaluators = [evaluate] if not isinstance(evaluate, list | tuple) else list(evaluate)
    passed = _survivors(survivors, len(evaluators))
    generations = check_count(generations, "generations", "generations=400.", BudgetError)
    offspring = check_count(offspring, "offspring", "offspring=64.", BudgetError)
    swaps = check_count(swaps, "swaps", "swaps=3.", BudgetError)
    random = np.random.default_rng(check_count(seed, "seed", "seed=0.", BudgetError, least=0))
    losses = Losses(problem, evaluators, journal)
    last = len(evaluators) - 1
    point = _start(Prices(problem), random)
    least = losses.at(point.picks, last)
    trace = [Decision("the same share of every ladder", -least)]
    for generation in range(1, generations + 1):
        family = _distinct(offspring, lambda p=point: _mutant(p, swaps, random), [point])
        for stage, left in enumerate(passed):
            ranked = sorted(family, key=lambda item: losses.at(item.picks, stage))
            family = ranked[:left]
        if family and (value := losses.at(family[0].picks, last)) < least:
            trace.append(Decision(_told(generation, problem, point, family[0]), -value))
            point, least = family[0], value
    return allocation(problem, point.picks, value=-least, trace=trace)


def random_search(
    problem: Problem,
    evaluate: Evaluate,
    *,
    draws: int = 1000,
    seed: int = 0,
    journal: str | PathLike[str] | None = None,
) -> Allocation:
    """Returns the allocation of the least loss among random ones: the control of a search.

    A place in every ladder is drawn, each as likely; then choices drawn at random are narrowed
    until all limits hold, and each widened where they go on to, as in `evolution`.

    Args:
      problem: what `jp.plan.problem` returned.
      evaluate: from a keep to a finite loss, lower is better.
      draws: how many are drawn; equal ones count once.
      seed: of all that is drawn.
      journal: as of `evolution`.

    Raises:
      JaxpruneError, BudgetError, CheckpointError: as `evolution`; no draw is within the limits.

    Costs: at most `draws` evaluations.

    Source: the control of He et al., "AMC", ECCV 2018, and of every search since.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 4)), "third": np.ones((4, 3))}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"] @ v["third"], v, np.ones((1, 2)))
    >>> scores = {"first": [9.0, 8.0, 1.0, 1.0], "second": [4.0, 3.0, 2.0, 1.0]}
    >>> found = jp.plan.problem(graph, scores, bounds={jp.cost.macs: 0.5})
    >>> loss = lambda keep: 29 - sum(np.sum(scores[name], where=keep[name]) for name in scores)
    >>> jp.plan.random_search(found, loss, draws=30).widths
    {'first': 3, 'second': 2}
    """
    check_problem(problem)
    draws = check_count(draws, "draws", "draws=1000.", BudgetError)
    random = np.random.default_rng(check_count(seed, "seed", "seed=0.", BudgetError, least=0))
    losses, prices = Losses(problem, [evaluate], journal), Prices(problem)
    sizes = [len(choice.widths) for choice in problem.choices]
    best = LeastLoss()
    for number in range(1, draws + 1):
        point = prices.start([int(random.integers(size)) for size in sizes])
        if not mended(point, random):
            continue
        best.offer(f"draw {number}", point.picks, losses.at(point.picks))
    if not best.trace:
        raise BudgetError(f"none of {draws} draws is within the bounds.\nFix: a larger draws=.")
    return best.allocation(problem)


def _survivors(given: Any, stages: int) -> list[int]:
    several = SURVIVORS[-stages:] if given is None else given
    listed = [plain(n) for n in several] if isinstance(several, Iterable) else []
    counts = bool(listed) and all(map(is_count, listed)) and not isinstance(several, dict | set)
    if not counts or len(listed) != stages or not stages or listed[-1] != 1:
        raise BudgetError(
            f"survivors must be a count for each of {stages} evaluators, the last 1, got "
            f"{kind_of(given)}.\nFix: survivors=(8, 2, 1)."
        )
    return listed


def _start(prices: Prices, random: np.random.Generator) -> Point:
    """The same share of every ladder, the first that is within the limits, widened where it can."""
    sizes = [len(choice.widths) - 1 for choice in prices.problem.choices]
    levels = max(sizes, default=0) or 1
    for level in range(levels + 1):
        point = prices.start([size * level // levels for size in sizes])
        if point.holds() and mended(point, random):
            return point
    raise AssertionError("the smallest widths are within the limits")


def _mutant(parent: Point, swaps: int, random: np.random.Generator) -> Point | None:
    point = parent.copy()
    for _ in range(min(random.integers(1, swaps + 1, size=2))):
        down = point.moves(1)
        if not down:
            break
        narrowed = int(random.choice(down))
        up = [i for i in point.moves(-1) if i != narrowed]
        point.move(narrowed, point.picks[narrowed] + 1)
        if up:
            widened = int(random.choice(up))
            point.move(widened, point.picks[widened] - 1)
    return point if mended(point, random) else None


def mended(point: Point, random: np.random.Generator) -> bool:
    """Narrows choices until the limits hold, and widens others; False if they do not after all."""
    while not point.holds():
        down = point.moves(1)
        if not down:
            return False
        choice = int(random.choice(down))
        point.move(choice, point.picks[choice] + 1)
    for choice in random.permutation(point.moves(-1)).tolist():
        point.move(choice, point.picks[choice] - 1)
        if not point.holds():
            point.move(choice, point.picks[choice] + 1)
    return point.surely_holds()


def _distinct(count: int, draw: Callable[[], Point | None], known: Sequence[Point]) -> list[Point]:
    """Draws points until there are so many, or nothing new comes."""
    seen = {tuple(point.picks) for point in known}
    points, tries = [], 0
    while len(points) < count and tries < TRIES:
        point = draw()
        if point is None or tuple(point.picks) in seen:
            tries += 1
            continue
        seen.add(tuple(point.picks))
        points.append(point)
        tries = 0
    return points


def _told(generation: int, problem: Problem, before: Point, after: Point) -> str:
    changes = [
        f"{choice.name} {choice.widths[a]:,} -> {choice.widths[b]:,}"
        for choice, a, b in zip(problem.choices, before.picks, after.picks, strict=True)
        if a != b
    ]
    return f"generation {generation}: {', '.join(changes)}"
