"""Primitives that move, merge, cut or make axes."""

from collections.abc import Sequence
from typing import Any

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
    is_zero,
    nothing,
    regroup,
    unify,
    unknown,
)
from jaxprune.program.spaces import Space
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


def reshape_blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list, list]]:
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
        freeze(x, "reshape of an empty array", op)
        return [frozen(shape, "reshape of an empty array", op)]
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
    lost: frozenset = frozenset()
    seen: frozenset = frozenset()
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
    return [[*first[:axis], *frozen((len(op.ins),), "stacked", op), *first[axis:]]]


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
        freeze([inner], f"every {stride}th index is taken apart", op)
        return outer
    freeze([space], f"slice with stride {stride}", op)
    return ax.frozen(length, f"slice with stride {stride}", op)


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
            freeze([space], "pad between or inside the entries", op)
            size = op.out_shapes[0][len(out)]
            out.append(ax.frozen(size, "pad between or inside the entries", op))
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
    for axis, found in enumerate(item.zeros):
        if is_zero(fill):
            here = exact.groups(op.ins[0][axis])
            zeros.append(found | (exact.groups(op.outs[0][axis]) - here))
        elif exact.may:
            zeros.append(found)
        elif any(other != axis for other in padded):
            zeros.append(frozenset())
        else:
            zeros.append(found - frozenset().union(*map(exact.groups, _padding(op, axis))))
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


def rev(op: Op) -> list[Axes]:
    """A reversed axis cannot be pruned."""
    (x,) = op.ins
    freeze([x[i] for i in op.params["dimensions"]], "reversed", op)
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
    """The counted axis is frozen, as its entries are positions; or only `narrow` can cut it."""
    axis = op.params["dimension"]
    shape = op.out_shapes[0]
    made = [ax.fresh(size) for size in shape]
    if not op.tracer.free_constants:
        made[axis] = ax.frozen(shape[axis], "counted by iota", op)
    return [made]


def empty(op: Op) -> list[Axes]:
    """New axes."""
    return [[ax.fresh(size) for size in shape] for shape in op.out_shapes]


def bitcast(op: Op) -> list[Axes]:
    """Elements of one width keep their axes."""
    (x,) = op.ins
    if len(x) == len(op.out_shapes[0]):
        return [list(x)]
    freeze(x, "bitcast to another width", op)
    return [frozen(op.out_shapes[0], "bitcast to another width", op)]


def passes(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros stay on every axis."""
    return [known[0]]


def bitcast_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """All bits zero is zero."""
    return [known[0] if len(op.ins[0]) == len(op.outs[0]) else unknown(op.out_shapes[0])]


_MOVES = Trait.MOVES | Trait.LINEAR | Trait.HOMOGENEOUS
TRAITS = {
    "broadcast_in_dim reshape rev slice squeeze tile transpose": _MOVES,
    "broadcast_in_dim reshape squeeze": Trait.ORDERED,
    "broadcast_in_dim": Trait.BROADCASTS,
    "bitcast_convert_type broadcast_in_dim reshape squeeze transpose": Trait.APART,
    "concatenate slice split": Trait.PARTS,
    "concatenate pad stack": Trait.LINEAR | Trait.TOGETHER,
    "split unstack": Trait.LINEAR | Trait.HOMOGENEOUS,
    "iota": Trait.COUNTS,
}
RULES = described(
    {
        "transpose": Rule(transpose, transpose_zeros),
        "squeeze": Rule(squeeze, squeeze_zeros),
        "broadcast_in_dim": Rule(broadcast_in_dim, broadcast_zeros, result_shape("shape")),
        "reshape": Rule(reshape, reshape_zeros, result_shape("new_sizes")),
        "concatenate": Rule(concatenate, concatenate_zeros),
        "split": Rule(split, cut_zeros, split_params),
        "unstack": Rule(unstack, unstack_zeros),
        "stack": Rule(stack, stack_zeros),
        "slice": Rule(slice_, cut_zeros, slice_params),
        "pad": Rule(pad, pad_zeros, pad_params),
        "rev": Rule(rev, passes),
        "tile": Rule(tile, tile_zeros, tile_params),
        "iota": Rule(iota, nothing, result_shape("shape")),
        "empty": Rule(empty, nothing, result_shape("shape")),
        "bitcast_convert_type": Rule(bitcast, bitcast_zeros),
    },
    TRAITS,
)
