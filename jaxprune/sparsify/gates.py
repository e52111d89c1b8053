"""L1 regularization of channel gates."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune.sparsify.penalty import check_strength, penalty


def l1_gates(
    strength: float | optax.Schedule, mask: optax.Params | None = None
) -> optax.GradientTransformation:
    """Adds the subgradient of `strength * sum |gate|` to the gradients of the gates.

      gradient of gate  <-  gradient + strength * sign(gate),      sign(0) = 0

    It is the penalty of a Tock, and its place in a chain is in front of everything else. In
    decorated variables (`jaxprune.gates.decorate`) the gates are the scales of the BatchNorms; the
    gates of `jaxprune.gated` are a tree of their own, of which every leaf is one.

    Args:
      strength: coefficient of the penalty (the paper's lambda, 1e-3), at least 0, or a schedule.
      mask: tree of bools like the parameters, for decorated variables
        `jaxprune.scale_mask(variables)`; None where all parameters are gates.

    Returns:
      A transformation whose `update` needs `params`.

    Raises:
      JaxpruneError: `strength` is negative or not finite.
      TreeError: (from `init`) `mask` does not mirror the parameters.

    Source: You et al., "Gate Decorator", NeurIPS 2019, section 3.2. Its code goes on to penalize
    pruned gates; `jaxprune.schedule.masked_updates` leaves them alone.

    >>> gates = {"Conv_0/kernel": jnp.array([0.5, -0.5, 0.0])}
    >>> tx = l1_gates(0.25)
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, gates), tx.init(gates), gates)
    >>> updates["Conv_0/kernel"].tolist()
    [0.25, -0.25, 0.0]
    """
    strength = check_strength("l1_gates", "strength", strength, "start from 1e-3.")

    def add(weight: jax.Array, step: jax.Array, gradient: jax.Array, gate: jax.Array) -> jax.Array:
        del step
        return gradient + jnp.asarray(weight * jnp.sign(gate).conj(), gradient.dtype)

    def of(tree: Any) -> optax.GradientTransformation:
        marks = jax.tree.map(lambda _: True, tree) if mask is None else mask
        return penalty("l1_gates", strength, marks, add)

    return optax.GradientTransformation(
        lambda params: of(params).init(params),
        lambda updates, state, params=None: of(params).update(updates, state, params),
    )
