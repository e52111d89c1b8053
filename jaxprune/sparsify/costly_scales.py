"""Soft thresholding of BatchNorm scales, the harder the more their channels cost."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from jaxprune.arguments.checks import check_mapping
from jaxprune.arguments.numbers import is_number, plain
from jaxprune.errors import JaxpruneError, PatternError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.constraints import few
from jaxprune.groups.members import members_of
from jaxprune.inspecting.batch_norms import batch_norms
from jaxprune.sparsify.penalty import (
    Leaves,
    PenaltyState,
    check_strength,
    on_variables,
    value_at,
)


def ista(
    graph: ChannelGraph,
    costs: Mapping[str, float],
    strength: float | optax.Schedule,
    *,
    learning_rate: float | optax.Schedule,
) -> optax.GradientTransformationExtraArgs:
    """Steps the scales of BatchNorms by gradient and soft threshold, without momentum.

      z = scale - learning_rate * gradient
      scale  <-  sign(z) * max(|z| - learning_rate * strength * cost, 0)

    where cost is that of the scale's channel, over the mean of all these channels. It is the whole
    optimizer of the scales: it takes their gradients and gives the finished update. Those that no
    group has (frozen ones) step without a threshold. All else it hands on, for another optimizer:

      scales = jp.scale_mask(variables, graph)
      others = jax.tree.map(lambda scale: not scale, scales)
      tx = optax.chain(
          optax.masked(optax.sgd(0.1, momentum=0.9), others),
          jp.sparsify.ista(graph, costs, 1e-3, learning_rate=0.1),
      )

    Small weights with large scales would make scales fall slowly: `rescale_scales` comes before.
    At the end, channels of which every scale is zero are constants, which the readers take:

      keep = jp.select.threshold(graph, jp.scores.bn_scale(graph, variables), threshold=0)
      absorbed = jp.recover.absorb_constants(graph, variables, keep)
      small = jp.slice(graph, absorbed.variables, keep)

    Args:
      graph: what `jaxprune.trace` returned.
      costs: {group: cost of a channel}, at least 0, for every group with a BatchNorm scale:
        `jp.cost.channel_cost(graph, jp.cost.params)`, or of any cost.
      strength: coefficient (the paper's rho), at least 0, or a schedule of it.
      learning_rate: of the scales, at least 0, or a schedule of it.

    Returns:
      A transformation whose `update` needs `params`, the parameters alone or the whole variables.

    Raises:
      JaxpruneError: a group has no cost, a cost is negative or all are 0, or a number is negative
        or not finite.
      PatternError: no group has a BatchNorm scale.
      TreeError: (from `init`) the parameters lack a scale of the graph, or it has another shape.

    Source: Ye et al., "Rethinking the Smaller-Norm-Less-Informative Assumption in Channel Pruning
    of Convolution Layers", ICLR 2018, section 4. Its costs are parameters and activations over
    the area of the input; only their proportions count here.

    >>> import jax, jax.numpy as jnp, optax, jaxprune as jp
    >>> v = {"scale": jnp.array([1.0, 0.25]), "a": jnp.ones((1, 2)), "b": jnp.ones((2, 1))}
    >>> v |= {"mean": jnp.zeros(2), "var": jnp.ones(2)}
    >>> def fn(v, x):
    ...     x = (x @ v["a"] - v["mean"][None]) * jax.lax.rsqrt(v["var"] + 1e-5)[None]
    ...     return (x * v["scale"][None]) @ v["b"]
    >>> graph = jp.trace(fn, v, jnp.ones((1, 1)))
    >>> tx = jp.sparsify.ista(graph, {"a": 3}, 0.5, learning_rate=1.0)
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, v), tx.init(v), v)
    >>> optax.apply_updates(v, updates)["scale"].tolist()
    [0.5, 0.0]
    """
    name = "ista"
    weights = _weights(graph, costs)
    strength = check_strength(name, "strength", strength, "start from 1e-3.")
    learning_rate = check_strength(name, "learning_rate", learning_rate, "start from 1e-2.")

    def change(state: PenaltyState, values: Leaves, old: Leaves) -> tuple[Leaves, PenaltyState]:
        rate = value_at(learning_rate, state.step)
        limit = rate * value_at(strength, state.step)
        changed = {}
        for path, value in values.items():
            scale = jnp.asarray(value)
            stepped = scale - rate * old[path]
            shrunk = jnp.sign(stepped) * jnp.maximum(jnp.abs(stepped) - limit * weights[path], 0)
            changed[path] = (shrunk - scale).astype(scale.dtype)
        return changed, state

    return on_variables(name, graph, weights, change)


def _weights(graph: ChannelGraph, costs: Any) -> dict[str, np.ndarray]:
    """Returns {scale: f32 of its shape}: what each entry costs; 0 where no group has it."""
    check_graph(graph)
    scales = [norm.scale for norm in batch_norms(graph).values() if norm.scale is not None]
    slots = members_of(graph, lambda slot: slot.path in scales)
    if not slots:
        raise PatternError("ista: no group has a BatchNorm scale.\nFix: print(graph) shows them.")
    each = _checked(slots, costs)
    sizes = {
        name: np.prod(graph.groups[name].shape) * len(scaled) for name, scaled in slots.items()
    }
    mean = sum(each[name] * size for name, size in sizes.items()) / sum(sizes.values())
    weights = {path: np.zeros(graph.variables[path].shape, np.float32) for path in scales}
    for name, scaled in slots.items():
        for slot in scaled:
            np.moveaxis(weights[slot.path], slot.axis, -1)[..., slot.positions] = each[name] / mean
    return weights


def _checked(groups: Mapping[str, Any], costs: Any) -> dict[str, float]:
    fix = "Fix: costs=jp.cost.channel_cost(graph, jp.cost.params)."
    given = check_mapping(costs, "ista: costs", "{group: cost of a channel}", JaxpruneError)
    bad = [
        f"{name!r} has {given.get(name, 'none')!r}"
        for name in groups
        if not (is_number(given.get(name)) and 0 <= plain(given[name]) < np.inf)
    ]
    if bad:
        raise JaxpruneError(f"ista: costs must be numbers of at least 0: {few(bad)}.\n{fix}")
    plain_costs = {name: float(plain(given[name])) for name in groups}
    if not any(plain_costs.values()):
        raise JaxpruneError(f"ista: all costs are 0, so no scale would shrink.\n{fix}")
    return plain_costs
