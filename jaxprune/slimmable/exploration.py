"""Searches that the greedy one is compared with: random and evolutionary, over the same space."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxprune.arguments.checks import check_callable
from jaxprune.arguments.numbers import check_count, check_positive, check_share
from jaxprune.errors import BudgetError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import cost as costs
from jaxprune.slimmable.checks import check_generator
from jaxprune.slimmable.search import Cost, Evaluate, Found, Space, check_targets, checked

Counts = dict[str, int]


def random_search(
    evaluate: Evaluate,
    graph: ChannelGraph,
    space: Space,
    target: float,
    rng: np.random.Generator,
    *,
    samples: int = 100,
    cost: Cost = costs.macs,
) -> Found:
    """Returns the best of `samples` random widths that meet the target as nearly as they can.

    Counts are drawn uniformly; random groups then shrink until the target is met, and grow while it
    still is. That asks for the cost often: a measured one takes long.

    Args:
      evaluate: errors of candidates.
      graph: what `jaxprune.trace` returned, of the supernet.
      space: {group: counts, descending}.
      target: in units of `cost`.
      rng: what draws.
      samples: how many.
      cost: a cost of the widths.

    Raises:
      BudgetError: the target is out of reach, or a number makes no sense.
      KeepError: the space does not fit the graph.
      ScoreError: the errors are not finite, or not one for each candidate.
    """
    samples = check_count(samples, "samples", "samples=100.", BudgetError)
    target = _checked(evaluate, rng, target)
    fit = _fitter(graph, space, target, rng, cost)
    drawn = [fit(_drawn(space, rng)) for _ in range(samples)]
    return _ranked(evaluate, graph, drawn, target, cost)[0]


def evolve(
    evaluate: Evaluate,
    graph: ChannelGraph,
    space: Space,
    target: float,
    rng: np.random.Generator,
    *,
    population: int = 50,
    generations: int = 20,
    mutation: float = 0.1,
    cost: Cost = costs.macs,
) -> Found:
    """Returns the best widths of an evolution: population * generations candidates are evaluated.

    The best `population // 2` that were ever seen are the parents. A child takes the count of every
    group from one of two of them, or with probability `mutation` a random one, and is fitted to the
    target as in `random_search`, whose arguments and errors these are.
    """
    population = check_count(population, "population", "population=50.", BudgetError, least=2)
    generations = check_count(generations, "generations", "generations=20.", BudgetError)
    mutation = check_share(mutation, "mutation", "mutation=0.1.", BudgetError)
    target = _checked(evaluate, rng, target)
    fit = _fitter(graph, space, target, rng, cost)

    def child(parents: Sequence[Found]) -> Counts:
        pair = [parents[i].widths for i in rng.integers(len(parents), size=2)]
        other, sides = _drawn(space, rng), rng.integers(2, size=len(space))
        mutates = rng.random(len(space)) < mutation
        return fit(
            {
                name: other[name] if new else pair[side][name]
                for name, new, side in zip(space, mutates, sides, strict=True)
            }
        )

    drawn = [fit(_drawn(space, rng)) for _ in range(population)]
    ranked = _ranked(evaluate, graph, drawn, target, cost)
    for _ in range(generations - 1):
        parents = ranked[: population // 2]
        children = [child(parents) for _ in range(population)]
        ranked = [*parents, *_ranked(evaluate, graph, children, target, cost)]
        ranked.sort(key=lambda candidate: candidate.error)
    return ranked[0]


def _drawn(space: Space, rng: np.random.Generator) -> Counts:
    return {name: int(rng.choice(counts)) for name, counts in space.items()}


def _fitter(
    graph: ChannelGraph, space: Space, target: float, rng: np.random.Generator, cost: Cost
) -> Callable[[Counts], Counts]:
    """Returns a function that moves counts, by random steps, to the target from below."""
    check_targets(graph, space, [target], cost)

    def moved(widths: Counts, name: str, places: int) -> Counts:
        place = space[name].index(widths[name]) + places
        return widths | {name: space[name][place]} if 0 <= place < len(space[name]) else widths

    def fit(widths: Counts) -> Counts:
        names = list(space)
        while cost(graph, widths) > target:
            widths = moved(widths, names[rng.integers(len(names))], 1)
        grows = names
        while grows:
            grew = []
            for i in rng.permutation(len(grows)):
                wider = moved(widths, grows[i], -1)
                if wider is not widths and cost(graph, wider) <= target:
                    widths = wider
                    grew.append(grows[i])
            grows = grew
        return widths

    return fit


def _ranked(
    evaluate: Evaluate, graph: ChannelGraph, drawn: Sequence[Counts], target: float, cost: Cost
) -> list[Found]:
    """Evaluates widths and returns them, the best first."""
    errors = checked(evaluate(drawn), drawn)
    order = np.argsort(errors, kind="stable")
    return [Found(drawn[i], float(errors[i]), cost(graph, drawn[i]), target) for i in order]


def _checked(evaluate: Any, rng: Any, target: Any) -> float:
    """Returns the target as a plain number; raises if what searches share makes no sense."""
    check_callable(evaluate, "evaluate", "evaluate=evaluator(...).")
    check_generator(rng)
    return check_positive(target, "target", "0.5 * jp.cost.macs(graph).", BudgetError)
