"""Learned gates held to costs, widths and a depth by Lagrange multipliers."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.arguments.bounds import Absolute, Bound, typed_costs
from jaxprune.arguments.checks import check_mapping, kind_of
from jaxprune.arguments.numbers import check_count, is_count, is_integer, plain
from jaxprune.errors import BudgetError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.kinds import matching
from jaxprune.inspecting import cost
from jaxprune.inspecting.branches import branches as branches_of
from jaxprune.keep.check import is_branch

Multipliers = dict[str, dict[str, jax.Array]]
"""{constraint: {"linear": f32[], "quadratic": f32[]}}."""
Measure = Callable[[Mapping[str, Any]], jax.Array]
"""From the open probabilities to a share of dense."""


class Constraint(NamedTuple):
    """A share of dense that the open gates shall come to."""

    measure: Measure
    target: float


class Lagrangian(NamedTuple):
    """What holds learned gates to targets, as pure functions; each may be jitted.

    init: () -> multipliers, all zero; trained beside the gates, upward.
    penalty: (open, multipliers, step) -> f32[], added to the loss.
    gaps: open -> {constraint: f32[]}, share of dense less the final target.
    targets: {constraint: the final share of dense}.
    """

    init: Callable[[], Multipliers]
    penalty: Callable[[Mapping[str, Any], Multipliers, Any], jax.Array]
    gaps: Callable[[Mapping[str, Any]], dict[str, jax.Array]]
    targets: Mapping[str, float]


def lagrangian(
    graph: ChannelGraph,
    *,
    bounds: Mapping[cost.Cost, Bound] | None = None,
    widths: Mapping[Any, int] | None = None,
    depth: int | None = None,
    warmup: int = 0,
) -> Lagrangian:
    """Returns the constraints of learned gates: costs, widths of groups, and a depth.

      penalty = sum over constraints of  linear * gap + quadratic * gap^2
      gap = share of dense that the open gates come to - target at this step
      target at this step = 1 - (1 - target) * min(step / warmup, 1)

    The share of a cost is the closed form at the expected widths (`jp.cost.expected`) over dense,
    of a width the expected number of open channels over all, of a stack that of the layer that has
    most (all keep as many), and of the depth the expected number of open branches over all. Each
    gap becomes zero, from either side. The gates descend and the multipliers ascend, with one
    optimizer for both:

      trained = {"gates": gates.init(), "multipliers": held.init()}
      ascent = optax.chain(optax.scale(-1.0), optax.adam(0.1))
      labels = {"gates": "down", "multipliers": "up"}
      optimizer = optax.partition({"down": optax.adam(0.1), "up": ascent}, labels)

    The expected cost meets its target. Gates that have not decided make the cut at their zeros
    (`jp.gates.kept`) cost somewhat more or less: `jp.select.budget(graph, gates.open(params),
    bounds=...)` meets it to the channel, with those that are open with the highest probability, as
    the sources do. Gates that drift far have no gradient any more:
    `optax.projections.projection_box` keeps log alpha within 4.6, as the sources do.

    Args:
      graph: what `jaxprune.trace` returned.
      bounds: {closed-form cost: bound}, below 1 the share of dense, above 1 an absolute value.
      widths: {name, pattern or kind: how many channels each of its groups keeps}; later ones win.
      depth: how many branches stay, those without gates among them; steps of a scan count each.
      warmup: how many steps the targets take from dense to where they shall be; 0 for none.

    Raises:
      BudgetError: there is no constraint, a cost is not a closed form, or a number makes no sense;
        from `penalty` and `gaps`: `open` names what the graph does not have, or has no gates of
        a group or of any branch that is held.
      PatternError: a pattern matches nothing.

    Warns:
      UncountedWarning: a cost leaves out operations (`jp.cost.uncounted`).

    Source: Xia et al., "Structured Pruning Learns Compact and Accurate Models", ACL 2022
    (linear and quadratic terms of the sparsity); Xia et al., "Sheared LLaMA", ICLR 2024, section
    2.1 (a pair of multipliers for every width). There a cost is that of products of gates entry by
    entry; here it is the closed form at the expected widths.

    >>> import jax.numpy as jnp, jaxprune as jp
    >>> v = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 1))}
    >>> graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, jnp.ones((4, 2)))
    >>> held = jp.gates.lagrangian(graph, bounds={jp.cost.macs: 0.5}, widths={"a": 3})
    >>> {name: float(gap) for name, gap in held.gaps({"a": jnp.ones(4)}).items()}
    {'macs': 0.5, 'a': 0.25}
    """
    check_graph(graph)
    warmup = check_count(warmup, "warmup", "warmup=640.", BudgetError, least=0)
    kinds = _costs(graph, bounds), _widths(graph, widths), _depth(graph, depth)
    constraints = {name: item for kind in kinds for name, item in kind.items()}
    if not constraints:
        raise BudgetError(
            "lagrangian has no constraint.\nFix: bounds={jp.cost.macs: 0.5} keeps half."
        )
    if len(constraints) < sum(map(len, kinds)):
        raise BudgetError(
            f"two of the constraints {[n for kind in kinds for n in kind]} have one name.\n"
            "Fix: rename the variable whose group has the name of a cost, or 'depth'."
        )
    cost.warn_uncounted(graph, bounds or (), stacklevel=2)

    def init() -> Multipliers:
        pair = ("linear", "quadratic")
        return {name: {each: jnp.zeros(()) for each in pair} for name in constraints}

    def penalty(open: Mapping[str, Any], multipliers: Multipliers, step: Any) -> jax.Array:
        _check_multipliers(multipliers, constraints)
        _check_open(graph, open)
        ramp = jnp.minimum(step / warmup, 1.0) if warmup else 1.0
        total = jnp.zeros(())
        for name, item in constraints.items():
            gap = item.measure(open) - (1 - (1 - item.target) * ramp)
            pair = multipliers[name]
            total += pair["linear"] * gap + pair["quadratic"] * jnp.square(gap)
        return total

    def gaps(open: Mapping[str, Any]) -> dict[str, jax.Array]:
        _check_open(graph, open)
        return {name: item.measure(open) - item.target for name, item in constraints.items()}

    return Lagrangian(
        init, penalty, gaps, {name: item.target for name, item in constraints.items()}
    )


def expected_widths(graph: ChannelGraph, open: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Returns {group: expected width, branch: probability that it stays}, for `jp.cost.expected`.

    Of a group it is the sum of what its gates are open with, of stacked layers the largest one.

    Args:
      graph: what `jaxprune.trace` returned.
      open: {group: f32[n], branch: f32[]}, such as `jp.gates.learned(...).open(params)`.

    Raises:
      BudgetError: a name is unknown, or its value is not of the shape of its gates.

    >>> import jax.numpy as jnp, jaxprune as jp
    >>> v = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}
    >>> graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, jnp.ones((4, 2)))
    >>> float(jp.gates.expected_widths(graph, {"a": jnp.array([1.0, 0.5, 0.0])})["a"])
    1.5
    """
    _check_open(graph, open)
    return {
        name: jnp.asarray(each) if is_branch(name) else jnp.max(jnp.sum(each, axis=-1))
        for name, each in open.items()
    }


def _costs(graph: ChannelGraph, bounds: Any) -> dict[str, Constraint]:
    given = check_mapping({} if bounds is None else bounds, "bounds", "{cost: bound}", BudgetError)
    constraints: dict[str, Constraint] = {}
    for price in given:
        if cost.terms_of(price) is None:
            raise BudgetError(
                f"{kind_of(price)} is not a closed form, so it has no gradient by the widths.\n"
                "Fix: jp.cost.macs, activation_bytes, params, weights, weight_bytes() or "
                "state_bytes()."
            )
    for price, bound in typed_costs(given).items():
        dense = price(graph, None)
        share = bound.value / dense if isinstance(bound, Absolute) else bound.value
        name = price.__name__
        if not 0 < share <= 1:
            raise BudgetError(
                f"the bound {bound.value} of {name} is more than all of it, {dense}.\n"
                "Fix: a share of dense below 1, or less than what it costs now."
            )
        name = name if name not in constraints else f"{name}#{len(constraints) + 1}"
        constraints[name] = Constraint(partial(_cost_share, graph, price, dense), share)
    return constraints


def _cost_share(graph: ChannelGraph, price: Any, dense: Any, open: Mapping[str, Any]) -> jax.Array:
    return cost.expected(graph, price, expected_widths(graph, open)) / dense


def _widths(graph: ChannelGraph, widths: Any) -> dict[str, Constraint]:
    given = check_mapping({} if widths is None else widths, "widths", "{group: int}", BudgetError)
    constraints: dict[str, Constraint] = {}
    for key, count in given.items():
        for name in graph.groups:
            if name not in matching(graph, [key], graph.groups, what="widths pattern"):
                continue
            size = graph.groups[name].size
            if not is_count(count) or plain(count) > size:
                raise BudgetError(
                    f"widths: {key!r} asks {count!r} of group {name!r}, which has {size} "
                    f"channels.\nFix: an int from 1 to {size}."
                )
            constraints[name] = Constraint(partial(_width_share, graph, name), plain(count) / size)
    return constraints


def _width_share(graph: ChannelGraph, name: str, open: Mapping[str, Any]) -> jax.Array:
    if name not in open:
        raise BudgetError(
            f"the width of group {name!r} is held, but it has no gates.\nFix: name groups of "
            "jp.gates.learned(...).init() in widths; refused says why others have none."
        )
    return expected_widths(graph, {name: open[name]})[name] / graph.groups[name].size


def _depth(graph: ChannelGraph, depth: Any) -> dict[str, Constraint]:
    if depth is None:
        return {}
    known = branches_of(graph)
    every = sum(item.steps or 1 for item in known.values())
    if not (is_integer(depth) and 0 <= plain(depth) <= every):
        raise BudgetError(
            f"depth must be an int from 0 to {every}, the number of branches, got {depth!r}.\n"
            "Fix: leave depth out to have no such constraint."
        )

    def share(open: Mapping[str, Any]) -> jax.Array:
        if not any(name in open for name in known):
            raise BudgetError(
                "the depth is held, but no branch has a gate.\n"
                "Fix: jp.gates.learned(graph, law, branches='*')."
            )
        total = jnp.zeros(())
        for name, item in known.items():
            total += jnp.mean(jnp.asarray(open.get(name, 1.0))) * (item.steps or 1)
        return total / every

    return {"depth": Constraint(share, plain(depth) / every)}


def _check_open(graph: ChannelGraph, open: Any) -> None:
    """Raises BudgetError unless these are numbers for gates of the graph, in their shapes."""
    check_graph(graph)
    given = check_mapping(open, "open", "learned(...).open(params)", BudgetError)
    shapes = {name: group.shape for name, group in graph.groups.items()}
    shapes |= {name: item.shape for name, item in branches_of(graph).items()}
    failures = [
        f"{name!r}: expected f32{list(shapes.get(name, ()))}, got {kind_of(value)}"
        if name in shapes
        else f"{name!r} is neither a group nor a branch of the graph"
        for name, value in given.items()
        if name not in shapes
        or getattr(value, "shape", None) != shapes[name]
        or not jnp.issubdtype(value.dtype, jnp.floating)
    ]
    if failures:
        fix = "Fix: open = learned(graph, law).open(params), of the same graph."
        raise BudgetError("\n".join(["open is not that of gates of the graph:", *failures, fix]))


def _check_multipliers(multipliers: Any, constraints: Mapping[str, Constraint]) -> None:
    what = "multipliers"
    given = check_mapping(multipliers, what, "the tree that init() gives", BudgetError)
    fits = given.keys() == constraints.keys() and all(
        isinstance(pair, Mapping)
        and set(pair) == {"linear", "quadratic"}
        and all(getattr(value, "shape", None) == () for value in pair.values())
        for pair in given.values()
    )
    if not fits:
        raise BudgetError(
            f"multipliers are not those of the constraints {list(constraints)}.\n"
            "Fix: multipliers = lagrangian(graph, ...).init(), of the same constraints."
        )
