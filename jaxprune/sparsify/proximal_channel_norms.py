"""Penalties on the norms of channels by their proximal operators, which make them exactly zero."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune.arguments.checks import check_callable
from jaxprune.arguments.dtypes import wide
from jaxprune.errors import JaxpruneError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.channels import norms, spread
from jaxprune.groups.constraints import Groups
from jaxprune.sparsify.penalty import (
    Leaves,
    PenaltyState,
    check_strength,
    on_variables,
    value_at,
)
from jaxprune.sparsify.sections import Sets, penalized

Prox = Callable[[jax.Array, jax.Array], jax.Array]
"""From the norms of a group's channels, f[n], and the weight of the penalty to smaller norms."""


def proximal_structured(
    graph: ChannelGraph,
    prox: Prox,
    *,
    learning_rate: float | optax.Schedule,
    strength: float | optax.Schedule = 1.0,
    roles: Collection[str] = ("out",),
    over: Sets | None = None,
    only: Groups | None = None,
    protect: Groups = (),
) -> optax.GradientTransformationExtraArgs:
    """Shrinks the norms of channels by a proximal operator, after the step of the optimizer.

      z = w + update                                     what the optimizer alone would give
      w  <-  z * prox(norms, learning_rate * strength)[c] / norms[c],    norms[c] = ||z_c||_2

    with z_c as v_c of `structured`. Where no two of them share an entry, as the filters of
    convolutions with `roles=("out",)`, it is the exact proximal step of the penalty; of shared
    entries every one takes its factor. Its place in a chain is last. Unlike with `structured` the
    penalty is in no momentum and norms become exactly zero; a gradient may bring them back.

    Args:
      graph: what `jaxprune.trace` returned.
      prox: from the norms of one group, f[n], and the weight of the penalty to the norms after it:
        `lambda n, t: jnp.maximum(n - t, 0)` is that of the group lasso, and
        `lambda n, t: growl_prox(n, t * growl_weights(n.size, base=1.0, step=0.1))` that of GrOWL.
      learning_rate: that of the optimizer, at least 0, or the same schedule.
      strength: coefficient, at least 0, or a schedule of it.
      roles: the slots whose entries z_c holds: "out", "in" or both.
      over: sets of weights in the place of channels: `shapes(graph)` or `depth(graph)`, in whose
        exactly zero branches `jp.slice` finds nothing to lose.
      only: names, patterns or kinds of the only groups that are penalized; all by default.
      protect: names, patterns or kinds of groups that are not penalized.

    Returns:
      A transformation whose `update` needs `params`, the parameters alone or the whole variables.

    Raises:
      JaxpruneError: `strength` or `learning_rate` is negative or not finite, a role is unknown, or
        (from `update`) `prox` gives norms of another shape.
      PatternError: a pattern matches nothing, or no group is left.
      TreeError: (from `init`) the parameters lack a kernel of the graph, or it has another shape.

    Source: Parikh and Boyd, "Proximal Algorithms", 2014, sections 4.2 and 6.5.

    >>> import jaxprune as jp
    >>> params = {"a": jnp.array([[3.0, 0.5]]), "b": jnp.array([[4.0], [1.0]])}
    >>> graph = jp.trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
    >>> tx = proximal_structured(graph, lambda n, t: jnp.maximum(n - t, 0), learning_rate=1.0)
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> optax.apply_updates(params, updates)["a"].tolist()
    [[2.0, 0.0]]
    """
    name = "proximal_structured"
    strength = check_strength(name, "strength", strength, "start from 1e-5.")
    learning_rate = check_strength(name, "learning_rate", learning_rate, "that of the optimizer.")
    check_callable(prox, f"{name}: prox", "lambda n, t: jnp.maximum(n - t, 0).")
    groups = penalized(name, graph, roles, over, usual=("out",), only=only, protect=protect)
    kernels = [slot.path for slots in groups.values() for slot in slots]

    def change(state: PenaltyState, values: Leaves, old: Leaves) -> tuple[Leaves, PenaltyState]:
        weight = value_at(strength, state.step) * value_at(learning_rate, state.step)
        stepped = {path: wide(jnp.asarray(leaf)) + old[path] for path, leaf in values.items()}
        shrunk = dict(stepped)
        for slots in groups.values():
            before = norms(slots, stepped)
            factors = _after(prox, before, weight) / jnp.where(before > 0, before, 1)
            for slot in slots:
                shrunk[slot.path] *= spread(factors, slot, shrunk[slot.path])
        return {
            path: (leaf - values[path]).astype(old[path].dtype) for path, leaf in shrunk.items()
        }, state

    return on_variables(name, graph, kernels, change)


def _after(prox: Prox, before: jax.Array, weight: Any) -> jax.Array:
    """Returns the norms after the proximal step, f[*layers, n].

    Raises:
      JaxpruneError: they have another shape.
    """
    after = (jax.vmap(prox, (0, None)) if before.ndim == 2 else prox)(before, weight)
    if jnp.shape(after) != before.shape:
        raise JaxpruneError(
            f"proximal_structured: prox gives norms of shape {list(jnp.shape(after))} for those of "
            f"shape {list(before.shape)}.\nFix: lambda n, t: jnp.maximum(n - t, 0)."
        )
    return after
