"""Gather, scatter and dynamic slices: axes taken whole pass, indexed axes are frozen."""

from typing import Any

from jaxprune.program import reasons
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.reasons import Why
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
    unify,
    unknown,
    zeros_along,
)
from jaxprune.program.traits import Trait


def gather(op: Op) -> list[Axes]:
    """Slices over whole axes pass; batch axes are those of the indices."""
    operand, indices = op.ins
    dims, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    batching = dict(zip(dims.operand_batching_dims, dims.start_indices_batching_dims, strict=True))
    offsets = iter(dims.offset_dims)
    out: Axes = [ax.ONE] * len(op.out_shapes[0])
    for axis, space in enumerate(operand):
        if axis in batching:
            ax.unify(space, indices[batching[axis]], op)
        elif axis in dims.collapsed_slice_dims:
            freeze([space], reasons.INDEXED, op, "gather")
        elif sizes[axis] == space.size:
            out[next(offsets)] = space
        else:
            freeze([space], reasons.INDEXED, op, "gather")
            out[next(offsets)] = frozen_axis(sizes[axis], reasons.INDEXED, op, "gather")
    rest = iter(indices[:-1])
    for axis in range(len(out)):
        if axis not in dims.offset_dims:
            out[axis] = next(rest)
    if op.sources[0] is not None:
        op.record(table=[out[axis] for axis in dims.offset_dims])
    return [out]


def _windows(op: Op) -> dict[int, int]:
    """Operand axis -> result axis, for the axes that gather takes whole."""
    dims = op.params["dimension_numbers"]
    gone = {*dims.collapsed_slice_dims, *dims.operand_batching_dims}
    kept = [axis for axis in range(len(op.ins[0])) if axis not in gone]
    return dict(zip(kept, dims.offset_dims, strict=True))


def gather_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Whole axes keep their zeros, unless indices outside are filled with another value."""
    fill = op.params["fill_value"]
    if not (fill is None or fill == 0 or fill != fill):  # NaN is NaN, masked or not
        return [unknown(op.out_shapes[0])]
    zeros = list(unknown(op.out_shapes[0]).zeros)
    for axis, result in _windows(op).items():
        zeros[result] = known[0].zeros[axis] & exact.groups(op.outs[0][result])
    return [Known(tuple(zeros))]


def gather_params(op: Op, size: Size) -> dict[str, Any]:
    """Whole axes are taken whole at their kept size."""
    sizes = list(op.params["slice_sizes"])
    for axis, result in _windows(op).items():
        sizes[axis] = size(op.outs[0][result])
    return {"slice_sizes": tuple(sizes)}


def dynamic_slice(op: Op) -> list[Axes]:
    """Axes taken whole pass."""
    out = []
    for space, length in zip(op.ins[0], op.params["slice_sizes"], strict=True):
        if length == space.size:
            out.append(space)
        else:
            freeze([space], reasons.DYNAMIC, op, "slice")
            out.append(frozen_axis(length, reasons.DYNAMIC, op, "slice"))
    return [out]


def dynamic_slice_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Axes taken whole keep their zeros."""
    pairs = zip(known[0].zeros, op.outs[0], strict=True)
    kept = tuple(zeros & exact.groups(space) for zeros, space in pairs)
    return [Known(kept, known[0].value)]


def dynamic_slice_params(op: Op, size: Size) -> dict[str, Any]:
    """The kept sizes."""
    return {"slice_sizes": tuple(size(space) for space in op.outs[0])}


def dynamic_update_slice(op: Op) -> list[Axes]:
    """Axes written whole are shared; the others are frozen."""
    operand, update = op.ins[:2]
    for space, piece in zip(operand, update, strict=True):
        if space.size == piece.size:
            ax.unify(space, piece, op)
        else:
            freeze([space, piece], reasons.DYNAMIC, op, "update slice")
    return [list(operand)]


def update_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zero where both the operand and the update are."""
    return [either(known[0], known[1], exact)]


def scatter(op: Op) -> list[Axes]:
    """Window axes written whole are shared; the others are frozen."""
    operand, indices, updates = op.ins
    dims = op.params["dimension_numbers"]
    batching = dict(
        zip(dims.operand_batching_dims, dims.scatter_indices_batching_dims, strict=True)
    )
    windows = iter(dims.update_window_dims)
    for axis, space in enumerate(operand):
        if axis in batching:
            ax.unify(space, indices[batching[axis]], op)
        elif axis in dims.inserted_window_dims:
            freeze([space], reasons.INDEXED, op, "scatter")
        else:
            piece = updates[next(windows)]
            if piece.size == space.size:
                ax.unify(space, piece, op)
            else:
                freeze([space, piece], reasons.INDEXED, op, "scatter")
    rest = [x for i, x in enumerate(updates) if i not in dims.update_window_dims]
    unify(op, rest, indices[:-1])
    return [list(operand)]


def scatter_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """A window axis is zero where operand and updates are; what is written by index is summed."""
    dims = op.params["dimension_numbers"]
    neutral = op.name in ("scatter-add", "scatter-sub")
    places = [i for i in range(len(op.ins[2])) if i not in dims.update_window_dims]
    for i, axis in enumerate(places):
        if i not in dims.scatter_indices_batching_dims:
            zero = known[2].zeros[axis] if neutral else frozenset()
            exact.inexact(exact.groups(op.ins[2][axis]) - zero, op, reasons.WRITTEN, op.name)
            exact.sums(exact.groups(op.ins[2][axis]))
    gone = {*dims.inserted_window_dims, *dims.operand_batching_dims}
    zeros = list(unknown(op.out_shapes[0]).zeros)
    windows = iter(dims.update_window_dims)
    for axis in range(len(zeros)):
        if axis not in gone:
            before = zeros_along(known[0], axis, op.ins[0], exact)
            written = zeros_along(known[2], next(windows), op.ins[2], exact)
            zeros[axis] = before | written if exact.may else before & written
    return [Known(tuple(zeros))]


def opaque(why: Why) -> Any:
    """Returns a rule function that freezes everything with one reason."""

    def rule(op: Op) -> list[Axes]:
        for spaces in op.ins:
            freeze(spaces, why, op, op.name)
        return [frozen(shape, why, op, op.name) for shape in op.out_shapes]

    return rule


_COLLECTIVES = "all_gather all_gather_invariant reduce_scatter all_to_all".split()
_SCATTERS = "scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max".split()

RULES = described(
    {name: Rule(opaque(reasons.COLLECTIVE)) for name in _COLLECTIVES}
    | {name: Rule(scatter, scatter_zeros) for name in _SCATTERS}
    | {
        "gather": Rule(gather, gather_zeros, gather_params),
        "dynamic_slice": Rule(dynamic_slice, dynamic_slice_zeros, dynamic_slice_params),
        "dynamic_update_slice": Rule(dynamic_update_slice, update_zeros),
        "axis_index": Rule(opaque(reasons.AXIS_INDEX)),
    },
    {
        "gather": Trait.LOOKS_UP,
        "gather dynamic_slice": Trait.HOMOGENEOUS,
        "dynamic_slice dynamic_update_slice": Trait.STARTS,
    },
    {
        "gather dynamic_slice": {"values": slice(1)},
        "dynamic_update_slice": {"values": slice(2)},
        " ".join(_SCATTERS): {"values": slice(0, None, 2)},
    },
)
