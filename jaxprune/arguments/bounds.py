"""Bounds of a cost: a share of what the whole network costs, or an absolute value."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxprune.arguments.numbers import is_count, is_integer, is_number, plain
from jaxprune.errors import BudgetError


class Share(NamedTuple):
    """A share of what the whole network costs, in (0, 1]: `Share(0.5)` is half of it."""

    value: float


class Absolute(NamedTuple):
    """A cost in its own unit (operations, parameters, bytes), at least 1: `Absolute(10_000)`.

    Of a cost of yours it is any number above 0: `Absolute(2.5e-3)` seconds.
    """

    value: int | float


Bound = Share | Absolute | float | int
"""A number says what it is where it can be one only: below 1 a share, above 1 an absolute value."""


def typed(name: str, bound: Any) -> Share | Absolute:
    """Returns what a bound is.

    Raises:
      BudgetError: it is neither, or 1, which may be either.

    >>> typed("keep_macs", 0.5), typed("keep_params", 10_000), typed("keep_macs", Share(1.0))
    (Share(value=0.5), Absolute(value=10000), Share(value=1.0))
    """
    kind = type(bound) if isinstance(bound, Share | Absolute) else None
    value = plain(bound.value if isinstance(bound, Share | Absolute) else bound)
    number = is_number(value) and value == value
    if kind is None and number and value == 1:
        raise BudgetError(
            f"{name}={bound!r} may be all of the cost, or one.\n"
            f"Fix: {name}=jp.Share(1.0), or {name}=jp.Absolute(1)."
        )
    if kind is not Absolute and number and not is_integer(value) and 0 < value <= 1:
        return Share(float(value))
    if kind is Share and number and value == 1:
        return Share(1.0)
    if kind is not Share and is_count(value):
        return Absolute(int(value))
    raise BudgetError(
        f"{name} must be a share of dense in (0, 1), or a count, an int above 1; got {bound!r}.\n"
        f"Fix: {name}=0.5 keeps half; jp.Share and jp.Absolute say which it is."
    )


def typed_bounds(bounds: Mapping[str, Any]) -> dict[str, Share | Absolute]:
    """Returns {name: bound}; arguments and errors as of `typed`, all failures at once."""
    checked, failures = {}, []
    for name, bound in bounds.items():
        try:
            checked[name] = typed(name, bound)
        except BudgetError as error:
            failures.append(str(error))
    if failures:
        raise BudgetError("\n".join(failures))
    return checked


def typed_costs(bounds: Mapping[Any, Any]) -> dict[Any, Share | Absolute]:
    """Returns {cost: bound}, as `typed_bounds`; an `Absolute` may be any number above 0.

    >>> typed_costs({len: Absolute(2.5e-3)})
    {<built-in function len>: Absolute(value=0.0025)}
    """
    absolute = {
        cost: Absolute(value)
        for cost, bound in bounds.items()
        if isinstance(bound, Absolute)
        and is_number(value := plain(bound.value))
        and 0 < value < float("inf")
    }
    names = {cost: f"bound of {getattr(cost, '__name__', 'a cost')}" for cost in bounds}
    if len(set(names.values())) < len(names):  # two costs of one name
        names = {cost: f"{name} ({i})" for i, (cost, name) in enumerate(names.items())}
    rest = typed_bounds(
        {names[cost]: bound for cost, bound in bounds.items() if cost not in absolute}
    )
    return {cost: absolute[cost] if cost in absolute else rest[names[cost]] for cost in bounds}
