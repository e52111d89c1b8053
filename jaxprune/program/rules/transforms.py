"""Fourier transforms, factorizations and solves: what they run over is frozen, the rest passes."""

from jaxprune.program import reasons
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.base import (
    Axes,
    Exactness,
    Known,
    Rule,
    described,
    freeze,
    frozen,
    is_zero,
    unify,
    unknown,
)
from jaxprune.program.traits import Trait


def _leading(op: Op) -> int:
    """How many axes of the first operand come before those that are transformed."""
    if "fft_lengths" in op.params:
        return len(op.ins[0]) - len(op.params["fft_lengths"])
    return len(op.ins[0]) - (1 if "permutation_size" in op.params else 2)


def transform(op: Op) -> list[Axes]:
    """The leading axes pass, to all results."""
    first = _leading(op)
    freeze(op.ins[0][first:], reasons.TRANSFORMED, op, op.name)
    rest = [shape[first:] for shape in op.out_shapes]
    return [[*op.ins[0][:first], *frozen(x, reasons.TRANSFORMED, op, op.name)] for x in rest]


def linear_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """The transform of zeros is zero."""
    return [_kept(op, known[0], 0)]


def _kept(op: Op, item: Known, result: int) -> Known:
    """A result that is zero along the leading axes where the operand is."""
    zeros = list(unknown(op.out_shapes[result]).zeros)
    first = _leading(op)
    zeros[:first] = item.zeros[:first]
    return Known(tuple(zeros), 0 if is_zero(item) else None)


def factors(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Of zero some factors are zero.

    At a pruned index the matrix may be singular, or have equal eigenvalues, as zero and the
    identity have: then there is no factor, or no derivative of it.
    """
    if Trait.UNCOUNTED in op.traits:
        matrices = frozenset().union(*map(exact.groups, op.ins[0][: _leading(op)]))
        exact.inexact(matrices, op, reasons.SINGULAR, op.name)
    zero = _ZERO.get(op.name)
    return [
        _kept(op, known[0], i) if i == zero else unknown(shape)
        for i, shape in enumerate(op.out_shapes)
    ]


def triangular_solve(op: Op) -> list[Axes]:
    """The right-hand sides pass, and what both operands have in front."""
    a, b = op.ins
    unify(op, a[:-2], b[:-2])
    mixed = len(b) - (2 if op.params["left_side"] else 1)
    freeze([*a[-2:], b[mixed]], reasons.TRANSFORMED, op, op.name)
    return [list(b)]


def solved(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zero where the right-hand sides are, unless a matrix may be singular there."""
    *_, b = op.ins
    unit = op.params.get("unit_diagonal", False)
    matrices = frozenset() if unit else frozenset().union(*map(exact.groups, b[:-2]))
    exact.inexact(matrices, op, reasons.SINGULAR, op.name)
    return [unknown(op.out_shapes[0]) if matrices else Known(known[-1].zeros)]


def tridiagonal_solve(op: Op) -> list[Axes]:
    """The right-hand sides pass, and what all operands have in front."""
    *diagonals, b = op.ins
    for diagonal in diagonals:
        unify(op, diagonal[:-1], b[:-2])
        freeze(diagonal[-1:], reasons.TRANSFORMED, op, op.name)
    freeze([b[-2]], reasons.TRANSFORMED, op, op.name)
    return [list(b)]


_ZERO = {"eigh": 1, "lu": 0, "qr": 1, "svd": 0}
"""Which result is zero for a matrix of zeros."""
_FACTORS = (*_ZERO, "cholesky", "eig")

RULES = described(
    {name: Rule(transform, factors) for name in (*_FACTORS, "lu_pivots_to_permutation")}
    | {
        "fft": Rule(transform, linear_zeros),
        "triangular_solve": Rule(triangular_solve, solved),
        "tridiagonal_solve": Rule(tridiagonal_solve, solved),
    },
    {
        "fft": Trait.HOMOGENEOUS,
        f"fft triangular_solve tridiagonal_solve {' '.join(_FACTORS)}": Trait.UNCOUNTED,
    },
    every=Trait.APART,
)
