"""What makes integers that point into an axis, what passes them on, and what reads them.

Each function takes an `Op` and returns what the results point into, or None where the operation may
do anything with a position: then the axes that its operands point into are frozen.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxprune.program import reasons
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.pointers import NEVER, Columns, Never, Of, Pointer
from jaxprune.program.reasons import Reason, Why
from jaxprune.program.spaces import Space

Points = Callable[[Op], Sequence[Of] | None]


def iota(op: Op) -> Sequence[Of]:
    """Positions along the counted axis."""
    if op.tracer.counts_freely(op):
        return [None]
    return [_into(op, op.outs[0][op.params["dimension"]], reasons.COUNTED)]


def index_of_extreme(op: Op) -> Sequence[Of] | None:
    """A position in the reduced axis."""
    if op.of[0] is not None:
        return None
    axes = [int(axis) for axis in op.params["axes"]]
    return [_into(op, op.ins[0][axes[0]], reasons.POINTED_INTO, op.name)]


def top_k(op: Op) -> Sequence[Of] | None:
    """The values, and positions in the ordered axis."""
    if op.of[0] is not None:
        return None
    return [None, _into(op, op.ins[0][ordered(op)], reasons.ORDERED, op.name)]


def ordered(op: Op) -> int:
    """The axis that `top_k` orders."""
    axis = op.params.get("reduction_dimension", op.params.get("axis", -1))
    return axis % len(op.ins[0])


def chosen(op: Op) -> tuple[Space, int] | None:
    """Returns the axis of which an operation chooses entries, and how many; None if it is none."""
    if op.rule is None or op.rule.points is not top_k:
        return None
    axis = ordered(op)
    return op.ins[0][axis], op.out_shapes[0][axis]


def owners(op: Op) -> Sequence[Of] | None:
    """Positions in the counted axis; what is past its end there is past that of the kept one."""
    return (
        None if op.of[0] is not None else [_into(op, op.ins[0][0], reasons.POINTED_INTO, op.name)]
    )


def call(op: Op) -> Sequence[Of]:
    """A call is its program."""
    return op.inner[0].points


def as_is(op: Op) -> Sequence[Of]:
    """Result i is operand i."""
    return list(op.of[: len(op.out_shapes)])


def converted(op: Op) -> Sequence[Of] | None:
    """The same positions, in integers that can tell them apart."""
    (of,) = op.of
    dtype = np.dtype(op.params["new_dtype"])
    sizes = [of.space.size] if isinstance(of, Pointer) else [2**31 - 1]
    wide = dtype.kind in "iu" and np.iinfo(dtype).max >= max(sizes)
    return [of] if wide or isinstance(of, Never) else None


def moved(op: Op) -> Sequence[Of] | None:
    """The same positions in other places; index vectors stay apart."""
    of = op.of[0]
    return None if isinstance(of, Columns) else [of]


def sort(op: Op) -> Sequence[Of] | None:
    """Positions in another order, which is the same among those that stay."""
    return None if any(isinstance(of, Columns) for of in op.of) else list(op.of)


def compares(op: Op) -> Sequence[Of] | None:
    """Whether two positions are the same: they are of the same axis."""
    a, b = op.of
    for pointer, other in ((a, 1), (b, 0)):
        if isinstance(pointer, Pointer) and op.of[other] is None:
            return [None] if _number(op, other) == -1 else None
    return [None] if _together(op, a, b) else None


def below(op: Op) -> Sequence[Of] | None:
    """No position is below zero, as where JAX counts negative ones from the end."""
    of = op.of[0]
    inside = isinstance(of, Pointer) and of.inside
    return [NEVER] if inside and op.of[1] is None and _number(op, 1) == 0 else None


def adds(op: Op) -> Sequence[Of] | None:
    """A position plus the size of its axis, which lies outside of it."""
    for of, other in ((op.of[0], 1), (op.of[1], 0)):
        if isinstance(of, Pointer) and op.of[other] is None and of.inside:
            number = _number(op, other)
            same = [of] if number == 0 else None
            return [of._replace(inside=False)] if number == of.space.size else same
    return None


def at_least(op: Op) -> Sequence[Of] | None:
    """No position is below zero."""
    for of, other in ((op.of[0], 1), (op.of[1], 0)):
        if isinstance(of, Pointer) and of.inside and op.of[other] is None:
            return [of] if _number(op, other) in (0, -1) else None
    return None


def at_most(op: Op) -> Sequence[Of] | None:
    """No position is above the last one."""
    for of, other in ((op.of[0], 1), (op.of[1], 0)):
        if isinstance(of, Pointer) and of.inside and op.of[other] is None:
            return [of] if _number(op, other) in (of.space.size - 1, of.space.size) else None
    return None


def bounded(op: Op) -> Sequence[Of] | None:
    """No position is outside of its axis."""
    low, of, high = op.of
    if low is not None or high is not None or not isinstance(of, Pointer) or not of.inside:
        return None
    inside = _number(op, 0) in (0, -1) and _number(op, 2) == of.space.size - 1
    return [of] if inside else None


def chooses(op: Op) -> Sequence[Of] | None:
    """Positions in one axis, or what stands for none: -1, or its size."""
    which, *cases = op.of
    if isinstance(which, Never):
        return [cases[0]]
    if which is not None or any(isinstance(of, Columns | Never) for of in cases):
        return None
    pointers = [of for of in cases if isinstance(of, Pointer)]
    if not pointers:
        return [None]
    size = pointers[0].space.size
    numbers = [_number(op, i + 1) for i, of in enumerate(cases) if of is None]
    if any(number not in (-1, size) for number in numbers):
        return None
    if not all(_together(op, pointers[0], of) for of in pointers[1:]):
        return None
    inside = not numbers and all(of.inside for of in pointers)
    return [pointers[0]._replace(inside=inside)]


def joins(op: Op) -> Sequence[Of] | None:
    """Components of index vectors side by side, or positions of one axis in one array."""
    last = len(op.out_shapes[0]) - 1
    if any(isinstance(of, Columns | Never) for of in op.of):
        return None
    if op.params["dimension"] == last and all(axes[last].size == 1 for axes in op.ins):
        return [Columns(tuple(of if isinstance(of, Pointer) else None for of in op.of))]
    first = op.of[0]
    if not all(_together(op, first, of) for of in op.of):
        return None
    inside = all(isinstance(of, Pointer) and of.inside for of in op.of)
    return [first._replace(inside=inside)] if isinstance(first, Pointer) else None


def looks_up(op: Op) -> Sequence[Of] | None:
    """The indices point into the axes that they are of; what is looked up may be positions."""
    table, indices = op.of
    if isinstance(table, Columns | Never) or not _read(op, indices):
        return None
    if table is None:
        return [None]
    fills = "FILL" in str(op.params["mode"]) and not isinstance(indices, Pointer)
    return [table._replace(inside=table.inside and not fills)]


def writes(op: Op) -> Sequence[Of] | None:
    """The indices point into the axes that they are of."""
    table, indices, written = op.of
    return [None] if table is None and written is None and _read(op, indices) else None


def _read(op: Op, indices: Of) -> bool:
    """True if every position among the indices is of an axis that is tied to its own."""
    if isinstance(indices, Never):
        return False
    if isinstance(indices, Pointer) and op.ins[1][-1].size != 1:
        return False
    axes = _indexed(op)
    return all(
        column(op, axis) is not None or given is None
        for axis, given in zip(axes, _columns(op), strict=True)
    )


def column(op: Op, axis: int) -> Pointer | None:
    """Returns the pointer into an axis of the operand of a gather or scatter, if it points."""
    if "dimension_numbers" not in op.params or axis not in _indexed(op):
        return None
    pointer = _columns(op)[_indexed(op).index(axis)]
    size = op.ins[0][axis].size
    return (
        pointer if pointer is not None and pointer.inside and pointer.space.size == size else None
    )


def _columns(op: Op) -> Sequence[Pointer | None]:
    """What each component of the indices points into."""
    of, count = op.of[1], len(_indexed(op))
    if isinstance(of, Columns):
        return of.each
    return [of] if isinstance(of, Pointer) and op.ins[1][-1].size == 1 else [None] * count


def _indexed(op: Op) -> list[int]:
    """The operand axes that the indices of a gather or a scatter are of."""
    dims = op.params["dimension_numbers"]
    scatters = hasattr(dims, "scatter_dims_to_operand_dims")
    return list(dims.scatter_dims_to_operand_dims if scatters else dims.start_index_map)


def _into(op: Op, space: Space, why: Why, *of: str) -> Pointer:
    return Pointer(space, Reason(why, of, op))


def _together(op: Op, a: Of, b: Of) -> bool:
    """Ties the axes that two arrays point into; False if they cannot be one."""
    if not isinstance(a, Pointer) or not isinstance(b, Pointer):
        return False
    if a.space.size != b.space.size:
        return False
    ax.unify(a.space, b.space, op)
    return True


def _number(op: Op, operand: int) -> int | None:
    """The one number that an operand is all over, None if it is not known."""
    values = op.value(operand)
    same = values is not None and values.size and (values == values.flat[0]).all()
    return int(values.flat[0]) if same and values is not None else None


_TABLE: Mapping[str, Points] = {
    "iota": iota,
    "argmax argmin": index_of_extreme,
    "top_k approx_top_k": top_k,
    "owners": owners,
    "jit closed_call remat": call,
    "copy device_put layout_constraint name optimization_barrier pbroadcast pvary reshard "
    "sharding_constraint stop_gradient": as_is,
    "convert_element_type": converted,
    "broadcast_in_dim reshape squeeze transpose slice rev tile": moved,
    "sort": sort,
    "eq ne": compares,
    "lt": below,
    "add": adds,
    "max": at_least,
    "min": at_most,
    "clamp": bounded,
    "select_n": chooses,
    "concatenate": joins,
    "gather": looks_up,
    "scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max": writes,
}
POINTS: Mapping[str, Points] = {name: f for names, f in _TABLE.items() for name in names.split()}
"""{primitive: what its results point into}; all others freeze what they are handed."""
