"""Costs in the choices of a problem: sums of products of widths, with what branches switch."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jaxprune.inspecting.branches import branches
from jaxprune.inspecting.cost import Cost, terms_of
from jaxprune.inspecting.terms import Dearest, Product
from jaxprune.inspecting.without_branches import alone
from jaxprune.plan.problems import Problem
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.spaces import Space
from jaxprune.select.removal import widths_after


class Number(NamedTuple):
    """A number."""

    value: float


class Width(NamedTuple):
    """The width of a choice."""

    choice: int


class Plus(NamedTuple):
    """A sum."""

    parts: tuple["Expression", ...]


class Times(NamedTuple):
    """A product."""

    factors: tuple["Expression", ...]


class Most(NamedTuple):
    """The largest of several."""

    alternatives: tuple["Expression", ...]


Expression = Number | Width | Plus | Times | Most


class _Switch(NamedTuple):
    """How many of the steps of a branch stay, and how many it has."""

    on: Expression
    steps: int


class _Known(NamedTuple):
    places: Mapping[str, int]  # group: its choice
    widths: Mapping[str, int]  # of the other groups
    switches: Mapping[Op | str, list[_Switch]]  # by contraction, or path of a variable


def cost_expressions(problem: Problem, cost: Cost) -> Expression:
    """Returns a cost that is a closed form."""
    terms = terms_of(cost)
    assert terms is not None
    known = _Known(
        places={
            member: i
            for i, choice in enumerate(problem.choices)
            if choice.branch is None
            for member in choice.members
        },
        widths=widths_after(problem.order, 0),
        switches=_switches(problem),
    )
    return plus(_term(term, known) for term in terms(problem.graph, None))


def _switches(problem: Problem) -> dict[Op | str, list[_Switch]]:
    """What goes with each branch, in the order of the graph."""
    steps: dict[str, list[int]] = {}
    for i, choice in enumerate(problem.choices):
        if choice.branch is not None:
            steps.setdefault(choice.branch[0], []).append(i)
    found: dict[Op | str, list[_Switch]] = {}
    for name, places in steps.items():
        branch = branches(problem.graph)[name]
        switch = _Switch(plus(map(Width, places)), len(places))
        for what in (*alone(branch), *branch.variables):
            found.setdefault(what, []).append(switch)
    return found


def _term(term: Product | Dearest, known: _Known) -> Expression:
    if isinstance(term, Dearest):
        each = [plus(_term(item, known) for item in part) for part in term.alternatives]
        return Most(tuple(each)) if each else Number(0)
    factors: list[Expression] = [Number(term.factor)]
    for switch in known.switches.get(term.of, ()) if term.of is not None else ():
        factors += [switch.on, Number(1 / switch.steps)]
    return times([*factors, *(_space(space, known) for space in term.spaces)])


def _space(space: Space, known: _Known) -> Expression:
    space = ax.find(space)
    if isinstance(space, ax.Prod):
        return times(_space(item, known) for item in space.factors)
    if isinstance(space, ax.Sum):
        return plus(_space(part, known) for part in space.parts)
    if space.name is None:
        return Number(space.size)
    if space.name in known.places:
        return Width(known.places[space.name])
    return Number(known.widths.get(space.name, space.size))


def plus(parts: Iterable[Expression]) -> Expression:
    """Returns a sum, numbers in it added."""
    number, found = 0.0, []
    for part in parts:
        for item in part.parts if isinstance(part, Plus) else (part,):
            if isinstance(item, Number):
                number += item.value
            else:
                found.append(item)
    found = [*([Number(number)] if number or not found else []), *found]
    return found[0] if len(found) == 1 else Plus(tuple(found))


def times(factors: Iterable[Expression]) -> Expression:
    """Returns a product, numbers in it multiplied; widths in the order of choices."""
    number, found = 1.0, []
    for factor in factors:
        for item in factor.factors if isinstance(factor, Times) else (factor,):
            if isinstance(item, Number):
                number *= item.value
            else:
                found.append(item)
    found.sort(key=lambda item: item.choice if isinstance(item, Width) else -1)
    found = [*([Number(number)] if number != 1 or not found else []), *found]
    return Number(0) if number == 0 else found[0] if len(found) == 1 else Times(tuple(found))
