"""Finds the constants by which a network hides the size of a pruned axis.

A mean divides by the number of channels, attention by the root of the head size. A jaxpr shows
only the number. It is taken for a size where a sum over a prunable axis, or a contraction of two
activations over it, is scaled by that size or its root, and where an array is scaled by the root of
the size of its own axis (an embedding), if that is above 4: two and a half stand in many
activations. A chance hit marks a group inexact that is exact: the safe side.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxprune._jaxpr import Op
from jaxprune.rules import Known
from jaxprune.rules.base import Exactness

_MOVES = frozenset("convert_element_type neg reshape broadcast_in_dim squeeze transpose".split())
_FOLDS: dict[str, Callable[..., Any]] = {
    "convert_element_type": lambda x: x,
    "broadcast_in_dim": lambda x: x,
    "reshape": lambda x: x,
    "squeeze": lambda x: x,
    "neg": lambda x: -x,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": lambda x, y: x**y,
}
_TOLERANCE = 5e-3  # a bfloat16 constant


def follow(
    op: Op, operands: Sequence[Known], results: list[Known], exact: Exactness
) -> list[Known]:
    """Adds to `results` which constants, sums and factors they are; reports hidden sizes."""
    if len(results) != 1:
        return results
    (result,) = results
    if op.name in _FOLDS and all(item.value is not None for item in operands):
        return [result._replace(value=_fold(op, [item.value for item in operands]))]
    if op.name in _MOVES:
        item = operands[0]
        return [result._replace(sums=item.sums, factors=item.factors)]
    if op.name in ("mul", "div"):
        return [_scaled(op, operands, result, exact)]
    if op.name == "reduce_sum":
        spaces = [op.ins[0][axis] for axis in op.params["axes"]]
        groups = frozenset().union(*map(exact.groups, spaces))
        size = math.prod(space.size for space in spaces)
        return [result._replace(sums=frozenset({(groups, size)}))]
    if op.name == "reduce_window_sum":
        size = math.prod(op.params["window_dimensions"])
        return [result._replace(sums=frozenset({(frozenset(), size)}))]
    if op.name == "dot_general" and all(source is None for source in op.sources):
        return [_contracted(op, operands, result, exact)]
    return results


def _fold(op: Op, values: Sequence[Any]) -> Any:
    try:
        with np.errstate(all="ignore"):
            return _FOLDS[op.name](*values)
    except (ArithmeticError, TypeError, ValueError):
        return None


def _scaled(op: Op, operands: Sequence[Known], result: Known, exact: Exactness) -> Known:
    """A product or quotient with a constant: is the constant the size of a sum?"""
    item, other = operands
    if other.value is None and op.name == "mul":
        item, other = other, item
    constant = other.value
    if constant is None or np.ndim(constant) or constant == 0 or np.iscomplexobj(constant):
        return result
    for groups, size in item.sums:
        if _is_power(constant, size, (0.5, 1.0)):
            exact.inexact(groups, op, f"scales by {constant:.6g}, which follows the size {size}")
    if not any(_is_power(constant, size, (1.0,)) for _, size in item.sums):
        for space in op.outs[0]:
            if space.size > 4 and _is_power(constant, space.size, (0.5,)):
                why = f"scales by {constant:.6g}, which follows the size {space.size}"
                exact.inexact(exact.groups(space), op, why)
    return result._replace(sums=item.sums, factors=item.factors | {float(constant)})


def _contracted(op: Op, operands: Sequence[Known], result: Known, exact: Exactness) -> Known:
    """A contraction of activations is a sum, and what scaled its operands scales it."""
    contracted = op.params["dimension_numbers"][0][0]
    spaces = [op.ins[0][axis] for axis in contracted]
    groups = frozenset().union(*map(exact.groups, spaces))
    size = math.prod(space.size for space in spaces)
    for item in operands:
        for constant in item.factors:
            if groups and _is_power(constant, size, (0.25, 0.5, 1.0)):
                why = f"an operand is scaled by {constant:.6g}, which follows the size {size}"
                exact.inexact(groups, op, why)
    return result._replace(sums=frozenset({(groups, size)})) if groups else result


def _is_power(constant: Any, size: int, powers: Sequence[float]) -> bool:
    """True if the constant is size**p or size**-p."""
    if size < 2 or not np.isreal(constant) or constant <= 0:
        return False
    found = abs(math.log(float(constant)) / math.log(size))
    return any(abs(found - p) * math.log(size) < _TOLERANCE for p in powers)
