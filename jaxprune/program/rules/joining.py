"""Primitives that join arrays along an axis, cut one along it, or pad it."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune.program import jaxpr, reasons
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.base import (
    Axes,
    Exactness,
    Known,
    Rule,
    Size,
    described,
    either,
    freeze,
    frozen,
    frozen_axis,
    is_zero,
    unify,
)
from jaxprune.program.spaces import Atom, Space
from jaxprune.program.traits import Trait


def concatenate(op: Op) -> list[Axes]:
    """The joined axis is a sum; the others are shared."""
    axis = op.params["dimension"]
    first = op.ins[0]
    for other in op.ins[1:]:
        unify(op, first[:axis] + first[axis + 1 :], other[:axis] + other[axis + 1 :])
    return [[*first[:axis], ax.concat(x[axis] for x in op.ins), *first[axis + 1 :]]]


def concatenate_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """A group is zero along the joined axis where it is zero in every operand that holds it."""
    axis = op.params["dimension"]
    lost: frozenset[Atom] = frozenset()
    seen: frozenset[Atom] = frozenset()
    for item, spaces in zip(known, op.ins, strict=True):
        here = exact.groups(spaces[axis])
        seen |= here
        lost |= frozenset() if is_zero(item) else here - item.zeros[axis]
    result = known[0]
    for item in known[1:]:
        result = either(result, item, exact)
    zeros = list(result.zeros)
    joined = frozenset().union(*(item.zeros[axis] for item in known))
    zeros[axis] = joined if exact.may else seen - lost
    return [Known(tuple(zeros), 0 if all(map(is_zero, known)) else None)]


def is_by_column(op: Op) -> bool:
    """True if it joins arrays along their last axis."""
    return Trait.PARTS in op.traits and op.params.get("dimension") == len(op.out_shapes[0]) - 1


def split(op: Op) -> list[Axes]:
    """The axis is cut at the given sizes."""
    (x,) = op.ins
    axis, rest, outs = op.params["axis"], op.ins[0][op.params["axis"]], []
    for size in op.params["sizes"]:
        piece, rest = ax.split(rest, int(size), op)
        outs.append([*x[:axis], piece, *x[axis + 1 :]])
    return outs


def cut_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Each piece keeps the zeros of the groups it holds."""
    (item,) = known
    results = []
    for spaces in op.outs:
        pairs = zip(item.zeros, spaces, strict=True)
        kept = tuple(zeros & exact.groups(space) for zeros, space in pairs)
        results.append(Known(kept, item.value))
    return results


def split_params(op: Op, size: Size) -> dict[str, Any]:
    """The kept size of every piece."""
    return {"sizes": tuple(size(spaces[op.params["axis"]]) for spaces in op.outs)}


def unstack(op: Op) -> list[Axes]:
    """Every index of the axis becomes a result, as by slices."""
    (x,) = op.ins
    axis = op.params["axis"]
    rest = x[axis]
    for _ in op.out_shapes:
        _, rest = ax.split(rest, 1, op)
    return [[*x[:axis], *x[axis + 1 :]] for _ in op.out_shapes]


def unstack_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros of the other axes stay."""
    axis = op.params["axis"]
    zeros = known[0].zeros
    return [Known(zeros[:axis] + zeros[axis + 1 :], known[0].value) for _ in op.out_shapes]


def stack(op: Op) -> list[Axes]:
    """The operands share their axes; the new axis is frozen."""
    first, axis = op.ins[0], op.params["axis"]
    for other in op.ins[1:]:
        unify(op, first, other)
    return [[*first[:axis], *frozen((len(op.ins),), reasons.STACKED, op), *first[axis:]]]


def stack_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zero where every operand is."""
    result = known[0]
    for item in known[1:]:
        result = either(result, item, exact)
    axis = op.params["axis"]
    zeros = (*result.zeros[:axis], frozenset(), *result.zeros[axis:])
    return [Known(zeros, 0 if all(map(is_zero, known)) else None)]


def slice_(op: Op) -> list[Axes]:
    """A run of an axis is a piece of it; a stride picks one index of an inner factor."""
    return [[_sliced(op, axis) for axis in range(len(op.ins[0]))]]


def rows_of(op: Op, rows: Sequence[range | np.ndarray]) -> list[range | np.ndarray] | None:
    """Returns which rows every result has, of an operation that joins or cuts arrays by rows.

    Rows are numbers; `rows` are those of the operands. None of what does anything else.
    """
    params, shape = op.params, jaxpr.shape(op.eqn.invars[0])
    if op.name == "concatenate" and params["dimension"] == 0:
        return [np.concatenate([np.asarray(item) for item in rows])]
    if op.name == "split" and params["axis"] == 0:
        ends = itertools.accumulate(map(int, params["sizes"]), initial=0)
        return [rows[0][start:end] for start, end in itertools.pairwise(ends)]
    if op.name == "unstack" and params["axis"] == 0:
        return [rows[0][i : i + 1] for i in range(len(rows[0]))]
    if op.name == "slice" and op.out_shapes[0][1:] == shape[1:]:
        return [rows[0][slice(*_bounds(op, 0))]]
    return None


def _bounds(op: Op, axis: int) -> tuple[int, int, int]:
    strides = op.params["strides"]
    start, limit = op.params["start_indices"][axis], op.params["limit_indices"][axis]
    return start, limit, 1 if strides is None else strides[axis]


def _sliced(op: Op, axis: int) -> Space:
    space = op.ins[0][axis]
    start, limit, stride = _bounds(op, axis)
    length = op.out_shapes[0][axis]
    if stride == 1:
        return ax.split(ax.split(space, start, op)[1], limit - start, op)[0]
    if space.size % stride == 0 and start < stride and length * stride == space.size:
        outer, inner = ax.factor(space, stride, op)
        freeze([inner], reasons.TAKEN_APART, op, stride)
        return outer
    freeze([space], reasons.STRIDED, op, stride)
    return frozen_axis(length, reasons.STRIDED, op, stride)


def slice_params(op: Op, size: Size) -> dict[str, Any]:
    """The bounds among the kept indices."""
    starts, limits = [], []
    for axis, space in enumerate(op.outs[0]):
        start, limit, stride = _bounds(op, axis)
        beyond = limit - start - (space.size - 1) * stride  # what `x[::2]` does not reach
        if stride == 1:
            start = size(ax.split(op.ins[0][axis], start)[0])
        starts.append(start)
        limits.append(start + (size(space) - 1) * stride + beyond if size(space) else start)
    return {"start_indices": tuple(starts), "limit_indices": tuple(limits)}


def pad(op: Op) -> list[Axes]:
    """Padding before and after an axis is a space of its own beside it."""
    x = op.ins[0]
    out = []
    for space, (low, high, interior) in zip(x, op.params["padding_config"], strict=True):
        if interior or low < 0 or high < 0:
            freeze([space], reasons.PADDED, op)
            size = op.out_shapes[0][len(out)]
            out.append(frozen_axis(size, reasons.PADDED, op))
        else:
            sides = [ax.fresh(int(n)) if n else None for n in (low, high)]
            parts = (sides[0], space, sides[1])
            out.append(ax.concat(part for part in parts if part is not None))
    return [out]


def pad_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros survive on a padded axis; on the others only if the padding is zero too."""
    item, fill = known
    config = op.params["padding_config"]
    padded = [axis for axis, sizes in enumerate(config) if any(sizes)]
    zeros = []
    for axis, groups in enumerate(item.zeros):
        if is_zero(fill):
            here = exact.groups(op.ins[0][axis])
            zeros.append(groups | (exact.groups(op.outs[0][axis]) - here))
        elif exact.may:
            zeros.append(groups)
        elif any(other != axis for other in padded):
            zeros.append(frozenset())
        else:
            zeros.append(groups - frozenset().union(*map(exact.groups, _padding(op, axis))))
    return [Known(tuple(zeros))]


def _padding(op: Op, axis: int) -> tuple[Space, Space]:
    """The spaces before and after the operand on a padded axis."""
    low, high, interior = op.params["padding_config"][axis]
    if interior or low < 0 or high < 0:
        return ax.Sum(()), ax.Sum(())
    head, rest = ax.split(op.outs[0][axis], low)
    return head, ax.split(rest, op.ins[0][axis].size)[1]


def pad_params(op: Op, size: Size) -> dict[str, Any]:
    """Padding follows the kept size of its own space."""
    config = []
    for axis, (low, high, interior) in enumerate(op.params["padding_config"]):
        if not interior and low >= 0 and high >= 0:
            low, high = map(size, _padding(op, axis))
        config.append((low, high, interior))
    return {"padding_config": tuple(config)}


RULES = described(
    {
        "concatenate": Rule(concatenate, concatenate_zeros),
        "split": Rule(split, cut_zeros, split_params),
        "unstack": Rule(unstack, unstack_zeros),
        "stack": Rule(stack, stack_zeros),
        "slice": Rule(slice_, cut_zeros, slice_params),
        "pad": Rule(pad, pad_zeros, pad_params),
    },
    {
        "concatenate slice split": Trait.PARTS,
        "concatenate pad stack": Trait.LINEAR | Trait.TOGETHER,
        "slice": Trait.MOVES,
        "slice split unstack": Trait.LINEAR | Trait.HOMOGENEOUS,
    },
)
