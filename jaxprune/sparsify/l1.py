"""L1 regularization by its subgradient."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.errors import JaxpruneError, TreeError


class L1BNScaleState(NamedTuple):
    """State of `l1_bn_scale`."""

    step: jax.typing.ArrayLike  # int32[], updates so far


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
      mask: tree of bools like the parameters, usually `jaxprune.batchnorm.scale_mask(variables)`.

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
    if not callable(strength) and not (strength >= 0 and math.isfinite(strength)):
        raise JaxpruneError(
            f"l1_bn_scale: strength must be finite and at least 0, got {strength}.\n"
            "Fix: start from 1e-4, or pass a schedule from step to strength."
        )

    def init(params: optax.Params) -> L1BNScaleState:
        expected, got = jax.tree.structure(params), jax.tree.structure(mask)
        if expected != got:
            raise TreeError(
                "l1_bn_scale: the mask does not mirror the parameters.\n"
                f"  parameters: {expected}\n"
                f"  mask:       {got}\n"
                "Fix: mask=jaxprune.batchnorm.scale_mask(variables), of the same variables."
            )
        return L1BNScaleState(step=jnp.zeros([], jnp.int32))

    def update(
        updates: optax.Updates, state: L1BNScaleState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, L1BNScaleState]:
        if params is None:
            raise JaxpruneError(
                "l1_bn_scale: update needs the parameters, whose signs it adds.\n"
                "Fix: tx.update(gradients, state, params)."
            )
        weight = strength(state.step) if callable(strength) else strength

        def add(masked: bool, gradient: jax.Array, param: jax.Array) -> jax.Array:
            if not masked:
                return gradient
            return gradient + jnp.asarray(weight * jnp.sign(param), gradient.dtype)

        updates = jax.tree.map(add, mask, updates, params)
        return updates, L1BNScaleState(step=optax.safe_increment(state.step))

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]
