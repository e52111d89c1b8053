"""Costs in the choices of a problem: sums of products of tables over their ladders."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.errors import BudgetError
from jaxprune.inspecting.cost import Cost, terms_of
from jaxprune.inspecting.staying import Stays, staying
from jaxprune.inspecting.terms import Dearest, Lookup, Product, Term
from jaxprune.plan.problems import Choice, Problem
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.spaces import Space
from jaxprune.select.removal import widths_after


class Table(NamedTuple):
    """A number for every combination of places in the ladders of some choices, which ascend."""

    choices: tuple[int, ...]
    values: np.ndarray


Factors = tuple[Table, ...]
"""A product of tables; of none it is 1."""


class Sum(NamedTuple):
    """A sum of products of tables, and of the largest of several sums each."""

    products: Sequence[Factors]
    largest: Sequence[Sequence["Sum"]] = ()


class _Known(NamedTuple):
    ladders: Mapping[str, Table]  # by group: the widths of its choice
    widths: Mapping[str, int]  # of the other groups
    stays: Mapping[Op | str, Stays]
    switches: Mapping[str, list[Table]]  # by branch: whether each of its steps stays


def cost_tables(problem: Problem, cost: Cost) -> Sum:
    """Returns a cost that is a closed form."""
    terms = terms_of(cost)
    assert terms is not None
    known = _Known(
        ladders={
            member: _ladder(i, choice)
            for i, choice in enumerate(problem.choices)
            if choice.branch is None
            for member in choice.members
        },
        widths=widths_after(problem.order, 0),
        stays=staying(problem.graph),
        switches=_switches(problem),
    )
    return _sum(terms(problem.graph, None), known)


def at(cost: Sum, choice: int, pick: int) -> Sum:
    """Returns a cost where one choice takes the width at a place of its ladder."""
    return Sum(
        [tuple(_at(table, choice, pick) for table in product) for product in cost.products],
        [[at(part, choice, pick) for part in parts] for parts in cost.largest],
    )


def price(cost: Sum, picks: Sequence[int]) -> float:
    """Returns a cost where every choice takes the width at its place of the ladder."""
    products = (
        math.prod(float(table.values[tuple(picks[i] for i in table.choices)]) for table in product)
        for product in cost.products
    )
    most = (max((price(part, picks) for part in each), default=0.0) for each in cost.largest)
    return sum(products) + sum(most)


def merged(product: Factors, cells: int) -> Factors:
    """Returns a product with its factors multiplied out as far as tables stay below `cells`."""
    tables = [Table((), np.ones(()))]
    for table in sorted(product, key=lambda table: table.choices):
        last = multiplied(tables[-1], table)
        if last.values.size <= cells or not tables[-1].choices:
            tables[-1] = last
        else:
            tables.append(table)
    return tuple(tables)


def multiplied(a: Table, b: Table) -> Table:
    """Returns the product of two tables."""
    choices = tuple(sorted({*a.choices, *b.choices}))
    return Table(choices, spread(a, choices) * spread(b, choices))


def spread(table: Table, choices: Sequence[int]) -> np.ndarray:
    """Returns the values of a table with the axes of `choices`, of size 1 where it has none."""
    sizes = dict(zip(table.choices, table.values.shape, strict=True))
    return table.values.reshape([sizes.get(choice, 1) for choice in choices])


def _ladder(i: int, choice: Choice) -> Table:
    return Table((i,), np.array(choice.widths, float))


def _at(table: Table, choice: int, pick: int) -> Table:
    if choice not in table.choices:
        return table
    left = tuple(other for other in table.choices if other != choice)
    return Table(left, table.values.take(pick, axis=table.choices.index(choice)))


def _switches(problem: Problem) -> dict[str, list[Table]]:
    steps: dict[str, list[Table]] = {}
    for i, choice in enumerate(problem.choices):
        if choice.branch is not None:
            steps.setdefault(choice.branch[0], []).append(_ladder(i, choice))
    return steps


def _sum(terms: Iterable[Term], known: _Known) -> Sum:
    products: list[Factors] = []
    largest: list[list[Sum]] = []
    for term in terms:
        if isinstance(term, Dearest):
            largest.append([_sum(part, known) for part in term.alternatives])
            continue
        one_step, shares = _shares(term, known)
        if isinstance(term, Lookup):
            sizes = [[(_looked_up(term, known),)]]
        else:
            sizes = [_space(space, known) for space in term.spaces]
        each = [_times([_number(term.factor), [share], *sizes]) for share in shares]
        if one_step:
            largest.append([Sum(part) for part in each])
        else:
            products += itertools.chain.from_iterable(each)
    return Sum(products, largest)


def _shares(term: Product | Lookup, known: _Known) -> tuple[bool, list[Factors]]:
    """Which shares of a term stay, and whether any step needs all of it: they then do not add up.

    Without branches it is one share, 1.
    """
    stays = None if term.of is None else known.stays.get(term.of)
    if stays is None:
        return False, [()]
    whole = [table for name in stays.whole for table in known.switches.get(name, ())]
    rows = [known.switches[name] for name in stays.steps if name in known.switches]
    if not rows:
        return False, [tuple(whole)]
    part = Table((), np.array(1 / len(rows[0]) if stays.by_step else 1.0))
    return not stays.by_step, [(part, *whole, *step) for step in zip(*rows, strict=True)]


def _looked_up(term: Lookup, known: _Known) -> Table:
    """What a table of a cost says at every combination of the widths that it depends on.

    Raises:
      BudgetError: these are too many.
    """
    ladders = {known.ladders[n].choices: known.ladders[n] for n in term.names if n in known.ladders}
    choices = tuple(choice for (choice,) in sorted(ladders))
    grid = [ladders[choice,].values for choice in choices]
    if math.prod(map(len, grid)) > LARGEST:
        raise BudgetError(
            f"the latency of {term.of} depends on {len(grid)} choices at once, of "
            f"{[len(widths) for widths in grid]} widths.\n"
            "Fix: smaller ladders, or jp.select.budget(bounds=...)."
        )
    fixed = {n: known.widths[n] for n in term.names if n not in known.ladders and n in known.widths}
    values = [
        term.read(
            fixed
            | {
                name: int(widths[choices.index(known.ladders[name].choices[0])])
                for name in term.names
                if name in known.ladders
            }
        )
        for widths in itertools.product(*grid)
    ]
    return Table(choices, np.array(values, float).reshape([len(widths) for widths in grid]))


LARGEST = 100_000
"""The most combinations of widths that a table of a cost is read at."""


def _space(space: Space, known: _Known) -> list[Factors]:
    """The size of a space, as a sum of products."""
    space = ax.find(space)
    if isinstance(space, ax.Prod):
        return _times([_space(item, known) for item in space.factors])
    if isinstance(space, ax.Sum):
        parts = [product for part in space.parts for product in _space(part, known)]
        number = sum(math.prod(float(t.values) for t in p) for p in parts if _is_number(p))
        return [*(p for p in parts if not _is_number(p)), *(_number(number) if number else [])]
    if space.name is None:
        return _number(space.size)
    if space.name in known.ladders:
        return [(known.ladders[space.name],)]
    return _number(known.widths.get(space.name, space.size))


def _is_number(product: Factors) -> bool:
    return all(not table.choices for table in product)


def _number(value: float) -> list[Factors]:
    return [(Table((), np.array(float(value))),)]


def _times(sums: Iterable[Any]) -> list[Factors]:
    """A product of sums, multiplied out; the same choice of several factors is one table."""
    products = []
    for factors in itertools.product(*sums):
        tables: dict[tuple[int, ...], np.ndarray] = {}
        for table in itertools.chain.from_iterable(factors):
            tables[table.choices] = tables.get(table.choices, 1.0) * table.values
        products.append(tuple(Table(*item) for item in tables.items()))
    return products
