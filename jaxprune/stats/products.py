"""Sums over samples of the products of features: of all pairs, and of two sets."""

from typing import Any

import jax.numpy as jnp
from jax import lax

Array = Any
EXACT = lax.Precision.HIGHEST
LEAST = 512
"""How many features are not halved further: on a CPU smaller products gave no time back."""


def between(x: Array, y: Array) -> Array:
    """Returns f[..., n, m]: Σ x_i y_j* over the samples of f[..., samples, n] and [..., m]."""
    return jnp.einsum("...si,...sj->...ij", x, y.conj(), precision=EXACT)


def pairs(x: Array) -> Array:
    """Returns f[..., n, n]: Σ x_i x_j* over the samples of f[..., samples, n].

    It is symmetric: of two halves of the features the product is taken once, and so on in them.
    """
    n = x.shape[-1]
    if n < 2 * LEAST:
        return between(x, x)
    first, second = x[..., : n // 2], x[..., n // 2 :]
    across = between(first, second)
    return jnp.concatenate(
        [
            jnp.concatenate([pairs(first), across], -1),
            jnp.concatenate([across.mT.conj(), pairs(second)], -1),
        ],
        -2,
    )
