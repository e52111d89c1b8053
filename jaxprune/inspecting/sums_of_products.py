"""Arrays as sums of products, as far as a normalization is made of them.

    scale * root * x  -  scale * root * mean  +  bias

is what a BatchNorm comes to in every spelling, folded or not. A factor is a variable, a statistic
of the batch, one over the root of either, or an array of which nothing is known; of all but the
last it is known along which axes they vary. Factors that are one number for the whole array are
left out, but for their sign.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

LIMIT = 12
"""The most products of which a sum is kept."""


class Factor(NamedTuple):
    """One factor of a product.

    kind: `variable` (`of` is its place in the tree), `batch` (`of` are the reductions that it is
      made of), `deviation` and `root` (of a variance plus a constant; `of` are its factors, the
      root is 1 over the deviation), or `array` (`of` is a number).
    axes: where it varies, in the axes of the array; () for an array.
    """

    kind: str
    of: Any
    axes: tuple[int, ...]


Product = tuple[Factor, ...]
Sum = Mapping[Product, int]
"""The products with their signs; the empty product is a number."""

NUMBER: Sum = {(): 1}
Axes = Callable[[tuple[int, ...]], tuple[int, ...] | None]
"""From the axes of a factor to those that it has afterwards, None where it has none."""


def single(kind: str, of: Any, axes: tuple[int, ...] = ()) -> Sum:
    """Returns one factor as a sum."""
    return {(Factor(kind, of, axes),): 1}


def has(product: Product, kind: str) -> bool:
    """True if a factor of the product is of this kind."""
    return any(factor.kind == kind for factor in product)


def is_number(a: Sum) -> bool:
    """True if nothing but one number is known of a sum."""
    return len(a) == 1 and () in a


def plus(a: Sum, b: Sum, sign: int = 1) -> Sum:
    """Returns `a + sign * b`."""
    total = dict(a)
    for product, coefficient in b.items():
        total.setdefault(product, sign * coefficient)
    return total


def times(a: Sum, b: Sum) -> Sum:
    """Returns the product of two sums, multiplied out."""
    total: dict[Product, int] = {}
    for left, first in a.items():
        for right, other in b.items():
            total.setdefault(tuple(sorted(left + right, key=hash)), first * other)
    return total


def folded(a: Sum, number: Any) -> Sum:
    """Returns the sum with all that only an array `number` could be told of taken together.

    What is subtracted and no array stays, for it may be a mean, and so do variables that multiply
    every array in it, for they may be the scale.
    """
    apart = {p: sign for p, sign in a.items() if sign < 0 and statistics(p)}
    arrays = [Counter(p) for p in a if has(p, "array")]
    if not arrays:
        return a
    common = arrays[0]
    for other in arrays[1:]:
        common = common & other
    shared = [f for f in common.elements() if f.kind == "variable"]
    return {tuple(sorted([Factor("array", number, ()), *shared], key=hash)): 1} | apart


def statistics(product: Product) -> bool:
    """True if a product is of variables and of statistics of the batch alone."""
    return bool(product) and all(f.kind in ("variable", "batch") for f in product)


def statistic(a: Sum) -> Factor | None:
    """Returns what a sum is made of if it is a statistic: of one variable, of the batch, or both.

    The result has no kind: it is what a root is `of`, with its axes.
    """
    factors = {factor for product in a for factor in product}
    axes = {factor.axes for factor in factors}
    variables = {factor.of for factor in factors if factor.kind == "variable"}
    known = all(factor.kind in ("variable", "batch") for factor in factors)
    if not known or len(axes) != 1 or len(variables) > 1:
        return None
    return Factor("", frozenset((f.kind, f.of) for f in factors), axes.pop())


def deviation(a: Sum) -> Factor | None:
    """Returns the deviation that a sum is, up to a constant that is added to it."""
    (product, *more) = [product for product in a if product] or [()]
    if more or len(product) != 1 or product[0].kind != "deviation":
        return None
    return product[0]


def moved(a: Sum, axes: Axes, number: Any) -> Sum:
    """Returns the sum after its axes have moved; `number` tells arrays from those before."""
    total: dict[Product, int] = {}
    for product, sign in a.items():
        factors = []
        for factor in product:
            to = axes(factor.axes)
            if to is None:
                return single("array", number)
            of = hash((factor.of, number)) if factor.kind == "array" else factor.of
            factors.append(Factor(factor.kind, of, to))
        total[tuple(sorted(factors, key=hash))] = sign
    return total
