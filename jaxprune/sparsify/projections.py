"""Projections of the norms of all groups at once: the largest stay, or their sum is bounded."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxprune.arguments.numbers import check_positive, check_share

Norms = Mapping[str, jax.Array]
"""{group or set: the norms of its members, f[n] or f[layers, n]}."""
Projection = Callable[[Norms], Norms]
"""From norms to the nearest ones that are allowed, of the same shapes."""


def largest_in_each(keep_ratio: float) -> Projection:
    """Returns the projection that keeps the ceil(n * keep_ratio) largest norms of every group.

    It is that on the sets in which so many may be other than zero, the same share everywhere; one
    stays at least. Of equal norms the last stay.

    Args:
      keep_ratio: share of the channels, in [0, 1].

    Raises:
      JaxpruneError: `keep_ratio` is out of range.

    >>> largest_in_each(0.5)({"a": jnp.array([3.0, 1.0, 2.0])})["a"].tolist()
    [3.0, 0.0, 2.0]
    """
    ratio = check_share(keep_ratio, "largest_in_each: keep_ratio", "keep_ratio=0.5.")

    def project(norms: Norms) -> Norms:
        projected = {}
        for name, each in norms.items():
            count = max(1, math.ceil(each.shape[-1] * ratio - 1e-6))
            projected[name] = jnp.where(_ranks(each) >= each.shape[-1] - count, each, 0)
        return projected

    return project


def largest_of_all(keep_ratio: float) -> Projection:
    """Returns the projection that keeps the ceil(N * keep_ratio) largest of all N norms.

    How many stay in each group follows from the norms; the largest of each (of each layer in a
    stack) stays.

    Args:
      keep_ratio: share of all channels, in [0, 1].

    Raises:
      JaxpruneError: `keep_ratio` is out of range.

    >>> norms = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([0.1, 0.2])}
    >>> [kept.round(1).tolist() for kept in largest_of_all(0.5)(norms).values()]
    [[3.0, 0.0], [0.0, 0.20000000298023224]]
    """
    ratio = check_share(keep_ratio, "largest_of_all: keep_ratio", "keep_ratio=0.5.")

    def project(norms: Norms) -> Norms:
        sizes = [each.size for each in norms.values()]
        order = [
            jnp.where(_ranks(each) == each.shape[-1] - 1, jnp.inf, each).reshape(-1)
            for each in norms.values()
        ]
        least = sum(each.size // each.shape[-1] for each in norms.values())
        count = max(least, math.ceil(sum(sizes) * ratio - 1e-6))
        kept = _ranks(jnp.concatenate(order)) >= sum(sizes) - count
        parts = jnp.split(kept, [sum(sizes[:i]) for i in range(1, len(sizes))])
        return {
            name: jnp.where(part.reshape(each.shape), each, 0)
            for part, (name, each) in zip(parts, norms.items(), strict=True)
        }

    return project


def norm_ball(radius: float) -> Projection:
    """Returns the projection on the ball in which the sum of all norms is at most `radius`.

    All norms fall by one number, and stop at zero; inside of the ball nothing changes.

    Args:
      radius: above 0.

    Raises:
      JaxpruneError: `radius` is not above 0 and finite.

    Source: Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions",
    ICML 2008, figure 1.

    >>> norm_ball(2.0)({"a": jnp.array([3.0, 1.0, 2.0])})["a"].tolist()
    [1.5, 0.0, 0.5]
    """
    radius = check_positive(radius, "norm_ball: radius", "radius=10.0.")

    def project(norms: Norms) -> Norms:
        falling = jnp.sort(
            jnp.concatenate([n.reshape(-1) for n in norms.values()]), descending=True
        )
        sums = jnp.cumsum(falling)
        limits = (sums - radius) / jnp.arange(1, falling.size + 1)
        last = jnp.maximum(jnp.sum(falling > limits) - 1, 0)  # rounded, it may be none of them
        limit = jnp.maximum(limits[last], 0)
        return {name: jnp.maximum(each - limit, 0) for name, each in norms.items()}

    return project


def _ranks(values: jax.Array) -> jax.Array:
    """Returns the place of each value among those along the last axis, the lowest first."""
    return jnp.argsort(jnp.argsort(values, axis=-1), axis=-1)
