"""Sums of products of widths as linear constraints, exact wherever the choices are whole."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.plan.expressions import Expression, Most, Number, Plus, Times, Width, plus, times
from jaxprune.plan.problems import Choice

SCALE = 1e4
"""The value between the worst and the best picks, to the solver: it ends at a gap of 1e-6."""


class Linear(NamedTuple):
    """A linear expression of the columns, with a lower and an upper bound of what it is."""

    columns: Mapping[int, float]
    number: float
    low: float
    high: float


class Program:
    """A mixed-integer linear program that grows: one binary column for each width of a choice.

    A product u * R, of a width u and anything else, is the sum over the widths w of u of w * z[w],
    where z[w] is R if u is w and 0 elsewhere: the z add up to R, and each is between the least and
    the largest R there, or 0.
    """

    def __init__(self, choices: Sequence[Choice]):
        self.choices = choices
        ends = np.cumsum([0, *(len(choice.widths) for choice in choices)])
        self.columns = [list(range(start, end)) for start, end in itertools.pairwise(ends.tolist())]
        self.binary = self.size = int(ends[-1])
        self.rows: list[tuple[Mapping[int, float], float, float]] = []
        self.known: dict[Expression, Linear] = {}
        self.met: Counter[int] = Counter()
        for columns in self.columns:
            self.rows.append((dict.fromkeys(columns, 1.0), 1.0, 1.0))
        self.least = sum(float(choice.values.min()) for choice in choices)
        most = sum(float(choice.values.max()) for choice in choices)
        self.scale = SCALE / (most - self.least) if most > self.least else 1.0

    def bound(self, cost: Expression, limit: float) -> None:
        """Adds: the cost is at most `limit`."""
        _count(cost, self.met)
        found = self.linear(cost)
        row = {column: factor / limit for column, factor in found.columns.items()}
        self.rows.append((row, -math.inf, 1.0 - found.number / limit))

    def rule_out(self, picks: Sequence[int]) -> None:
        """Adds: not all of these picks together."""
        chosen = {columns[pick]: 1.0 for columns, pick in zip(self.columns, picks, strict=True)}
        self.rows.append((chosen, -math.inf, len(chosen) - 1.0))

    def worth(self, value: float) -> float:
        """Returns a value as the solver has it: above the least one, scaled."""
        return (value - self.least) * self.scale

    def picks(self, x: np.ndarray) -> list[int]:
        """Returns the place in its ladder that every choice takes."""
        return [int(np.argmax(x[columns])) for columns in self.columns]

    def solve(self, gap: float, seconds: float) -> Any:
        """Returns the result of `scipy.optimize.milp`, whose objective is minus the worth."""
        from scipy import optimize, sparse

        objective = np.zeros(self.size)
        for choice, columns in zip(self.choices, self.columns, strict=True):
            objective[columns] = -(choice.values - choice.values.min()) * self.scale
        entries = [
            (row, column, factor)
            for row, (factors, _, _) in enumerate(self.rows)
            for column, factor in factors.items()
        ]
        rows, columns, factors = zip(*entries, strict=True)
        matrix = sparse.csr_array((factors, (rows, columns)), shape=(len(self.rows), self.size))
        low: Any = np.array([row[1] for row in self.rows])
        high: Any = np.array([row[2] for row in self.rows])
        return optimize.milp(
            objective,
            integrality=np.arange(self.size) < self.binary,
            bounds=optimize.Bounds(0, 1),
            constraints=optimize.LinearConstraint(matrix, low, high),
            options={"mip_rel_gap": gap, "time_limit": seconds},
        )

    def linear(self, expression: Expression) -> Linear:
        """Returns an expression in the columns, with those that it needs."""
        if expression not in self.known:
            self.known[expression] = self._linear(expression)
        return self.known[expression]

    def _linear(self, expression: Expression) -> Linear:
        if isinstance(expression, Number):
            return Linear({}, expression.value, expression.value, expression.value)
        if isinstance(expression, Width):
            return self._power(expression.choice, 1)
        if isinstance(expression, Plus):
            return _sum([self.linear(part) for part in expression.parts])
        if isinstance(expression, Most):
            return self._most([self.linear(part) for part in expression.alternatives])
        return self._product(expression)

    def _product(self, product: Times) -> Linear:
        widths = Counter(item.choice for item in product.factors if isinstance(item, Width))
        others = [item for item in product.factors if not isinstance(item, Width)]
        if others and isinstance(others[0], Number):
            return _scaled(self.linear(times(product.factors[1:])), others[0].value)
        if not widths:
            first, *rest = sorted(others, key=lambda x: len(x.parts) if isinstance(x, Plus) else 0)
            assert isinstance(first, Plus)  # the largest of several stands in no product
            return self.linear(plus(times([part, *rest]) for part in first.parts))
        outer = max(widths, key=lambda choice: (self.met[choice], -choice))
        rest = [item for item in product.factors if item != Width(outer)]
        if not rest:
            return self._power(outer, widths[outer])
        return self._times(outer, widths[outer], self.linear(times(rest)))

    def _power(self, choice: int, power: int) -> Linear:
        widths = [float(width) ** power for width in self.choices[choice].widths]
        columns = dict(zip(self.columns[choice], widths, strict=True))
        return Linear(columns, 0.0, min(widths), max(widths))

    def _times(self, choice: int, power: int, rest: Linear) -> Linear:
        """The width of a choice, to a power, times the rest; a column z is a share of its bound."""
        if not rest.columns or rest.high == 0:
            return _scaled(self._power(choice, power), rest.number)
        widths = [float(width) ** power for width in self.choices[choice].widths]
        z = [self._column() for _ in widths]
        share = {column: -factor / rest.high for column, factor in rest.columns.items()}
        number = rest.number / rest.high
        self.rows.append((dict.fromkeys(z, 1.0) | share, number, number))
        for column, chosen in zip(z, self.columns[choice], strict=True):
            self.rows.append(({column: 1.0, chosen: -1.0}, -math.inf, 0.0))
            if rest.low > 0:
                self.rows.append(({column: 1.0, chosen: -rest.low / rest.high}, 0.0, math.inf))
        factors = {column: width * rest.high for column, width in zip(z, widths, strict=True)}
        return Linear(factors, 0.0, min(widths) * rest.low, max(widths) * rest.high)

    def _most(self, parts: Sequence[Linear]) -> Linear:
        """A column that is at least each part; costs are bounded from above only."""
        high = max(part.high for part in parts)
        if high == 0:
            return Linear({}, 0.0, 0.0, 0.0)
        column = self._column()
        for part in parts:
            row = {key: -factor / high for key, factor in part.columns.items()}
            self.rows.append((row | {column: 1.0}, part.number / high, math.inf))
        return Linear({column: high}, 0.0, max(part.low for part in parts), high)

    def _column(self) -> int:
        self.size += 1
        return self.size - 1


def _sum(parts: Sequence[Linear]) -> Linear:
    columns: dict[int, float] = {}
    for part in parts:
        for column, factor in part.columns.items():
            columns[column] = columns.get(column, 0.0) + factor
    return Linear(
        columns,
        sum(part.number for part in parts),
        sum(part.low for part in parts),
        sum(part.high for part in parts),
    )


def _scaled(found: Linear, by: float) -> Linear:
    columns = {column: factor * by for column, factor in found.columns.items()}
    return Linear(columns, found.number * by, found.low * by, found.high * by)


def _count(expression: Expression, met: Counter[int]) -> None:
    """Counts how often each choice is met."""
    if isinstance(expression, Width):
        met[expression.choice] += 1
    elif not isinstance(expression, Number):
        for part in expression[0]:
            _count(part, met)
