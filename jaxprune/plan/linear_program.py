"""Costs that are tables over choices as linear constraints, exact wherever the choices are whole.

A table over several choices is the sum over their combinations of what it says times a column that
is 1 where all of them are taken. These columns are between 0 and 1 and need not be whole: those of
a combination add up to the columns of each of its parts, which leaves them no other value where the
choices are whole, and keeps the relaxation tight where they are not. Products whose table would be
too large are disaggregated: their columns are shares of the largest that the rest can be.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.plan.cost_tables import Factors, Sum, Table, at, merged, spread
from jaxprune.plan.problems import Choice

SCALE = 1e4
"""The value between the worst and the best picks, to the solver: it ends at a gap of 1e-6."""
CELLS = (1024, 128, 16, 1)
"""The most combinations that get columns together: the first that leaves few columns."""
COLUMNS = 20_000
"""What are few columns."""
FEW = 4_000
"""What are so few columns that nothing is gained by parts."""
SOLVED, INFEASIBLE = 0, 2
"""What `scipy.optimize.milp` calls its status at the optimum, and where nothing is feasible."""

Set = tuple[int, ...]
"""Choices, ascending."""


class Row(NamedTuple):
    """A linear constraint: between two bounds."""

    columns: np.ndarray
    factors: np.ndarray
    low: float
    high: float


class Linear(NamedTuple):
    """A linear expression of the columns, with a lower and an upper bound of what it is."""

    columns: np.ndarray
    factors: np.ndarray
    number: float
    low: float
    high: float


class Program:
    """A mixed-integer linear program: one binary column for each width of a choice."""

    def __init__(self, choices: Sequence[Choice], costs: Sequence[tuple[Sum, float]]):
        """Takes the choices, and costs with what they may be at most."""
        self.choices = choices
        self.size = 0
        self.rows: list[Row] = []
        self.columns: dict[Set, np.ndarray] = {}
        for i, choice in enumerate(choices):
            self.columns[i,] = self._new(len(choice.widths))
            self._equal([(self.columns[i,], 1.0)], 1.0)
        self.binary = self.size
        self.least = sum(float(choice.values.min()) for choice in choices)
        most = sum(float(choice.values.max()) for choice in choices)
        self.scale = SCALE / (most - self.least) if most > self.least else 1.0
        sizes = [len(choice.widths) for choice in choices]
        self.cells = cells_of([cost for cost, _ in costs], sizes)
        self.sets = sets([cost for cost, _ in costs], self.cells)
        self._combine()
        for cost, limit in costs:
            priced, unit = self._sum(cost), limit or 1.0
            most = (limit - priced.number) / unit
            self.rows.append(Row(priced.columns, priced.factors / unit, -math.inf, most))

    def fix(self, choice: int, pick: int) -> None:
        """Adds: a choice takes the width at a place of its ladder."""
        self._equal([(self.columns[choice,][[pick]], 1.0)], 1.0)

    def relaxed(self, seconds: float) -> float:
        """Returns what picks can be worth at most, -inf where none are within the costs."""
        solved = self.solve(0.0, seconds, whole=False)
        if solved.status == INFEASIBLE:
            return -math.inf
        return -float(solved.fun) if solved.status == SOLVED else math.inf

    def rule_out(self, picks: Sequence[int]) -> None:
        """Adds: not all of these picks together."""
        chosen = np.array([self.columns[i,][pick] for i, pick in enumerate(picks)])
        self.rows.append(Row(chosen, np.ones(len(chosen)), -math.inf, len(chosen) - 1.0))

    def worth(self, value: float) -> float:
        """Returns a value as the solver has it: above the least one, scaled."""
        return (value - self.least) * self.scale

    def picks(self, x: np.ndarray) -> list[int]:
        """Returns the place in its ladder that every choice takes."""
        return [int(np.argmax(x[self.columns[i,]])) for i in range(len(self.choices))]

    def solve(
        self, gap: float, seconds: float, *, whole: bool = True, least: float = -math.inf
    ) -> Any:
        """Returns the result of `scipy.optimize.milp`, whose objective is minus the worth.

        `whole` asks for whole choices, `least` for a worth of so much.
        """
        from scipy import optimize, sparse

        objective = np.zeros(self.size)
        for i, choice in enumerate(self.choices):
            objective[self.columns[i,]] = -(choice.values - choice.values.min()) * self.scale
        aim = np.flatnonzero(objective)
        rows = (
            [*self.rows, Row(aim, objective[aim], -math.inf, -least)]
            if least > -math.inf
            else self.rows
        )
        lengths = [len(row.columns) for row in rows]
        places = np.repeat(np.arange(len(rows)), lengths)
        factors, columns = (
            np.concatenate([getattr(r, n) for r in rows]) for n in ("factors", "columns")
        )
        matrix = sparse.csr_array((factors, (places, columns)), shape=(len(rows), self.size))
        low: Any = np.array([row.low for row in rows])
        high: Any = np.array([row.high for row in rows])
        return optimize.milp(
            objective,
            integrality=(np.arange(self.size) < self.binary) & whole,
            bounds=optimize.Bounds(0, 1),
            constraints=optimize.LinearConstraint(matrix, low, high),
            options={"mip_rel_gap": gap, "time_limit": seconds},
        )

    def _new(self, count: int) -> np.ndarray:
        self.size += count
        return np.arange(self.size - count, self.size)

    def _equal(self, parts: Sequence[tuple[np.ndarray, Any]], to: float) -> None:
        """Adds: the parts, columns with their factors, add up to a number."""
        columns = np.concatenate([part for part, _ in parts])
        factors = np.concatenate([np.broadcast_to(by, part.shape) for part, by in parts])
        self.rows.append(Row(columns, factors, to, to))

    def _combine(self) -> None:
        """Gives every set of choices its columns, after the sets that it contains."""
        shared = separators(self.sets)
        for several in [*shared, *(s for s in self.sets if len(s) > 1)]:
            if several in self.columns:
                continue
            shape = [len(self.choices[i].widths) for i in several]
            grid = self._new(math.prod(shape)).reshape(shape)
            inside = _largest(s for s in shared if set(s) < set(several))
            single = [(i,) for i in several if not any(i in part for part in inside)]
            for part in (*inside, *single):
                order = [several.index(i) for i in part]
                rest = [k for k in range(len(several)) if k not in order]
                rows = grid.transpose([*order, *rest]).reshape(self.columns[part].size, -1)
                for row, column in zip(rows, self.columns[part].reshape(-1), strict=True):
                    self._equal([(row, 1.0), (np.array([column]), -1.0)], 0.0)
            self.columns[several] = grid

    def _sum(self, cost: Sum) -> Linear:
        products = [merged(product, self.cells) for product in cost.products]
        whole = [tables[0] for tables in products if len(tables) == 1]
        linear = [self._tables(whole), *(self._product(p) for p in products if len(p) > 1)]
        return _added([*linear, *(self._most(parts) for parts in cost.largest)])

    def _tables(self, tables: Iterable[Table]) -> Linear:
        """A sum of tables, each by the columns of the first set that has all of its choices."""
        known: dict[Set, Any] = {}
        number = 0.0
        for table in tables:
            if not table.choices:
                number += float(table.values)
                continue
            home = self._home(table.choices)
            known[home] = known.get(home, 0.0) + spread(table, home)
        each = [np.broadcast_to(v, self.columns[home].shape).ravel() for home, v in known.items()]
        return Linear(
            np.concatenate([np.zeros(0, int), *(self.columns[home].ravel() for home in known)]),
            np.concatenate([np.zeros(0), *each]),
            number,
            number + sum(float(values.min()) for values in each),
            number + sum(float(values.max()) for values in each),
        )

    def _home(self, choices: Set) -> Set:
        if choices in self.columns:
            return choices
        return next(s for s in self.sets if set(choices) <= set(s))

    def _product(self, tables: Factors) -> Linear:
        rest = self._tables(tables[:1])
        for table in tables[1:]:
            rest = self._times(table, rest)
        return rest

    def _times(self, table: Table, rest: Linear) -> Linear:
        """A table times the rest; a column for each combination is a share of its bound."""
        home = self._home(table.choices)
        chosen = self.columns[home].ravel()
        values = np.broadcast_to(spread(table, home), self.columns[home].shape).ravel()
        z = self._new(len(chosen))
        if rest.high > 0:
            shares = (rest.columns, -rest.factors / rest.high)
            self._equal([(z, 1.0), shares], rest.number / rest.high)
        least = max(rest.low, 0.0) / rest.high if rest.high > 0 else 0.0
        for pair in zip(z, chosen, strict=True):
            self.rows.append(Row(np.array(pair), np.array([1.0, -1.0]), -math.inf, 0.0))
            self.rows.append(Row(np.array(pair), np.array([1.0, -least]), 0.0, math.inf))
        low, high = values.min() * rest.low, values.max() * rest.high
        return Linear(z, values * rest.high, 0.0, float(low), float(high))

    def _most(self, parts: Sequence[Sum]) -> Linear:
        """A column that is at least each part; costs are bounded from above only."""
        each = [self._sum(part) for part in parts]
        high = max((part.high for part in each), default=0.0)
        if high <= 0:
            return _added([])
        column = self._new(1)
        for part in each:
            columns = np.concatenate([column, part.columns])
            factors = np.concatenate([[1.0], -part.factors / high])
            self.rows.append(Row(columns, factors, part.number / high, math.inf))
        return Linear(column, np.array([high]), 0.0, max(part.low for part in each), high)


def parts(choices: Sequence[Choice], costs: Sequence[tuple[Sum, float]]) -> list[Program]:
    """Returns the program, or one for each width of a choice that most products have in common.

    Without that choice (the stream of a decoder) the others hardly meet: the parts are smaller
    together than the whole, and far easier.
    """
    hub = _hub([cost for cost, _ in costs], [len(choice.widths) for choice in choices])
    if hub is None:
        return [Program(choices, costs)]
    programs = []
    for pick in range(len(choices[hub].widths)):
        programs.append(Program(choices, [(at(cost, hub, pick), limit) for cost, limit in costs]))
        programs[-1].fix(hub, pick)
    return programs


def _hub(costs: Sequence[Sum], sizes: Sequence[int]) -> int | None:
    together = sets(costs, CELLS[0])
    before = columns_of(together, sizes)
    met = Counter(i for several in together for i in several)
    if before <= FEW or not met:
        return None
    hub = max(met, key=lambda choice: (met[choice], -choice))
    left = _largest(tuple(i for i in several if i != hub) for several in together)
    return hub if columns_of(left, sizes) * sizes[hub] <= 1.5 * before else None


def cells_of(costs: Iterable[Sum], sizes: Sequence[int]) -> int:
    """Returns how many combinations may get columns together, so that there are few columns."""
    costs = list(costs)
    few = (cells for cells in CELLS if columns_of(sets(costs, cells), sizes) <= COLUMNS)
    return next(few, CELLS[-1])


def columns_of(several_sets: Iterable[Set], sizes: Sequence[int]) -> int:
    """Returns how many combinations there are of the choices of all sets."""
    return sum(math.prod(sizes[i] for i in several) for several in several_sets)


def sets(costs: Iterable[Sum], cells: int) -> list[Set]:
    """Returns the sets of choices that tables of costs are over, none of them in another."""
    return _largest(
        dict.fromkeys(
            table.choices
            for cost in costs
            for product in every_product(cost)
            for table in merged(product, cells)
        )
    )


def every_product(cost: Sum) -> Iterable[Factors]:
    """Yields the products of a cost, and of all that it is the largest of."""
    yield from cost.products
    for parts in cost.largest:
        for part in parts:
            yield from every_product(part)


def separators(several_sets: Sequence[Set]) -> list[Set]:
    """Returns what two or more choices each several sets share, small ones first."""
    large = [frozenset(several) for several in several_sets if len(several) > 2]
    pairs = {a & b for a, b in itertools.combinations(large, 2) if len(a & b) > 1}
    return sorted((tuple(sorted(pair)) for pair in pairs), key=lambda s: (len(s), s))


def _largest(several_sets: Iterable[Set]) -> list[Set]:
    """Those that are in no other, in order of their size, largest first."""
    kept: list[Set] = []
    by_choice: dict[int, list[frozenset[int]]] = {}
    for several in sorted(several_sets, key=lambda s: (-len(s), s)):
        inside = set(several)
        if several and not any(inside <= other for other in by_choice.get(several[0], ())):
            kept.append(several)
            for choice in several:
                by_choice.setdefault(choice, []).append(frozenset(several))
    return kept


def _added(parts: Sequence[Linear]) -> Linear:
    return Linear(
        np.concatenate([np.zeros(0, int), *(part.columns for part in parts)]),
        np.concatenate([np.zeros(0), *(part.factors for part in parts)]),
        sum(part.number for part in parts),
        sum(part.low for part in parts),
        sum(part.high for part in parts),
    )
