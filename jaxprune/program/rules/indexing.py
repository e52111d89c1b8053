"""Gather, scatter and dynamic slices: axes taken whole pass, indexed axes are frozen.

A window that starts at a constant is a piece of its axis, as that of a slice is.
"""

from collections.abc import Sequence
from typing import Any

from jaxprune.program import reasons
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.reasons import Why
from jaxprune.program.rules.base import (
    NONE,
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
    unknown,
    zeros_along,
)
from jaxprune.program.rules.pointing import column
from jaxprune.program.spaces import Atom, Space
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
            continue
        piece = _window(op, axis, sizes[axis], reasons.INDEXED, "gather")
        if axis not in dims.collapsed_slice_dims:
            out[next(offsets)] = piece
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
    """Axes taken whole pass, and windows that start at a constant."""
    lengths = enumerate(op.params["slice_sizes"])
    return [[_window(op, axis, length, reasons.DYNAMIC, "slice") for axis, length in lengths]]


def dynamic_slice_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Axes taken whole keep their zeros."""
    pairs = zip(known[0].zeros, op.outs[0], strict=True)
    kept = tuple(zeros & exact.groups(space) for zeros, space in pairs)
    return [Known(kept, known[0].value)]


def dynamic_slice_params(op: Op, size: Size) -> dict[str, Any]:
    """The kept sizes."""
    return {"slice_sizes": tuple(size(space) for space in op.outs[0])}


def dynamic_update_slice(op: Op) -> list[Axes]:
    """Axes written whole are shared, and windows that start at a constant."""
    for axis, piece in enumerate(op.ins[1]):
        _write(op, axis, piece, reasons.DYNAMIC, "update slice")
    return [list(op.ins[0])]


def update_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zero where both the operand and the update are."""
    value = known[0].value if known[0].value == known[1].value else None
    return [Known(tuple(_kept(op, known, 1, i, i, exact) for i in range(len(op.ins[0]))), value)]


def _kept(
    op: Op, known: list[Known], update: int, axis: int, piece: int, exact: Exactness
) -> frozenset[Atom]:
    """The groups of an axis that stay zero where axis `piece` of the update is written to it."""
    before = zeros_along(known[0], axis, op.ins[0], exact)
    written = zeros_along(known[update], piece, op.ins[update], exact)
    here = exact.groups(op.ins[update][piece])
    return before | written if exact.may else before - (here - written)


def scatter(op: Op) -> list[Axes]:
    """Window axes written whole are shared, and a window that starts at a constant."""
    operand, indices, updates = op.ins
    dims = op.params["dimension_numbers"]
    batching = dict(
        zip(dims.operand_batching_dims, dims.scatter_indices_batching_dims, strict=True)
    )
    windows = iter(dims.update_window_dims)
    for axis, space in enumerate(operand):
        if axis in batching:
            ax.unify(space, indices[batching[axis]], op)
        else:
            piece = ax.ONE if axis in dims.inserted_window_dims else updates[next(windows)]
            _write(op, axis, piece, reasons.INDEXED, "scatter")
    rest = [x for i, x in enumerate(updates) if i not in dims.update_window_dims]
    unify(op, rest, indices[:-1])
    if op.eqn.outvars[0].aval.dtype.kind in "biu":  # a count of channels, which may be an index
        freeze(rest, reasons.INDEXED, op, "scatter")
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
    zeros = list(unknown(op.out_shapes[0]).zeros)
    windows = iter(dims.update_window_dims)
    for axis in range(len(zeros)):
        if axis in dims.inserted_window_dims:
            zeros[axis] = zeros_along(known[0], axis, op.ins[0], exact)
        elif axis not in dims.operand_batching_dims:
            zeros[axis] = _kept(op, known, 2, axis, next(windows), exact)
    return [Known(tuple(zeros))]


def _indexed(op: Op) -> Sequence[int]:
    """The operand axes that the indices of a gather or a scatter are of."""
    dims = op.params["dimension_numbers"]
    scatters = hasattr(dims, "scatter_dims_to_operand_dims")
    return dims.scatter_dims_to_operand_dims if scatters else dims.start_index_map


def _start(op: Op, axis: int, length: int) -> int | None:
    """Where the one window starts in an axis, None if that is computed, or outside of it."""
    last = op.ins[0][axis].size - length
    if "dimension_numbers" not in op.params:
        given = op.value(_first(op) + axis)
        return None if given is None else min(max(int(given), 0), last)
    given = op.value(1) if len(op.ins[1]) == 1 and axis in _indexed(op) else None
    start = -1 if given is None else int(given[_indexed(op).index(axis)])
    return start if 0 <= start <= last else None


def _first(op: Op) -> int:
    """The first operand of a dynamic slice that says where it starts."""
    return len(op.ins) - len(op.ins[0])


def _window(op: Op, axis: int, length: int, why: Why, *of: Any) -> Space:
    """The piece of an operand axis that is taken; a new frozen one if nobody knows which."""
    space = op.ins[0][axis]
    if length == space.size:
        return space
    if length == 1 and (pointer := column(op, axis)) is not None:
        ax.unify(pointer.space, space, op)
        return ax.ONE
    start = _start(op, axis, length)
    if start is None:
        freeze([space], why, op, *of)
        return frozen_axis(length, why, op, *of)
    return ax.split(ax.split(space, start, op)[1], length, op)[0]


def _write(op: Op, axis: int, piece: Space, why: Why, *of: Any) -> None:
    """Ties what is written to the piece of the operand axis that it is written to."""
    window = _window(op, axis, piece.size, why, *of)
    ax.unify(window, piece, op)


def starts(op: Op, size: Size) -> dict[int, Any]:
    """A window starts behind what is kept of all that was before it."""
    moved = {}
    for axis, length in enumerate(_lengths(op)):
        start = _start(op, axis, length)
        if start is not None:
            moved[axis] = size(ax.split(op.ins[0][axis], start)[0])
    if "dimension_numbers" not in op.params:
        return {_first(op) + axis: start for axis, start in moved.items()}
    every = moved.keys() >= {*_indexed(op)}
    return {1: [moved[axis] for axis in _indexed(op)]} if every else {}


def started(op: Op, operand: int, columns: slice) -> list[Space]:
    """The axes in which an operand, or these columns of indices, say where a window starts."""
    if op.rule is None or op.rule.operands is not starts:
        return []
    if "dimension_numbers" not in op.params:
        return [op.ins[0][axis] for axis in [operand - _first(op)] if axis >= 0]
    return [op.ins[0][axis] for axis in _indexed(op)[columns] if operand == 1]


def _lengths(op: Op) -> Sequence[int]:
    """How long the window is in every operand axis."""
    if "slice_sizes" in op.params:
        return op.params["slice_sizes"]
    dims = op.params.get("dimension_numbers")
    if dims is None:
        return [space.size for space in op.ins[1]]
    windows = iter(dims.update_window_dims)
    single = {*dims.inserted_window_dims, *dims.operand_batching_dims}
    axes = range(len(op.ins[0]))
    return [1 if axis in single else op.ins[2][next(windows)].size for axis in axes]


def opaque(why: Why) -> Any:
    """Returns a rule function that freezes everything with one reason."""

    def rule(op: Op) -> list[Axes]:
        for spaces in op.ins:
            freeze(spaces, why, op, op.name)
        return [frozen(shape, why, op, op.name) for shape in op.out_shapes]

    return rule


_COLLECTIVES = "all_gather all_gather_invariant reduce_scatter all_to_all".split()
_SCATTERS = "scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max".split()


def owners(op: Op) -> list[Axes]:
    """The length is not that of the counted axis; see `program.repeated`."""
    return [frozen(op.out_shapes[0], reasons.COUNTED, op)]


def owners_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """What is counted zero times owns nothing, but the others are renumbered."""
    exact.inexact(exact.groups(op.ins[0][0]), op, reasons.NOT_NEUTRAL, op.name)
    return [unknown(op.out_shapes[0])]


RULES = described(
    {name: Rule(opaque(reasons.COLLECTIVE)) for name in _COLLECTIVES}
    | {name: Rule(scatter, scatter_zeros, operands=starts) for name in _SCATTERS}
    | {
        "gather": Rule(gather, gather_zeros, gather_params, starts),
        "dynamic_slice": Rule(dynamic_slice, dynamic_slice_zeros, dynamic_slice_params, starts),
        "dynamic_update_slice": Rule(dynamic_update_slice, update_zeros, operands=starts),
        "axis_index": Rule(opaque(reasons.AXIS_INDEX)),
        "owners": Rule(owners, owners_zeros),
    },
    {
        "gather": Trait.LOOKS_UP,
        "gather dynamic_slice": Trait.HOMOGENEOUS,
        "dynamic_slice dynamic_update_slice": Trait.STARTS,
        "dynamic_update_slice scatter scatter-add scatter-sub": Trait.WRITES,
    },
    {
        "gather dynamic_slice": {"values": slice(1)},
        "owners": {"values": NONE},
        "dynamic_update_slice": {"values": slice(2)},
        " ".join(_SCATTERS): {"values": slice(0, None, 2)},
    },
)
