"""L1 regularization by its proximal operator, which makes scales exactly zero."""

import jax
import jax.numpy as jnp
import optax

from jaxprune.sparsify.penalty import check_strength, penalty, value_at


def proximal_l1_bn_scale(
    strength: float | optax.Schedule, mask: optax.Params, *, learning_rate: float | optax.Schedule
) -> optax.GradientTransformation:
    """Soft-thresholds the masked leaves after the step of the optimizer.

      z = scale + update                                     what the optimizer alone would give
      scale  <-  sign(z) * max(|z| - learning_rate * strength, 0)

    is the minimizer of |s - z|^2 / 2 + learning_rate * strength * |s|. It must see the finished
    update, so its place in a chain is last, and `learning_rate` is that of the optimizer at the
    same step. Unlike with `l1_bn_scale`, the penalty is in no momentum, and scales become exactly
    zero; a gradient may bring them back.

    Args:
      strength: coefficient of the penalty, at least 0, or a schedule of it.
      mask: tree of bools like the parameters, usually `jp.scale_mask(variables)`.
      learning_rate: that of the optimizer, at least 0, or the same schedule.

    Returns:
      A transformation whose `update` needs `params`.

    Raises:
      JaxpruneError: `strength` or `learning_rate` is negative or not finite.
      TreeError: (from `init`) `mask` does not mirror the parameters.

    Source: Parikh and Boyd, "Proximal Algorithms", 2014, sections 4.2 and 6.5.2.

    >>> params = {"kernel": jnp.ones(2), "scale": jnp.array([0.5, -0.025])}
    >>> mask = {"kernel": False, "scale": True}
    >>> tx = optax.chain(optax.sgd(0.5), proximal_l1_bn_scale(0.5, mask, learning_rate=0.5))
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> optax.apply_updates(params, updates)["scale"].tolist()
    [0.25, 0.0]
    """
    name = "proximal_l1_bn_scale"
    learning_rate = check_strength(name, "learning_rate", learning_rate, "that of the optimizer.")

    def shrink(
        weight: jax.Array, step: jax.Array, update: jax.Array, scale: jax.Array
    ) -> jax.Array:
        rate = value_at(learning_rate, step)
        stepped = scale + update
        shrunk = jnp.sign(stepped) * jnp.maximum(jnp.abs(stepped) - rate * weight, 0)
        return shrunk - scale

    return penalty(name, strength, mask, shrink)
