"""Random weights for networks that are compared, and how far their outputs are apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def drawn(variables: Any) -> Any:
    """Returns random weights in the shapes of `variables`, of the usual scale."""
    random = np.random.default_rng(1)

    def draw(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype) if _is_shape(leaf) else leaf
        if leaf.size == max(leaf.shape, default=1):
            return jnp.asarray(random.uniform(0.1, 0.9, leaf.shape), leaf.dtype)
        fan = leaf.size / max(leaf.shape)
        return jnp.asarray(random.normal(size=leaf.shape) * fan**-0.5, leaf.dtype)

    return jax.tree.map(draw, variables)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def difference(a: Any, b: Any) -> float:
    """Returns the largest difference relative to the largest entry of the array."""
    gaps = [0.0]
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        gaps.append(float(np.max(np.abs(x - y), initial=0) / max(np.max(np.abs(x)), 1e-30)))
    return max(gaps)
