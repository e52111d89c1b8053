"""Costs in the choices of a problem: sums of products of tables over their ladders."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.errors import BudgetError
from jaxprune.inspecting.branches import branches
from jaxprune.inspecting.cost import Cost, terms_of
from jaxprune.inspecting.terms import Dearest, Lookup, Term
from jaxprune.inspecting.without_branches import alone
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
    switches: Mapping[Op | str, list[list[Factors]]]  # by contraction, or path of a variable


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
        switches=_switches(problem),
    )
    return _sum(terms(problem.graph, None), known)


def at(found: Sum, choice: int, pick: int) -> Sum:
    """Returns a cost where one choice takes the width at a place of its ladder."""
    return Sum(
        [tuple(_at(table, choice, pick) for table in product) for product in found.products],
        [[at(part, choice, pick) for part in parts] for parts in found.largest],
    )


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


def _switches(problem: Problem) -> dict[Op | str, list[list[Factors]]]:
    """What goes with each branch, in the order of the graph: the share of its steps that stay."""
    steps: dict[str, list[Table]] = {}
    for i, choice in enumerate(problem.choices):
        if choice.branch is not None:
            steps.setdefault(choice.branch[0], []).append(_ladder(i, choice))
    found: dict[Op | str, list[list[Factors]]] = {}
    for name, tables in steps.items():
        branch = branches(problem.graph)[name]
        share: list[Factors] = [
            (table._replace(values=table.values / len(tables)),) for table in tables
        ]
        for what in (*alone(branch), *branch.variables):
            found.setdefault(what, []).append(share)
    return found


def _sum(terms: Iterable[Term], known: _Known) -> Sum:
    products: list[Factors] = []
    largest: list[list[Sum]] = []
    for term in terms:
        if isinstance(term, Dearest):
            largest.append([_sum(part, known) for part in term.alternatives])
            continue
        switches = known.switches.get(term.of, []) if term.of is not None else []
        if isinstance(term, Lookup):
            products += _times([_number(term.factor), *switches, [(_looked_up(term, known),)]])
            continue
        spaces = [_space(space, known) for space in term.spaces]
        products += _times([_number(term.factor), *switches, *spaces])
    return Sum(products, largest)


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
    found = []
    for factors in itertools.product(*sums):
        tables: dict[tuple[int, ...], np.ndarray] = {}
        for table in itertools.chain.from_iterable(factors):
            tables[table.choices] = tables.get(table.choices, 1.0) * table.values
        found.append(tuple(Table(*item) for item in tables.items()))
    return found
