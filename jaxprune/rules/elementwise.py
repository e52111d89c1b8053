"""Elementwise primitives: all operands and results share their axes."""

from jaxprune import axes as ax
from jaxprune._jaxpr import Op
from jaxprune.axes import Space
from jaxprune.rules.base import (
    Axes,
    Exactness,
    Known,
    Rule,
    is_zero,
    join,
    meet,
    nothing,
    unknown,
)

# Zero at zero.
_KEEPS_ZERO = (
    "abs asin asinh atan atanh cbrt ceil conj convert_element_type copy erf erf_inv expm1 "
    "floor imag log1p neg optimization_barrier real reduce_precision round "
    "sharding_constraint sign sin sinh sqrt square stop_gradient tan tanh psum "
    "psum_invariant device_put name pmax pmin pvary ppermute pbroadcast layout_constraint reshard"
).split()
_OTHER = (
    "acos acosh after_all bessel_i0e bessel_i1e cos cosh erfc exp exp2 is_finite "
    "logistic not population_count clz one_minus_square polynomial "
    "nextafter atan2 eq ne lt le "
    "gt ge eq_to lt_to le_to shift_left shift_right_arithmetic shift_right_logical xor "
    "threefry2x32"
).split()
# Not finite at zero.
_POLES = (
    "digamma igamma igamma_grad_a igammac lgamma log log2 polygamma regularized_incomplete_beta "
    "rsqrt zeta"
).split()
_BINARY = "add add_any sub mul div rem max min pow and or complex".split()


def elementwise(op: Op) -> list[Axes]:
    """Every result has the axes of the operands; scalars and axes of size one follow."""
    shaped = [axes for axes in op.ins if axes]
    constant = all(source is not None for source in op.sources)
    out = [_shared(op, choices, constant) for choices in zip(*shaped, strict=True)]
    return [list(out) for _ in op.out_shapes]


def _shared(op: Op, choices: tuple[Space, ...], constant: bool) -> Space:
    """Ties one axis of all operands; of constants, returns the one that belongs to a variable.

    So a kernel times a gain is still a kernel.
    """
    full = [space for space in choices if space.size != 1] or choices[:1]
    first = full[0]
    for other in full[1:]:
        if other is not first:
            ax.unify(first, other, op)
    owned = (space for space in full if constant and getattr(space, "owner", None) is not None)
    return next(owned, first)


def each(op: Op) -> list[Axes]:
    """Result i has the axes of operand i."""
    return [list(axes) for axes in op.ins]


def keeps_zero(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros stay where they are, operand by operand."""
    return [Known(item.zeros, 0 if is_zero(item) else None) for item in known[: len(op.out_shapes)]]


def converts(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """A conversion keeps values."""
    return [known[0]]


def _scalar_zero(op: Op, a: Known, b: Known) -> Known | None:
    """The result where one operand has a known value: zero where f(0, value) is."""
    shape = op.out_shapes[0]
    if b.value is not None:
        keeps = _ZERO_WITH_RIGHT.get(op.name)
        return Known(a.zeros) if keeps and len(a.zeros) == len(shape) and keeps(b.value) else None
    if a.value is not None:
        keeps = _ZERO_WITH_LEFT.get(op.name)
        return Known(b.zeros) if keeps and len(b.zeros) == len(shape) and keeps(a.value) else None
    return None


# Right operands c that give zero beside a zero.
_ZERO_WITH_RIGHT = {
    "add": lambda c: c == 0,
    "add_any": lambda c: c == 0,
    "sub": lambda c: c == 0,
    "mul": lambda c: abs(c) < float("inf"),
    "div": lambda c: c != 0,
    "rem": lambda c: c != 0,
    "max": lambda c: c <= 0,
    "min": lambda c: c >= 0,
    "pow": lambda c: c > 0,
    "and": lambda c: True,
    "or": lambda c: not c,
}
# Left operands c that give zero beside a zero.
_ZERO_WITH_LEFT = {
    key: _ZERO_WITH_RIGHT[key] for key in "add add_any sub mul max min and or".split()
}


def binary(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zero where the operation gives zero for the zeros of its operands."""
    a, b = known
    found = _scalar_zero(op, a, b)
    if found is not None:
        return [found]
    shape = op.out_shapes[0]
    a, b = (item if len(item.zeros) == len(shape) else _spread(item, shape) for item in (a, b))
    if op.name in ("mul", "and"):
        return [join(a, b)]
    if op.name in ("div", "rem"):
        undefined = frozenset().union(*b.zeros)
        exact.undefined(undefined, op, 1, "divides by a value that the mask makes zero")
        return [Known(tuple(x - y for x, y in zip(a.zeros, b.zeros, strict=True)))]
    if op.name == "pow":
        return pole(op, [a], exact) if b.value is None or b.value < 0 else [unknown(shape)]
    return [meet(a, b)]


def _spread(item: Known, shape: tuple[int, ...]) -> Known:
    """A scalar beside an array."""
    return Known(unknown(shape).zeros, item.value)


def pole(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """No zero survives, and what is infinite at the zeros of the mask cannot be masked."""
    undefined = frozenset().union(*(zeros for item in known for zeros in item.zeros))
    exact.undefined(undefined, op, 0, "is infinite where the mask makes it zero")
    return nothing(op, known, exact)


def integer_power(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """0**y is zero for positive y, infinite for negative y."""
    if op.params["y"] < 0:
        return pole(op, known, exact)
    return [Known(known[0].zeros) if op.params["y"] else unknown(op.out_shapes[0])]


def chooses(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """select_n: zero where every case is zero."""
    result, *rest = known[1:]
    for case in rest:
        result = meet(result, case)
    return [Known(result.zeros, 0 if all(map(is_zero, known[1:])) else None)]


def clamps(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """clamp(low, x, high) keeps zero between known bounds."""
    low, item, high = known
    if low.value is None or high.value is None or not low.value <= 0 <= high.value:
        return [unknown(op.out_shapes[0])]
    return [Known(item.zeros)]


RULES = (
    {name: Rule(elementwise) for name in _OTHER}
    | {name: Rule(each, keeps_zero) for name in _KEEPS_ZERO}
    | {name: Rule(elementwise, binary) for name in _BINARY}
    | {name: Rule(elementwise, pole) for name in _POLES}
    | {
        "convert_element_type": Rule(elementwise, converts),
        "integer_pow": Rule(elementwise, integer_power),
        "select_n": Rule(elementwise, chooses),
        "clamp": Rule(elementwise, clamps),
    }
)
