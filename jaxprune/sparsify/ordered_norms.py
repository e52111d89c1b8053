"""The group ordered weighted L1 norm (GrOWL): the larger a channel's norm, the more it costs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_callable, is_array, kind_of
from jaxprune.arguments.numbers import check_count, check_finite, check_share
from jaxprune.errors import JaxpruneError


def growl_weights(size: int, *, base: float, step: float, ramp: float = 1.0) -> jax.Array:
    """Returns f32[size]: weights that fall by `step` from rank to rank, down to `base`.

    weights[i] = base + step * max(ramp * size - 1 - i, 0). A ramp of 1 is OSCAR, which ties
    channels all the way; a smaller one ends the decay after that share of the ranks. A step of 0
    is the group lasso.

    Args:
      size: number of channels.
      base: the smallest weight, at least 0: how strongly channels are driven to zero.
      step: difference between neighbors, at least 0: how strongly equal norms are preferred.
      ramp: share of the ranks over which the weights fall, in [0, 1].

    Raises:
      JaxpruneError: an argument is out of range.

    Source: Bondell and Reich, "Simultaneous Regression Shrinkage, Variable Selection, and
    Supervised Clustering of Predictors with OSCAR", Biometrics 2008, section 2.

    >>> growl_weights(4, base=1.0, step=0.5).tolist()
    [2.5, 2.0, 1.5, 1.0]
    """
    size = check_count(size, "growl_weights: size", "the number of channels.")
    base = check_finite(base, "growl_weights: base", "base=1.0.")
    step = check_finite(step, "growl_weights: step", "step=0.1.")
    ramp = check_share(ramp, "growl_weights: ramp", "ramp=1.0.")
    return base + step * jnp.maximum(ramp * size - 1 - jnp.arange(size), 0)


def growl(weights: Callable[[int], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Returns the penalty `sum weights[i] * (the i-th largest norm)`, for `structured`.

    Args:
      weights: from the number of channels n to f[n], falling and at least 0, for example
        `lambda n: growl_weights(n, base=1.0, step=0.1)`.

    Source: Zhang et al., "Learning to Share: Simultaneous Parameter Tying and Sparsification in
    Deep Learning", ICLR 2018. Their groups are the weights that read a neuron; with `structured`
    they are out-in-channels, or `roles=("in",)`.

    >>> penalty = growl(lambda n: growl_weights(n, base=1.0, step=0.5))
    >>> float(penalty(jnp.array([1.0, 3.0, 2.0])))  # 2 * 3 + 1.5 * 2 + 1 * 1
    10.0
    """
    check_callable(weights, "growl: weights", "lambda n: growl_weights(n, base=1.0, step=0.1).")

    def penalty(norms: jax.Array) -> jax.Array:
        check_vectors(norms=norms)
        return jnp.sort(norms, descending=True) @ weights(norms.size)

    return penalty


def growl_prox(norms: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns f[n]: the norms after the proximal step of GrOWL.

    They minimize |s - norms|^2 / 2 + sum weights[i] * (the i-th largest of s): sort, subtract the
    weights, project onto falling sequences, cut at zero, and sort back. `proximal_structured` does
    so after every step of an optimizer. Takes memory of order n^2, and is exact to about the
    rounding of the sum of all norms.

    Args:
      norms: f[n], at least 0.
      weights: f[n], falling and at least 0, times the learning rate.

    Source: Zeng and Figueiredo, "The Ordered Weighted L1 Norm: Atomic Formulation, Projections,
    and Algorithms", 2014, section 3; the projection by its min-max formula (Robertson, Wright and
    Dykstra, "Order Restricted Statistical Inference", 1988, theorem 1.4.4).

    >>> growl_prox(jnp.array([3.0, 0.5, 2.9]), jnp.array([1.5, 1.0, 0.5])).tolist()
    [1.7000000476837158, 0.0, 1.7000000476837158]
    """
    check_vectors(norms=norms, weights=weights)
    order = jnp.argsort(norms, descending=True)
    sums = jnp.cumulative_sum(norms[order] - weights, include_initial=True)
    first, last = jnp.arange(norms.size)[:, None], jnp.arange(norms.size)[None, :]
    means = (sums[None, 1:] - sums[:-1, None]) / jnp.maximum(last - first + 1, 1)
    # Fitted at i: the least over first <= i of the greatest over last >= i of the mean between.
    greatest = jax.lax.cummax(means, axis=1, reverse=True)
    fitted = jnp.diagonal(jax.lax.cummin(greatest, axis=0))
    return jnp.zeros_like(norms).at[order].set(jnp.maximum(fitted, 0))


def check_vectors(**vectors: Any) -> None:
    """Raises JaxpruneError unless these are vectors of one length."""
    shapes = {np.shape(value) if is_array(value) else None for value in vectors.values()}
    if len(shapes) > 1 or not all(shape is not None and len(shape) == 1 for shape in shapes):
        found = ", ".join(f"{name} is {kind_of(value)}" for name, value in vectors.items())
        raise JaxpruneError(f"{found}.\nFix: {' and '.join(vectors)} f[n], one for each channel.")
