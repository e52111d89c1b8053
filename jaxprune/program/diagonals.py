"""Diagonals: positions that are compared with positions, and identity matrices among constants.

`eye`, `tril` and the one-hot vectors of `arange` compare what was counted along one axis with what
was counted along another. At the kept sizes that comparison is the same, whether the kept positions
are cut out or counted anew, if both axes keep the same indices. So the two axes are one space;
positions that anything else reads are frozen. The identity that a function holds as a constant is
such a matrix too.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Op, Program
from jaxprune.program.rules.axis_map import axis_map
from jaxprune.program.traits import NOTHING, Trait


class Diagonals(NamedTuple):
    """What a program compares.

    counted: the results that are positions which nothing but a comparison reads.
    compared: {result of a comparison: its two axes along which there are positions}.
    """

    counted: frozenset[Any]
    compared: Mapping[Any, tuple[int, int]]


class _Position(NamedTuple):
    """An array that counts along an axis, as the result `root` did."""

    root: Any
    axis: int


_Positions = Sequence[_Position | None]


def find(program: Program, rules: Mapping[str, Any]) -> Diagonals:
    """Returns the positions of a program that are only compared with each other."""
    search = _Search(rules)
    search.escape(search.run(program, [None] * len(program.invars)))
    while spoiled := {b for a, b in search.pairs if a in search.escaped} - search.escaped:
        search.escaped |= spoiled
    counted = frozenset(a for a, _ in search.pairs) - search.escaped
    compared = {out: axes for out, (root, axes) in search.compared.items() if root in counted}
    return Diagonals(counted, compared)


class _Search:
    """Follows positions through a program and those that it calls."""

    def __init__(self, rules: Mapping[str, Any]):
        self.rules = rules
        self.pairs: set[tuple[Any, Any]] = set()
        self.escaped: set[Any] = set()
        self.compared: dict[Any, tuple[Any, tuple[int, int]]] = {}

    def escape(self, items: _Positions) -> None:
        """Notes positions that something else reads."""
        self.escaped.update(item.root for item in items if item is not None)

    def run(self, program: Program, ins: _Positions) -> list[_Position | None]:
        """Returns which results of a program are positions."""
        env = {var: item for var, item in zip(program.invars, ins, strict=True) if item}
        for eqn in program.eqns:
            read = [None if jaxpr.is_literal(atom) else env.get(atom) for atom in eqn.invars]
            rule = self.rules.get(jaxpr.name(eqn))
            traits = NOTHING if rule is None else rule.traits
            if rule is not None and rule.form is not None:
                positions = self.calls(eqn, rule, read)
            elif Trait.COUNTS in traits:
                positions = [_Position(eqn.outvars[0], eqn.params["dimension"])]
            elif any(read):
                positions = [self.result(eqn, rule, read)]
            else:
                continue
            env.update((var, x) for var, x in zip(eqn.outvars, positions, strict=False) if x)
        return [None if jaxpr.is_literal(atom) else env.get(atom) for atom in program.outvars]

    def calls(self, eqn: Any, rule: Any, read: _Positions) -> _Positions:
        """The positions among the results of an equation that calls programs."""
        inner = jaxpr.programs(eqn)
        if rule.form.calls and not rule.form.custom:
            return self.run(inner[0], read)
        self.escape(read)
        for program in inner:
            self.escape(self.run(program, [None] * len(program.invars)))
        return ()

    def result(self, eqn: Any, rule: Any, read: _Positions) -> _Position | None:
        """The position that a result is; if it is none, those that were read are spoiled."""
        traits = NOTHING if rule is None else rule.traits
        (item, *more) = filter(None, read)
        if not more and (Trait.AS_IS in traits or _adds_nothing(eqn, rule, read)):
            if len(eqn.outvars) == 1 and _counts_far(eqn.outvars[0]):
                return item
        elif not more and Trait.MOVES in traits and (to := axis_map(Op(eqn, rules=self.rules))):
            if (axes := to((item.axis,))) is not None:
                return item._replace(axis=axes[0])
        elif Trait.COMPARES in traits and self.compares(eqn, item, more):
            return None
        self.escape(read)
        return None

    def compares(self, eqn: Any, a: _Position, rest: Sequence[_Position]) -> bool:
        """Notes a comparison of positions along two axes of one size."""
        (shape,) = map(jaxpr.shape, eqn.outvars)
        if len(rest) != 1 or len(eqn.invars) != 2 or a.root is rest[0].root:
            return False
        axes = min(a.axis, rest[0].axis), max(a.axis, rest[0].axis)
        if axes[0] == axes[1] or shape[axes[0]] != shape[axes[1]]:
            return False
        root, before = self.compared.setdefault(eqn.outvars[0], (a.root, axes))
        for other in (root, rest[0].root):  # of a program that is called twice, all or none
            self.pairs |= {(a.root, other), (other, a.root)}
        return before == axes


def _adds_nothing(eqn: Any, rule: Any, read: _Positions) -> bool:
    """True of `x + 0` and `x - 0`."""
    if rule is None or len(rule.weights) != 2:
        return False
    i = next(i for i, item in enumerate(read) if item)
    zero = jaxpr.scalar(eqn.invars[1 - i])
    return rule.weights[i] == 1 and zero is not None and zero == 0


def _counts_far(var: Any) -> bool:
    """True of a type that tells positions apart."""
    return var.aval.dtype.kind in "iuf" and var.aval.dtype.itemsize >= 4


def identity(value: Any) -> tuple[int, int] | None:
    """Returns the two axes of which a constant is the identity, times whatever the others are.

    >>> identity(np.eye(3)), identity(2 * np.eye(3)[None]), identity(np.ones((3, 3)))
    ((0, 1), (1, 2), None)
    """
    known = isinstance(value, np.ndarray) or jaxpr.is_concrete(value)
    return next(_identities(value), None) if known and value.dtype.kind in "biufc" else None


def _identities(value: Any) -> Iterator[tuple[int, int]]:
    for i, j in combinations(range(np.ndim(value)), 2):
        n = value.shape[i]
        if n == value.shape[j] > 1:
            rows = np.moveaxis(np.asarray(value), (i, j), (0, 1))
            if rows[0, 1].any() or rows[1, 0].any():
                continue
            diagonal = rows[np.arange(n), np.arange(n)]
            alike = (diagonal == diagonal[:1]).all() and diagonal.any()
            if alike and not rows[~np.eye(n, dtype=bool)].any():
                yield i, j
