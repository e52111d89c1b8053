"""Comparisons, and what chooses between values."""

import operator
from collections.abc import Callable, Mapping

from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.base import (
    NONE,
    Exactness,
    Known,
    Rule,
    described,
    is_zero,
    meet,
    spread,
    unknown,
)
from jaxprune.program.rules.elementwise import elementwise
from jaxprune.program.spaces import Atom
from jaxprune.program.traits import Trait

_COMPARE: Mapping[str, Callable[..., bool]] = {
    name: getattr(operator, name) for name in "eq ne lt le gt ge".split()
}


def compares(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros compare with zeros, and with a known value, everywhere alike."""
    a, b = known
    holds = _COMPARE[op.name]
    if a.value is not None and b.value is not None:
        return [unknown(op.out_shapes[0])._replace(value=holds(a.value, b.value))]
    if b.value is not None and len(a.zeros) == len(op.out_shapes[0]):
        return [_where(op, a.zeros, holds(0, b.value))]
    if a.value is not None and len(b.zeros) == len(op.out_shapes[0]):
        return [_where(op, b.zeros, holds(a.value, 0))]
    a, b = (spread(item, op.out_shapes[0]) for item in known)
    return [_where(op, meet(a, b).zeros, holds(0, 0))]


def _where(op: Op, groups: tuple[frozenset[Atom], ...], truth: bool) -> Known:
    """The truth at the pruned indices of the groups."""
    return unknown(op.out_shapes[0])._replace(ones=groups) if truth else Known(groups)


def negates(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """False becomes true and true false; of the bits of an integer nothing is known."""
    (item,) = known
    if op.eqn.outvars[0].aval.dtype != bool:
        return [unknown(op.out_shapes[0])]
    value = None if item.value is None else not item.value
    zeros = item.ones or unknown(op.out_shapes[0]).zeros
    return [Known(zeros, value, item.zeros)]


def chooses(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """select_n: zero where the chosen case is, or where every case is."""
    which, *cases = known
    if which.value is not None:
        return [cases[int(which.value)]]
    return [
        Known(
            tuple(_chosen(op, axis, which, cases, exact) for axis in range(len(op.outs[0]))),
            0 if all(map(is_zero, cases)) else None,
        )
    ]


def _chosen(
    op: Op, axis: int, which: Known, cases: list[Known], exact: Exactness
) -> frozenset[Atom]:
    """The groups at whose pruned indices along an axis the chosen case is zero."""
    every = exact.groups(op.outs[0][axis])
    zeros = [every if is_zero(case) else case.zeros[axis] for case in cases]
    first = which.zeros[axis] if which.zeros else frozenset()
    second = which.ones[axis] if which.ones else frozenset()
    open_ = (frozenset.union if exact.may else frozenset.intersection)(*zeros) - first - second
    return open_ | (first & zeros[0]) | (second & zeros[1])


RULES = described(
    {name: Rule(elementwise, compares) for name in _COMPARE}
    | {"not": Rule(elementwise, negates), "select_n": Rule(elementwise, chooses)},
    {" ".join(_COMPARE): Trait.COMPARES, "select_n": Trait.TOGETHER | Trait.CHOOSES},
    {" ".join(_COMPARE): {"values": NONE}, "select_n": {"values": slice(1, None)}},
    every=Trait.ENTRYWISE | Trait.APART,
)
