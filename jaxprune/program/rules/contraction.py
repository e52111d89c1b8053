"""Contractions: where axes of two arrays meet and multiply-accumulates are counted."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from jaxprune.program import reasons
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.base import (
    Axes,
    Exactness,
    Known,
    Rule,
    Size,
    described,
    freeze,
    frozen,
    frozen_axis,
    unify,
)
from jaxprune.program.spaces import Atom, Space
from jaxprune.program.traits import Trait


def dot_general(op: Op) -> list[Axes]:
    """Contracted and batch axes are shared pairwise; the free axes follow."""
    return [_product(op)]


def _product(op: Op, groups: Sequence[int] = ()) -> Axes:
    """The axes of a product; `groups` are those of the second operand that count groups."""
    lhs, rhs = op.ins[:2]
    (lc, rc), (lb, rb) = _numbers(op)
    unify(op, [lhs[i] for i in lc], [rhs[i] for i in rc])
    unify(op, [lhs[i] for i in lb], [rhs[i] for i in rb])
    out = [lhs[i] for i in lb]
    out += [lhs[i] for i in range(len(lhs)) if i not in (*lc, *lb)]
    out += [rhs[i] for i in range(len(rhs)) if i not in (*rc, *rb, *groups)]
    counted = frozen(op.out_shapes[0][: len(op.out_shapes[0]) - len(out)], reasons.GROUPED, op)
    op.record(
        out=[*counted, *out],
        spaces=[*out, *(lhs[i] for i in lc)],
        coefficient=1,
        contracted=([lhs[i] for i in lc], [rhs[i] for i in (*rc, *groups)]),
    )
    return [*counted, *out]


def dot_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Contracted groups must be zero on one side; batch axes join, free axes stay."""
    return [_product_zeros(op, known, exact)]


def _product_zeros(
    op: Op, known: list[Known], exact: Exactness, groups: Sequence[int] = ()
) -> Known:
    a, b = known[:2]
    (lc, rc), (lb, rb) = _numbers(op)
    for i, j in zip(lc, rc, strict=True):
        open_ = exact.groups(op.ins[0][i]) - a.zeros[i] - b.zeros[j]
        exact.inexact(open_, op, reasons.CONTRACTED)
        exact.sums(exact.groups(op.ins[0][i]) - (a.zeros[i] & b.zeros[j]))
    zeros = [a.zeros[i] | b.zeros[j] for i, j in zip(lb, rb, strict=True)]
    zeros += [z for i, z in enumerate(a.zeros) if i not in (*lc, *lb)]
    zeros += [z for i, z in enumerate(b.zeros) if i not in (*rc, *rb, *groups)]
    counted = [frozenset[Atom]()] * (len(op.out_shapes[0]) - len(zeros))
    return Known((*counted, *zeros))


def ragged_dot_general(op: Op) -> list[Axes]:
    """A product of which one axis is divided into groups; every row meets one of them."""
    dims = op.params["ragged_dot_dimension_numbers"]
    lhs, rhs, *rest = op.ins
    counted = [rhs[i] for i in dims.rhs_group_dimensions]
    freeze([lhs[i] for i in _rows_with_sizes(op)], reasons.GROUPED, op)
    for sizes in rest:
        freeze(sizes[:-1], reasons.GROUPED, op)
        if op.sources[2] is None and counted:
            unify(op, sizes[-1:], counted)
        else:  # sizes that no routing makes divide the rows as they lie
            freeze([*sizes, *counted], reasons.GROUPED, op)
    return [_product(op, dims.rhs_group_dimensions)]


def _rows_with_sizes(op: Op) -> Sequence[int]:
    """The ragged axis of the first operand, and those along which it may have other sizes."""
    ragged = op.params["ragged_dot_dimension_numbers"].lhs_ragged_dimensions
    if len(op.ins[2]) == 1:
        return ragged
    (contracted, _), (batch, _) = _numbers(op)
    free = [i for i in range(len(op.ins[0])) if i not in (*contracted, *batch)]
    alike = contracted if ragged[0] in contracted else free if ragged[0] in free else ()
    return [*batch, *alike]


def ragged_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """As of a product; where a group is not empty, its rows meet another one without it."""
    groups = op.params["ragged_dot_dimension_numbers"].rhs_group_dimensions
    for axis in groups:
        rows = exact.groups(op.ins[1][axis]) - known[2].zeros[-1]
        exact.inexact(rows, op, reasons.ROWS)
    return [_product_zeros(op, known, exact, groups)]


def _numbers(op: Op) -> Any:
    """Which axes of both operands of a product are contracted, and which are shared."""
    ragged = op.params.get("ragged_dot_dimension_numbers")
    return op.params["dimension_numbers"] if ragged is None else ragged.dot_dimension_numbers


def _grouped(op: Op) -> tuple[Any, int, Space, Space, Space]:
    """The convolution's dimension numbers, groups and (lhs C, rhs I, rhs O) spaces."""
    dims = op.params["dimension_numbers"]
    lhs, rhs = op.ins
    groups = op.params["feature_group_count"]
    return dims, groups, lhs[dims.lhs_spec[1]], rhs[dims.rhs_spec[1]], rhs[dims.rhs_spec[0]]


def conv_general_dilated(op: Op) -> list[Axes]:
    """Input features = groups x kernel inputs, output features = groups x outputs of a group."""
    dims, groups, features, inputs, outputs = _grouped(op)
    lhs, rhs = op.ins
    spatial = [lhs[i] for i in dims.lhs_spec[2:]]
    freeze(spatial, reasons.SPATIAL, op, "convolution")
    kernel_window = [rhs[i] for i in dims.rhs_spec[2:]]
    freeze(kernel_window, reasons.WINDOW, op)
    outer, inner = ax.factor(features, features.size // groups, op)
    ax.unify(inner, inputs, op)
    if groups > 1:
        ax.unify(ax.factor(outputs, outputs.size // groups, op)[0], outer, op)
    batch = lhs[dims.lhs_spec[0]]
    shape = op.out_shapes[0]
    if op.params["batch_group_count"] > 1:
        freeze([batch, outputs], reasons.BATCH_GROUPS, op)
        batch = frozen_axis(shape[dims.out_spec[0]], reasons.BATCH_GROUPS, op)
    out = frozen(shape, reasons.SPATIAL, op, "convolution")
    out[dims.out_spec[0]], out[dims.out_spec[1]] = batch, outputs
    window = prod(space.size for space in kernel_window)
    places = prod(shape[i] for i in dims.out_spec[2:])
    op.record(
        out=out,
        spaces=[batch, outputs, inputs],
        coefficient=window * places // prod(op.params["lhs_dilation"]),
        contracted=([features, *spatial], [inputs, *kernel_window]),
    )
    return [out]


def conv_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Contracted input features must be zero on one side; the outputs are those of the kernel."""
    dims, _, features, inputs, outputs = _grouped(op)
    a, b = known
    lhs, rhs = a.zeros[dims.lhs_spec[1]], b.zeros[dims.rhs_spec[1]]
    open_ = exact.groups(inputs) - lhs - rhs
    exact.inexact(open_, op, reasons.CONTRACTED)
    exact.sums(exact.groups(inputs) - (lhs & rhs))
    zeros = [frozenset()] * len(op.out_shapes[0])
    zeros[dims.out_spec[0]] = a.zeros[dims.lhs_spec[0]]
    shared = exact.groups(features) - exact.groups(inputs)
    kernel = b.zeros[dims.rhs_spec[0]]
    zeros[dims.out_spec[1]] = kernel | (shared & exact.groups(outputs) & lhs)
    return [Known(tuple(zeros))]


def conv_params(op: Op, size: Size) -> dict[str, Any]:
    """As many groups as the kept input features hold."""
    _, _, features, inputs, _ = _grouped(op)
    return {"feature_group_count": size(features) // size(inputs)}


def pairs(op: Op) -> list[tuple[int, int]]:
    """Returns the axes of both operands that are summed over together."""
    if is_product(op):
        return list(zip(*_numbers(op)[0], strict=True))
    dims = op.params["dimension_numbers"]
    return [(dims.lhs_spec[1], dims.rhs_spec[1])]


def is_product(op: Op) -> bool:
    """Returns whether it is a product of matrices or vectors, and no convolution."""
    return Trait.CONTRACTS in op.traits and "feature_group_count" not in op.params


def batches(op: Op) -> list[tuple[int, int]]:
    """Returns the axes that both operands of a matrix product share with the result."""
    return list(zip(*_numbers(op)[1], strict=True)) if is_product(op) else []


def free(op: Op, operand: int) -> list[int]:
    """Returns the axes of the result that only one operand has; of a convolution, the features."""
    if not is_product(op):
        return [op.params["dimension_numbers"].out_spec[1]] if operand else []
    (lc, rc), (lb, rb) = _numbers(op)
    counts = [len(op.ins[0]) - len(lc) - len(lb), len(op.ins[1]) - len(rc) - len(rb)]
    start = len(lb) + (counts[0] if operand else 0)
    return list(range(start, start + counts[operand]))


def padded(op: Op) -> bool:
    """Returns whether it reads zeros around its operand."""
    return bool(np.any(op.params.get("padding", 0)))


def dot_summed(op: Op) -> tuple[int, Sequence[int]]:
    """The contracted axes of the first operand."""
    return 0, _numbers(op)[0][0]


def conv_summed(op: Op) -> tuple[int, Sequence[int]]:
    """The input features of the kernel."""
    return 1, [op.params["dimension_numbers"].rhs_spec[1]]


RULES = described(
    {
        "dot_general": Rule(dot_general, dot_zeros, summed=dot_summed),
        "conv_general_dilated": Rule(
            conv_general_dilated, conv_zeros, conv_params, summed=conv_summed
        ),
        "ragged_dot_general": Rule(ragged_dot_general, ragged_zeros, summed=dot_summed),
    },
    {"dot_general": Trait.APART, "dot_general conv_general_dilated": Trait.MULTIPLIES},
    every=Trait.CONTRACTS,
)
