"""Costs at widths that are real numbers, with branches that stay with a probability."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import check_mapping, kind_of
from jaxprune.arguments.paths import near
from jaxprune.errors import BudgetError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.branches import branches
from jaxprune.inspecting.closed_forms import TermsOf
from jaxprune.inspecting.staying import Stays, staying
from jaxprune.inspecting.terms import Dearest, Product, Term, total
from jaxprune.keep.check import is_branch


def expected_total(graph: ChannelGraph, terms: TermsOf, widths: Mapping[str, Any]) -> Any:
    """Returns a closed form at real widths; see `cost.expected`."""
    at, stay = _numbers(graph, widths)
    shares = {of: _share(item, stay) for of, item in staying(graph).items()} if stay else {}
    return jnp.asarray(total([_weighed(term, shares) for term in terms(graph, None)], at))


def _share(item: Stays, stay: Mapping[str, Any]) -> Any:
    """How much of a term is expected to stay, of branches that are independent of each other."""
    whole, steps = (
        math.prod(stay.get(n, 1.0) for n in names) for names in (item.whole, item.steps)
    )
    return whole * (jnp.mean(steps) if item.by_step else 1 - jnp.prod(1 - jnp.asarray(steps)))


def _weighed(term: Term, shares: Mapping[Any, Any]) -> Term:
    if isinstance(term, Product):
        return term._replace(factor=float(term.factor) * shares.get(term.of, 1.0))
    if isinstance(term, Dearest):
        return Dearest([[_weighed(item, shares) for item in part] for part in term.alternatives])
    raise BudgetError(
        "a cost by a table of latencies is known at whole widths only, which cannot be traced.\n"
        "Fix: another closed form, such as jp.cost.macs; or select.budget or plan.milp, which take "
        "such a table."
    )


def _numbers(graph: ChannelGraph, widths: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the widths of groups, and what branches stay with.

    Raises:
      BudgetError: a name is unknown, or a number is none from 0 to the size; all are listed.
    """
    given = check_mapping(widths, "widths", "{group: its expected width}", BudgetError)
    known, failures = branches(graph), []
    for name, value in given.items():
        of_branch = is_branch(name)
        item = (known if of_branch else graph.groups).get(name) if isinstance(name, str) else None
        if item is None:
            some = near(name, names := list(known if of_branch else graph.groups)) or names[:5]
            failures.append(f"widths name {name!r}, which the graph does not have; near: {some}")
            continue
        shapes = {(), known[name].shape} if of_branch else {()}
        most = 1 if of_branch else graph.groups[name].size
        if not _in_range(value, shapes, most):
            failures.append(
                f"the expected width of {name!r} must be a number from 0 to {most}, got "
                f"{kind_of(value)}"
            )
    if failures:
        fix = "Fix: {group: number, branch: probability}; print(graph) lists the names."
        raise BudgetError("\n".join([*failures, fix]))
    arrays = {name: jnp.asarray(value, jnp.result_type(float)) for name, value in given.items()}
    at = {name: value for name, value in arrays.items() if not is_branch(name)}
    return at, {name: value for name, value in arrays.items() if name not in at}


def _in_range(value: Any, shapes: set[tuple[int, ...]], most: int) -> bool:
    """True for real numbers of one of the shapes, from 0 to `most` where they can be seen."""
    if isinstance(value, Tracer):
        return value.shape in shapes and jnp.issubdtype(value.dtype, jnp.floating)
    try:
        numbers = np.asarray(value)
    except (TypeError, ValueError):  # ragged lists, keys
        return False
    real = jnp.issubdtype(numbers.dtype, jnp.floating) or numbers.dtype.kind in "iu"
    return (
        real and numbers.shape in shapes and bool((numbers >= 0).all() and (numbers <= most).all())
    )
