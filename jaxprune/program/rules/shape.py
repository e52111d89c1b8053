"""Primitives that move, merge, factor or make axes."""

from collections.abc import Sequence
from typing import Any

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
    nothing,
    regroup,
    unknown,
)
from jaxprune.program.traits import Trait


def transpose(op: Op) -> list[Axes]:
    """Axis `permutation[i]` of the operand is axis i of the result."""
    (x,) = op.ins
    return [[x[i] for i in op.params["permutation"]]]


def transpose_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros move with their axis."""
    return [regroup(op, known[0], exact, [[i] for i in op.params["permutation"]])]


def squeeze(op: Op) -> list[Axes]:
    """Axes of size one go."""
    (x,) = op.ins
    return [[space for i, space in enumerate(x) if i not in op.params["dimensions"]]]


def squeeze_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros stay with their axis."""
    kept = [[i] for i in range(len(op.ins[0])) if i not in op.params["dimensions"]]
    return [regroup(op, known[0], exact, kept)]


def broadcast_in_dim(op: Op) -> list[Axes]:
    """Operand axes go to `broadcast_dimensions`; what is repeated is a new space."""
    x = op.ins[0]
    out = [ax.fresh(size) for size in op.params["shape"]]
    for i, axis in enumerate(op.params["broadcast_dimensions"]):
        if x[i].size == out[axis].size:
            out[axis] = x[i]
    return [out]


def broadcast_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Repetition keeps zeros of the operand's axes and makes none."""
    blocks: list[list[int]] = [[] for _ in op.params["shape"]]
    for i, axis in enumerate(op.params["broadcast_dimensions"]):
        if op.ins[0][i].size == op.params["shape"][axis]:
            blocks[axis] = [i]
    return [regroup(op, known[0], exact, blocks)]


def result_shape(parameter: str) -> Any:
    """Returns the `params` of a rule whose `parameter` is the shape of the result."""

    def params(op: Op, size: Size) -> dict[str, Any]:
        return {parameter: tuple(size(space) for space in op.outs[0])}

    return params


def reshape_blocks(
    before: Sequence[int], after: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """Pairs the shortest runs of axes with equal products; axes of size one stand outside."""
    left = [i for i, n in enumerate(before) if n != 1]
    right = [i for i, n in enumerate(after) if n != 1]
    blocks = []
    while left:
        ins, outs = [left.pop(0)], [right.pop(0)]
        a, b = before[ins[0]], after[outs[0]]
        while a != b:
            if a < b:
                ins.append(left.pop(0))
                a *= before[ins[-1]]
            else:
                outs.append(right.pop(0))
                b *= after[outs[-1]]
        blocks.append((ins, outs))
    return blocks


def _permuted(op: Op) -> Axes:
    order = op.params.get("dimensions")
    return list(op.ins[0]) if order is None else [op.ins[0][i] for i in order]


def reshape(op: Op) -> list[Axes]:
    """Runs of axes with equal products are one space, read in row-major order."""
    x = _permuted(op)
    shape = op.out_shapes[0]
    if 0 in shape:
        freeze(x, reasons.EMPTY, op)
        return [frozen(shape, reasons.EMPTY, op)]
    out: Axes = [ax.ONE] * len(shape)
    for ins, outs in reshape_blocks([space.size for space in x], shape):
        rest = ax.product(x[i] for i in ins)
        for axis in reversed(outs[1:]):
            rest, out[axis] = ax.factor(rest, shape[axis], op)
        out[outs[0]] = rest
    return [out]


def reshape_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros of a group follow its atom through the run of axes."""
    order = op.params.get("dimensions") or range(len(op.ins[0]))
    blocks: list[list[int]] = [[] for _ in op.out_shapes[0]]
    if 0 not in op.out_shapes[0]:
        shape = [op.ins[0][i].size for i in order]
        for ins, outs in reshape_blocks(shape, op.out_shapes[0]):
            for axis in outs:
                blocks[axis] = [order[i] for i in ins]
    return [regroup(op, known[0], exact, blocks)]


def rev(op: Op) -> list[Axes]:
    """A reversed axis cannot be pruned."""
    (x,) = op.ins
    freeze([x[i] for i in op.params["dimensions"]], reasons.REVERSED, op)
    return [list(x)]


def tile(op: Op) -> list[Axes]:
    """An axis repeated as a whole is an outer factor times the axis."""
    (x,) = op.ins
    reps = op.params["reps"]
    return [[ax.product([ax.fresh(n), space]) for n, space in zip(reps, x, strict=True)]]


def tile_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Repetition keeps zeros."""
    return [regroup(op, known[0], exact, [[i] for i in range(len(op.ins[0]))])]


def tile_params(op: Op, size: Size) -> dict[str, Any]:
    """Repetitions follow the outer factor."""
    pairs = zip(op.outs[0], op.ins[0], strict=True)
    return {"reps": tuple(size(out) // size(space) if size(space) else 1 for out, space in pairs)}


def iota(op: Op) -> list[Axes]:
    """New axes; the entries are positions along one of them."""
    return empty(op)


def empty(op: Op) -> list[Axes]:
    """New axes."""
    return [[ax.fresh(size) for size in shape] for shape in op.out_shapes]


def bitcast(op: Op) -> list[Axes]:
    """Elements of one width keep their axes."""
    (x,) = op.ins
    if len(x) == len(op.out_shapes[0]):
        return [list(x)]
    freeze(x, reasons.BITCAST, op)
    return [frozen(op.out_shapes[0], reasons.BITCAST, op)]


def passes(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros stay on every axis."""
    return [known[0]]


def bitcast_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """All bits zero is zero."""
    return [known[0] if len(op.ins[0]) == len(op.outs[0]) else unknown(op.out_shapes[0])]


_MOVES = Trait.MOVES | Trait.LINEAR | Trait.HOMOGENEOUS
TRAITS = {
    "broadcast_in_dim reshape rev squeeze tile transpose": _MOVES,
    "broadcast_in_dim reshape squeeze": Trait.ORDERED,
    "broadcast_in_dim": Trait.BROADCASTS,
    "bitcast_convert_type broadcast_in_dim reshape squeeze transpose": Trait.APART,
    "iota": Trait.COUNTS,
}
RULES = described(
    {
        "transpose": Rule(transpose, transpose_zeros),
        "squeeze": Rule(squeeze, squeeze_zeros),
        "broadcast_in_dim": Rule(broadcast_in_dim, broadcast_zeros, result_shape("shape")),
        "reshape": Rule(reshape, reshape_zeros, result_shape("new_sizes")),
        "rev": Rule(rev, passes),
        "tile": Rule(tile, tile_zeros, tile_params),
        "iota": Rule(iota, nothing, result_shape("shape")),
        "empty": Rule(empty, nothing, result_shape("shape")),
        "bitcast_convert_type": Rule(bitcast, bitcast_zeros),
    },
    TRAITS,
)
