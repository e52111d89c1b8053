"""What picks cost, where a search moves one choice at a time."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxprune.errors import BudgetError
from jaxprune.inspecting.cost import terms_of
from jaxprune.inspecting.staying import Stays, of_term, staying
from jaxprune.inspecting.terms import Dearest, Lookup, Term, total
from jaxprune.plan.problems import Problem
from jaxprune.program import spaces as ax
from jaxprune.select.removal import widths_after

SLACK = 1e-12
"""By which share rounding may take a sum beyond a limit; `Problem.holds` has the last word."""


class _Term:
    """A part of one cost, and the choices that it follows."""

    def __init__(self, limit: int, choices: Sequence[int]):
        self.limit, self.choices = limit, tuple(choices)
        self.known: dict[tuple[int, ...], Any] = {}

    def at(self, picks: Sequence[int]) -> Any:
        key = tuple(picks[i] for i in self.choices)
        if key not in self.known:
            self.known[key] = self.price(picks)
        return self.known[key]

    def price(self, picks: Sequence[int]) -> Any:
        raise NotImplementedError


class _Closed(_Term):
    """A term of a closed form, and with which branches it stays.

    `switches`: {branch: the choices of its steps}.
    """

    def __init__(
        self,
        problem: Problem,
        limit: int,
        term: Term,
        places: Mapping[str, int],
        stays: Stays | None,
        switches: Mapping[str, Sequence[int]],
    ):
        self.term = term
        names_of = ((), ()) if stays is None else (stays.whole, stays.steps)
        whole, rows = ([switches[n] for n in each if n in switches] for each in names_of)
        self.on = [i for (i,) in whole]
        self.steps = list(zip(*rows, strict=True))
        self.by_step = stays is not None and stays.by_step
        widths = widths_after(problem.order, 0)
        names = set(_names(term))
        self.whole = {name: widths[name] for name in names & widths.keys()}
        self.groups = {name: places[name] for name in names & places.keys()}
        self.ladders = [choice.widths for choice in problem.choices]
        follows = {*self.groups.values(), *self.on, *itertools.chain(*self.steps)}
        super().__init__(limit, sorted(follows))

    def price(self, picks: Sequence[int]) -> Any:
        share = self._share(picks)
        if not share:
            return 0
        widths = {name: self.ladders[i][picks[i]] for name, i in self.groups.items()}
        price = total([self.term], self.whole | widths)
        return price if share == 1 else price * share

    def _share(self, picks: Sequence[int]) -> float:
        def on(choices: Sequence[int]) -> bool:
            return all(self.ladders[i][picks[i]] for i in choices)

        if not on(self.on):
            return 0
        stay = [on(step) for step in self.steps]
        return sum(stay) / len(stay) if stay and self.by_step else any(stay) or not stay


class _Whole(_Term):
    """A cost that is no closed form."""

    def __init__(self, problem: Problem, limit: int):
        self.problem = problem
        super().__init__(limit, range(len(problem.choices)))

    def price(self, picks: Sequence[int]) -> Any:
        return self.problem.limits[self.limit].left(self.problem.graph, self.problem.keep(picks))


class Prices:
    """The costs of all limits, term by term.

    What goes only with several branches together (of shared weights, say) counts as staying, and in
    `jp.cost.peak_memory` what goes with any, as in `milp`: where these costs are within the limits,
    the costs themselves are.
    """

    def __init__(self, problem: Problem):
        """Takes the costs apart.

        Raises:
          BudgetError: the smallest widths are not within the limits, so counted.
        """
        self.problem = problem
        self.terms: list[_Term] = []
        self.known: dict[tuple[int, ...], bool] = {}  # whether picks are within all limits
        places = {
            member: i
            for i, choice in enumerate(problem.choices)
            if choice.branch is None
            for member in choice.members
        }
        switches, known = _switches(problem), staying(problem.graph)
        for number, limit in enumerate(problem.limits):
            terms = terms_of(limit.cost)
            if terms is None:
                self.terms.append(_Whole(problem, number))
                continue
            for term in terms(problem.graph, None):
                stays = of_term(known, term)
                self.terms.append(_Closed(problem, number, term, places, stays, switches))
        self.of: list[list[int]] = [[] for _ in problem.choices]
        for place, term in enumerate(self.terms):
            for choice in term.choices:
                self.of[choice].append(place)
        if not self.start([len(choice.widths) - 1 for choice in problem.choices]).holds():
            raise BudgetError(
                "the smallest widths are within the limits only because of what goes with several "
                "branches together, or is in jp.cost.peak_memory, which a search counts as "
                "staying.\nFix: a looser bound, or branches= without those that share weights."
            )

    def start(self, picks: Sequence[int]) -> "Point":
        """Returns the picks with their costs."""
        return Point(self, list(picks), [term.at(picks) for term in self.terms])


class Point:
    """Picks with their costs."""

    def __init__(self, prices: Prices, picks: list[int], parts: list[Any]):
        self.prices, self.picks, self.parts = prices, picks, parts
        self.totals = [0] * len(prices.problem.limits)
        for term, part in zip(prices.terms, parts, strict=True):
            self.totals[term.limit] += part

    def copy(self) -> "Point":
        """Returns the same, to be moved alone."""
        return Point(self.prices, [*self.picks], [*self.parts])

    def holds(self) -> bool:
        """Whether the costs are within all limits."""
        pairs = zip(self.totals, self.prices.problem.limits, strict=True)
        return all(cost <= limit.value + SLACK * abs(limit.value) for cost, limit in pairs)

    def surely_holds(self) -> bool:
        """Whether the keep is within all limits, by the costs themselves."""
        problem, known = self.prices.problem, self.prices.known
        key = tuple(self.picks)
        if key not in known:
            known[key] = problem.holds(problem.keep(key))
        return known[key]

    def move(self, choice: int, pick: int) -> None:
        """Takes another width of a choice."""
        self.picks[choice] = pick
        for place in self.prices.of[choice]:
            term = self.prices.terms[place]
            part = term.at(self.picks)
            self.totals[term.limit] += part - self.parts[place]
            self.parts[place] = part

    def moves(self, by: int) -> list[int]:
        """Returns the choices that can go down their ladder by `by` places; up if it is below 0."""
        choices = self.prices.problem.choices
        return [i for i, c in enumerate(choices) if 0 <= self.picks[i] + by < len(c.widths)]


def _names(term: Term) -> Iterator[str]:
    """The groups that a term follows."""
    if isinstance(term, Dearest):
        for part in term.alternatives:
            for item in part:
                yield from _names(item)
    elif isinstance(term, Lookup):
        yield from term.names
    else:
        yield from (atom.name for space in term.spaces for atom in ax.atoms(space) if atom.name)


def _switches(problem: Problem) -> dict[str, list[int]]:
    """The choices of the steps of each branch."""
    steps: dict[str, list[int]] = {}
    for i, choice in enumerate(problem.choices):
        if choice.branch is not None:
            steps.setdefault(choice.branch[0], []).append(i)
    return steps
