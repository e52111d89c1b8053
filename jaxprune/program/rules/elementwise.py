"""Elementwise primitives: all operands and results share their axes."""

import operator
from typing import Any

from jaxprune.program import jaxpr, reasons
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.base import (
    NONE,
    Axes,
    Exactness,
    Known,
    Rule,
    described,
    either,
    is_zero,
    join,
    meet,
    nothing,
    spread,
    unknown,
)
from jaxprune.program.spaces import Atom, Space
from jaxprune.program.traits import Trait

# Zero at zero.
_KEEPS_ZERO = (
    "abs asin asinh atan atanh ceil conj convert_element_type copy erf erf_inv expm1 "
    "floor imag log1p neg optimization_barrier real reduce_precision round "
    "sharding_constraint sign sin sinh square stop_gradient tan tanh "
    "device_put name pvary ppermute pbroadcast layout_constraint reshard"
).split()
# Zero at zero, where their derivative is infinite.
_ROOTS = "sqrt cbrt".split()
_OTHER = (
    "acos after_all bessel_i0e bessel_i1e cos cosh erfc exp exp2 is_finite "
    "logistic population_count clz one_minus_square polynomial nextafter "
    "eq_to lt_to le_to shift_left shift_right_arithmetic shift_right_logical xor "
    "threefry2x32"
).split()
# Not finite at zero.
_POLES = (
    "acosh digamma igamma igamma_grad_a igammac lgamma log log2 polygamma "
    "regularized_incomplete_beta rsqrt zeta"
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
    """A conversion keeps zeros, and makes of a half the integer zero."""
    (item,) = known
    return [Known(item.zeros, _converted(op, item.value))]


def _converted(op: Op, value: Any) -> Any:
    try:
        return None if value is None else op.params["new_dtype"].type(value).item()
    except (ArithmeticError, TypeError, ValueError):  # no such number in that type
        return None


def _beside_a_value(op: Op, a: Known, b: Known) -> Known | None:
    """The result where one operand has a known value: zero where f(0, value) is."""
    shape = op.out_shapes[0]
    for table, item, value in ((_ZERO_WITH_RIGHT, a, b.value), (_ZERO_WITH_LEFT, b, a.value)):
        if value is not None and len(item.zeros) == len(shape):
            keeps = op.name in table and table[op.name](value)
            return Known(item.zeros, 0 if is_zero(item) else None) if keeps else unknown(shape)
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
    "pow": lambda c: True,
    "and": lambda c: True,
    "or": lambda c: not c,
}
# Left operands c that give zero beside a zero.
_ZERO_WITH_LEFT = {
    key: _ZERO_WITH_RIGHT[key] for key in "add add_any sub mul max min and or".split()
}


_FOLDS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "max": max, "min": min}


def binary(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zero where the operation gives zero for the zeros of its operands."""
    a, b = known
    if op.name in _FOLDS and a.value is not None and b.value is not None:
        return [unknown(op.out_shapes[0])._replace(value=_FOLDS[op.name](a.value, b.value))]
    if op.name == "pow" and not (isinstance(b.value, int | float) and b.value >= 1):
        return fractional_power(op, known, exact)
    if op.name in ("div", "rem"):
        exact.undefined(_zeros(b), op, 1, reasons.DIVIDED_BY)
    result = _beside_a_value(op, a, b)
    if result is not None:
        return [result]
    a, b = (spread(item, op.out_shapes[0]) for item in known)
    if op.name in ("mul", "and"):
        return [join(a, b)]
    if op.name in ("div", "rem"):
        return [Known(tuple(x - y for x, y in zip(a.zeros, b.zeros, strict=True)))]
    return [either(a, b, exact) if op.name in ("max", "min") else meet(a, b)]


def _zeros(item: Known) -> frozenset[Atom]:
    """The groups at whose pruned indices an operand is zero."""
    return frozenset().union(*item.zeros)


def pole(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """No zero survives, and what is infinite at the zeros of the mask cannot be masked."""
    for operand, item in enumerate(known):
        exact.undefined(_zeros(item), op, operand, reasons.INFINITE)
    return nothing(op, known, exact)


def root(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros stay, but the gradient through them would not be a number."""
    exact.steep(_zeros(known[0]), op, 0)
    return keeps_zero(op, known, exact)


def fractional_power(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """A power below 1 is a root, a negative or unknown power a pole; x**0 is 1."""
    base, exponent = known
    if exponent.value == 0:
        return [unknown(op.out_shapes[0])]
    if isinstance(exponent.value, int | float) and exponent.value > 0:
        return root(op, [base], exact)
    return pole(op, [base], exact)


def angle(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """The angle of a vector of two zeros has no derivative; a vector may be zero by the data."""
    for operand, (item, other) in enumerate((known, known[::-1])):
        if not other.value:
            exact.steep(_zeros(item), op, operand)
    return nothing(op, known, exact)


def integer_power(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """0**y is zero for positive y, infinite for negative y."""
    if op.params["y"] < 0:
        return pole(op, known, exact)
    return [Known(known[0].zeros) if op.params["y"] else unknown(op.out_shapes[0])]


def clamps(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """clamp(low, x, high) keeps zero between known bounds."""
    low, item, high = known
    if low.value is None or high.value is None:
        return [Known(item.zeros) if exact.may else unknown(op.out_shapes[0])]
    return [Known(item.zeros) if low.value <= 0 <= high.value else unknown(op.out_shapes[0])]


def exponent(op: Op) -> float | None:
    """The exponent, if it is a number of the program."""
    number = op.params["y"] if "y" in op.params else jaxpr.scalar(op.eqn.invars[1])
    return number if isinstance(number, int | float) else None


TRAITS = {
    "convert_element_type device_put layout_constraint name optimization_barrier pbroadcast pvary "
    "reduce_precision reshard sharding_constraint stop_gradient": Trait.AS_IS | Trait.LINEAR,
    "copy": Trait.AS_IS | Trait.LINEAR | Trait.ORDERED,
    "abs imag neg real": Trait.HOMOGENEOUS,
    "neg": Trait.LINEAR,
    "add add_any sub": Trait.LINEAR | Trait.TOGETHER,
    "max min rem clamp": Trait.TOGETHER,
    "abs clamp conj imag max min real": Trait.BOUNDS,
    "mul": Trait.MULTIPLIES,
    "div": Trait.DIVIDES,
    "eq_to lt_to le_to is_finite": Trait.COMPARES,
    "threefry2x32": Trait.RANDOM,
}
FIELDS = {
    "eq_to lt_to le_to is_finite threefry2x32": {"values": NONE},
    "add add_any": {"weights": (1, 1)},
    "sub": {"weights": (1, -1)},
    "neg": {"weights": (-1,)},
    "square": {"power": lambda op: 2},
    "sqrt": {"power": lambda op: 0.5},
    "rsqrt": {"power": lambda op: -0.5},
    "cbrt": {"power": lambda op: 1 / 3},
    "pow integer_pow": {"power": exponent},
}
RULES = described(
    {name: Rule(elementwise) for name in _OTHER}
    | {name: Rule(each, keeps_zero) for name in _KEEPS_ZERO}
    | {name: Rule(elementwise, binary) for name in _BINARY}
    | {name: Rule(elementwise, pole) for name in _POLES}
    | {name: Rule(elementwise, root) for name in _ROOTS}
    | {
        "atan2": Rule(elementwise, angle),
        "convert_element_type": Rule(elementwise, converts),
        "integer_pow": Rule(elementwise, integer_power),
        "clamp": Rule(elementwise, clamps),
    },
    TRAITS,
    FIELDS,
    every=Trait.ENTRYWISE | Trait.APART,
)
