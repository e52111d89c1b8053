"""L1 regularization by its subgradient."""

import jax
import jax.numpy as jnp
import optax

from jaxprune.sparsify.penalty import penalty


def l1_bn_scale(
    strength: float | optax.Schedule, mask: optax.Params
) -> optax.GradientTransformation:
    """Adds the subgradient of `strength * sum |scale|` to the gradients of the masked leaves.

    As in the authors' code the penalty enters before momentum and weight decay stays on:

      gradient of scale  <-  gradient + strength * sign(scale),      sign(0) = 0

    so the place in a chain is in front of everything else. The loss that the training loop reports
    does not contain the penalty, and no scale becomes exactly zero: pruning needs a threshold.

    Args:
      strength: coefficient of the penalty (the paper's lambda), at least 0, or a schedule of it.
      mask: tree of bools like the parameters, usually `jp.scale_mask(variables)`.

    Returns:
      A transformation whose `update` needs `params`.

    Raises:
      JaxpruneError: `strength` is negative or not finite.
      TreeError: (from `init`) `mask` does not mirror the parameters.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
    ICCV 2017, equation 1.

    >>> params = {"kernel": jnp.ones(2), "scale": jnp.array([0.5, -0.5])}
    >>> tx = l1_bn_scale(0.1, {"kernel": False, "scale": True})
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> updates["scale"].tolist()
    [0.10000000149011612, -0.10000000149011612]
    """

    def add(weight: jax.Array, step: jax.Array, gradient: jax.Array, scale: jax.Array) -> jax.Array:
        del step
        return gradient + jnp.asarray(weight * jnp.sign(scale).conj(), gradient.dtype)

    return penalty("l1_bn_scale", strength, mask, add)
