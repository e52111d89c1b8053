"""Reductions, windows, scans along an axis, and orderings."""

from collections.abc import Sequence
from numbers import Integral

from jaxprune.program import reasons
from jaxprune.program.jaxpr import Op
from jaxprune.program.reasons import Why
from jaxprune.program.rules.base import (
    NONE,
    Axes,
    Exactness,
    Known,
    Rule,
    described,
    freeze,
    frozen,
    frozen_axis,
    is_zero,
    unify,
    unknown,
)
from jaxprune.program.rules.pointing import ordered
from jaxprune.program.traits import Trait


def reduce(op: Op) -> list[Axes]:
    """The reduced axes go; operands and their initial values pair up."""
    arrays = op.ins[: len(op.out_shapes)]
    for other in arrays[1:]:
        unify(op, arrays[0], other)
    gone = reduced(op)
    return [[space for i, space in enumerate(x) if i not in gone] for x in arrays]


def all_reduce(op: Op) -> list[Axes]:
    """Axes that `vmap` maps are reduced; a mesh's named axis is not an axis of the operands."""
    gone = reduced(op)
    return [[space for i, space in enumerate(x) if i not in gone] for x in op.ins]


def index_of_extreme(op: Op) -> list[Axes]:
    """The result points into the reduced axis."""
    return reduce(op)


def reduced(op: Op) -> list[int]:
    """Returns the reduced axes; of the axes of a collective those that are positions, not names."""
    axes = op.params["axes"] if "axes" in op.params else op.params["dimensions"]
    return [int(axis) for axis in axes if isinstance(axis, Integral)]


def _reduced(op: Op, known: list[Known], exact: Exactness, why: Why, trust: bool) -> list[Known]:
    gone = reduced(op)
    results = []
    for i in range(len(op.out_shapes)):
        item, spaces = known[i], op.ins[i]
        for axis in () if trust and is_zero(item) else gone:
            lost = exact.groups(spaces[axis]) - (item.zeros[axis] if trust else frozenset())
            exact.inexact(lost, op, why, op.name)
            exact.sums(exact.groups(spaces[axis]))
        kept = tuple(z for axis, z in enumerate(item.zeros) if axis not in gone)
        results.append(Known(kept, 0 if is_zero(item) else None))
    return results


def sum_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros add nothing."""
    return _reduced(op, known, exact, reasons.SUMMED, trust=True)


def order_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """A zero takes part in a maximum, a product, an argmax."""
    return _reduced(op, known, exact, reasons.NOT_NEUTRAL, trust=False)


def general_reduce(op: Op) -> list[Axes]:
    """A reduction by any function: the reduced axes cannot be pruned."""
    out = reduce(op)
    for x in op.ins[: len(op.out_shapes)]:
        freeze([x[i] for i in op.params["dimensions"]], reasons.FUNCTION_REDUCED, op)
    return out


def window(op: Op) -> list[Axes]:
    """Axes with a trivial window pass; the others are spatial."""
    count = len(op.out_shapes)
    for other in op.ins[1:count]:
        unify(op, op.ins[0], other)
    out = []
    for axis, space in enumerate(op.ins[0]):
        if _trivial(op, axis):
            out.append(space)
        else:
            freeze([space], reasons.SPATIAL, op, "window")
            out.append(frozen_axis(op.out_shapes[0][axis], reasons.SPATIAL, op, "window"))
    return [list(out) for _ in range(count)]


def _trivial(op: Op, axis: int) -> bool:
    params = op.params
    return (
        params["window_dimensions"][axis] == 1
        and params["window_strides"][axis] == 1
        and tuple(params["padding"][axis]) == (0, 0)
        and params.get("base_dilation", [1] * (axis + 1))[axis] == 1
    )


def stays(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """A window of zeros gives zero on the axes it does not run over."""
    count = len(op.out_shapes)
    return [
        Known(tuple(z & exact.groups(s) for z, s in zip(known[i].zeros, op.outs[i], strict=True)))
        for i in range(count)
    ]


def general_window(op: Op) -> list[Axes]:
    """A window with any function."""
    count = len(op.out_shapes)
    for i in range(count):
        freeze(op.ins[i], reasons.FUNCTION_WINDOW, op)
    return [frozen(shape, reasons.FUNCTION_WINDOW, op) for shape in op.out_shapes]


def cumulative(op: Op) -> list[Axes]:
    """The axes stay."""
    return [list(op.ins[0])]


def _along(op: Op, known: list[Known], exact: Exactness, why: Why, trust: bool) -> list[Known]:
    axis = op.params["axis"]
    zeros = list(known[0].zeros)
    lost = exact.groups(op.ins[0][axis]) - (zeros[axis] if trust else frozenset())
    exact.inexact(lost, op, why, op.name)
    exact.sums(exact.groups(op.ins[0][axis]))
    zeros[axis] = frozenset()
    return [Known(tuple(zeros))]


def cumsum_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros add nothing to the running sum, but the sum at their place is not zero."""
    return _along(op, known, exact, reasons.SUMMED, trust=True)


def running_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """A zero takes part in a running product or maximum."""
    return _along(op, known, exact, reasons.NOT_NEUTRAL, trust=False)


def logsumexp_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """The logarithm of a sum of ones is not zero."""
    running_zeros(op, known, exact)
    return [unknown(op.out_shapes[0])]


def sort(op: Op) -> list[Axes]:
    """A sorted axis loses its positions."""
    axis = op.params["dimension"]
    for other in op.ins[1:]:
        unify(op, op.ins[0], other)
    freeze([op.ins[0][axis]], reasons.SORTED, op)
    return [list(x) for x in op.ins]


def sort_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros of the other axes stay."""
    return list(known)


def top_k(op: Op) -> list[Axes]:
    """Values and indices are frozen along the ordered axis, of which at least so many stay."""
    x, axis = op.ins[0], ordered(op)
    made = [
        frozen_axis(op.out_shapes[0][axis], reasons.ORDERED, op, op.name) if i == axis else space
        for i, space in enumerate(x)
    ]
    return [list(made) for _ in op.out_shapes]


def top_k_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Values keep the zeros of the other axes, and a zero may be one of them."""
    axis = ordered(op)
    exact.inexact(exact.groups(op.ins[0][axis]), op, reasons.NOT_NEUTRAL, op.name)
    zeros = tuple(z if i != axis else frozenset() for i, z in enumerate(known[0].zeros))
    return [known[0]._replace(zeros=zeros), unknown(op.out_shapes[1])]


def along(op: Op) -> tuple[int, Sequence[int]]:
    """The axes that end."""
    return 0, op.params["axes"]


TRAITS = {
    "reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_xor": Trait.APART,
    "reduce_sum psum psum_invariant": Trait.SUMS,
    "reduce_sum reduce_window_sum": Trait.LINEAR,
    "reduce_max reduce_window_max": Trait.MAXIMUM,
    "reduce_max reduce_min reduce_sum reduce_window_max reduce_window_min reduce_window_sum": (
        Trait.HOMOGENEOUS
    ),
    "cumsum cummax cummin": Trait.HOMOGENEOUS,
    "argmax argmin": Trait.COMPARES,
}
FIELDS = {
    "argmax argmin": {"values": NONE},
    "reduce_sum reduce_max": {"summed": along},
}
RULES = described(
    {name: Rule(reduce, sum_zeros) for name in ("reduce_sum", "reduce_or", "reduce_xor")}
    | {
        name: Rule(reduce, order_zeros)
        for name in "reduce_max reduce_min reduce_prod reduce_and".split()
    }
    | {name: Rule(index_of_extreme, order_zeros) for name in ("argmax", "argmin")}
    | {name: Rule(all_reduce, sum_zeros) for name in ("psum", "psum_invariant")}
    | {name: Rule(all_reduce, order_zeros) for name in ("pmax", "pmin")}
    | {name: Rule(window, stays) for name in "reduce_window_sum reduce_window_max".split()}
    | {name: Rule(cumulative, running_zeros) for name in "cumprod cummax cummin".split()}
    | {
        "reduce_window_min": Rule(window, stays),
        "reduce": Rule(general_reduce),
        "reduce_window": Rule(general_window),
        "cumsum": Rule(cumulative, cumsum_zeros),
        "cumlogsumexp": Rule(cumulative, logsumexp_zeros),
        "sort": Rule(sort, sort_zeros),
        "top_k": Rule(top_k, top_k_zeros),
        "approx_top_k": Rule(top_k, top_k_zeros),
    },
    TRAITS,
    FIELDS,
)
