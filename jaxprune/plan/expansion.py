"""Widths that grow: all of them by one factor, as far as a budget goes."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from jaxprune.arguments.bounds import Absolute, Bound, typed_costs
from jaxprune.arguments.checks import check_callable, check_mapping, kind_of
from jaxprune.arguments.numbers import check_count
from jaxprune.errors import BudgetError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import cost
from jaxprune.inspecting.closed_forms import split_widths
from jaxprune.inspecting.terms import Dearest, Lookup, Term, total
from jaxprune.inspecting.without_branches import Without

_BISECTIONS = 60


class Expansion(NamedTuple):
    """Widths of a network that is as dear as a budget allows.

    widths: {group: width}, of the groups that were given; they may be larger than traced.
    factor: what the widths that were given were multiplied by, before they were rounded.
    costs: {cost: what the network costs at these widths}.
    """

    widths: dict[str, int]
    factor: float
    costs: dict[str, Any]


def expand(
    graph: ChannelGraph,
    widths: Mapping[str, Any],
    *,
    bounds: Mapping[cost.Cost, Bound],
    multiple_of: int = 1,
) -> Expansion:
    """Returns round(factor * widths) for the largest factor whose costs are within every bound.

    A keep can only shrink a network: a wider one is built anew, by its own code, at these widths,
    and trained from scratch. It is the second half of MorphNet: a network is cut, which says how
    wide its layers should be to each other, and then widened to the budget that it had before.

    Args:
      graph: of the network whose costs are known; for what is left of it, pass its keep.
      widths: {group: kept count} or a keep, with branches that are gone: what is multiplied. Groups
        that are absent stay as they were traced, as those whose size the code cannot change.
      bounds: {closed-form cost: bound}, below 1 the share of dense, above 1 an absolute value,
        which may be more than dense. `jp.Share(1.0)` is as much as the dense network.
      multiple_of: what the widths are rounded to multiples of; they are at least that.

    Raises:
      BudgetError: no bound, a cost that is not a closed form, is from a table of latencies or is
        changed by none of the groups, or a bound below the cost of the smallest widths.
      KeepError: `widths` do not fit the graph.

    Warns:
      UncountedWarning: a cost leaves out operations (`jp.cost.uncounted`).

    Source: Gordon et al., "MorphNet", CVPR 2018, algorithm 1.

    >>> import jax.numpy as jnp, jaxprune as jp
    >>> def init(first=8, second=8):
    ...     return {"a": jnp.ones((2, first)), "b": jnp.ones((first, second)),
    ...             "c": jnp.ones((second, 2))}
    >>> fn = lambda v, x: x @ v["a"] @ v["b"] @ v["c"]
    >>> graph = jp.trace(fn, init(), jnp.ones((1, 2)))
    >>> found = jp.plan.expand(graph, {"a": 2, "b": 6}, bounds={jp.cost.macs: jp.Share(1.0)})
    >>> found.widths, found.costs, jp.cost.macs(graph)
    ({'a': 4, 'b': 13}, {'macs': 86}, 96)
    >>> wider = init(first=found.widths["a"], second=found.widths["b"])
    >>> fn(wider, jnp.ones((1, 2))).shape
    (1, 2)
    """
    multiple = check_count(multiple_of, "multiple_of", "multiple_of=8.", BudgetError)
    given = check_mapping(widths, "widths", "{group: width}", BudgetError)
    at, gone = split_widths(graph, given)
    scaled = {name: at[name] for name in at if name in given}
    if not scaled:
        raise BudgetError("widths hold no group to widen.\nFix: widths=jp.widths(graph, keep).")
    limits = _limits(graph, bounds, gone)
    cost.warn_uncounted(graph, [limit.price for limit in limits], stacklevel=2)

    def rounded(factor: float) -> dict[str, int]:
        return {
            name: multiple * max(1, math.floor(factor * width / multiple + 0.5))
            for name, width in scaled.items()
        }

    def fits(factor: float) -> bool:
        return all(limit.total(at | rounded(factor)) <= limit.value for limit in limits)

    _check_limits(limits, at, rounded)
    low, high = 0.0, 1.0
    while fits(high):
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    widest = rounded(low)
    return Expansion(widest, low, {limit.name: limit.total(at | widest) for limit in limits})


class _Limit(NamedTuple):
    """A bound of a closed form, which is a function of widths of any size."""

    name: str
    price: cost.Cost
    value: Any
    total: Callable[[Mapping[str, int]], Any]


def _limits(graph: ChannelGraph, bounds: Any, gone: Without | None) -> list[_Limit]:
    given = check_mapping(bounds, "bounds", "{cost: bound}", BudgetError)
    for price in given:
        check_callable(price, "bounds: a cost", "bounds={jp.cost.macs: 0.5}.", BudgetError)
    if not given:
        raise BudgetError("there is no bound.\nFix: bounds={jp.cost.macs: jp.Share(1.0)}.")
    limits: list[_Limit] = []
    for price, bound in typed_costs(given).items():
        terms = cost.terms_of(price)
        parts = [] if terms is None else list(terms(graph, gone))
        if terms is None or _measured(parts):
            what = f"{kind_of(price)} is not a closed form" if terms is None else "a table ends"
            raise BudgetError(
                f"{what}, so it has no value beyond the traced widths.\nFix: jp.cost.macs, "
                "activation_bytes, params, weights, weight_bytes() or state_bytes()."
            )
        dense = price(graph, None)
        value = bound.value if isinstance(bound, Absolute) else bound.value * dense
        name = getattr(price, "__name__", "a cost")
        name = name if all(name != item.name for item in limits) else f"{name}#{len(limits) + 1}"
        limits.append(_Limit(name, price, value, lambda at, parts=parts: total(parts, at)))
    return limits


def _measured(terms: Iterable[Term]) -> bool:
    """True if a term is from a table, which says nothing of wider layers."""
    return any(
        any(map(_measured, term.alternatives))
        if isinstance(term, Dearest)
        else isinstance(term, Lookup)
        for term in terms
    )


def _check_limits(
    limits: list[_Limit],
    at: Mapping[str, int],
    rounded: Callable[[float], dict[str, int]],
) -> None:
    """Raises BudgetError for limits that the smallest widths exceed, or that no width changes."""
    failures = []
    for limit in limits:
        least = limit.total({**at, **rounded(0.0)})
        if least > limit.value:
            failures.append(
                f"{limit.name} is bounded by {limit.value:,}, but is {least:,} at the smallest "
                "widths"
            )
    if all(limit.total({**at, **rounded(2.0**20)}) <= limit.value for limit in limits):
        failures.append("no width of these groups brings the costs to their bounds")
    if failures:
        fix = "Fix: a higher bound, or widths of groups that the costs depend on."
        raise BudgetError("\n".join([*failures, fix]))
