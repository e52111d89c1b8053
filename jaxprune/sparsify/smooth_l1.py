"""L1 regularization, rounded off at zero."""

import jax
import jax.numpy as jnp
import optax

from jaxprune.arguments.numbers import check_positive
from jaxprune.sparsify.penalty import penalty


def smooth_l1_bn_scale(
    strength: float | optax.Schedule, mask: optax.Params, *, width: float = 0.01
) -> optax.GradientTransformation:
    """Adds the gradient of `strength * sum g(scale)` to the gradients of the masked leaves.

    g is |s| with a parabola of half-width `width` in place of its corner (the Huber loss over
    `width`), which the paper names as a way around the subgradient:

      g(s) = s^2 / (2 width)  where |s| <= width,   |s| - width / 2  elsewhere
      gradient of scale  <-  gradient + strength * clip(scale / width, -1, 1)

    Scales within `width` shrink in proportion to themselves and do not swing about zero. The place
    in a chain is that of `l1_bn_scale`, which is the limit of a width of 0.

    Args:
      strength: coefficient of the penalty, at least 0, or a schedule of it.
      mask: tree of bools like the parameters, usually `jp.scale_mask(variables)`.
      width: where the parabola ends, in the units of the scales, above 0. Steps stay stable while
        learning rate * strength < width.

    Returns:
      A transformation whose `update` needs `params`.

    Raises:
      JaxpruneError: `strength` is negative, `width` is not positive, or one is not finite.
      TreeError: (from `init`) `mask` does not mirror the parameters.

    Source: Schmidt et al., "Fast Optimization Methods for L1 Regularization", ECML 2007; named in
    Liu et al., "Network Slimming", ICCV 2017, section 3.

    >>> params = {"kernel": jnp.ones(2), "scale": jnp.array([0.5, -0.025])}
    >>> tx = smooth_l1_bn_scale(1.0, {"kernel": False, "scale": True}, width=0.1)
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> updates["scale"].tolist()
    [1.0, -0.25]
    """
    name = "smooth_l1_bn_scale"
    width = check_positive(width, f"{name}: width", "width=0.01; for a width of 0, l1_bn_scale.")

    def add(weight: jax.Array, step: jax.Array, gradient: jax.Array, scale: jax.Array) -> jax.Array:
        del step
        slope = (scale / jnp.maximum(jnp.abs(scale), width)).conj()
        return gradient + jnp.asarray(weight * slope, gradient.dtype)

    return penalty(name, strength, mask, add)
