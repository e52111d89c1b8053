"""The ratio of asymptotic soft filter pruning: most of it early, the rest slowly."""

import math

import jax
import jax.numpy as jnp
import optax

from jaxprune.arguments.numbers import check_count, check_share, is_number, plain
from jaxprune.errors import JaxpruneError


def asymptotic(prune_ratio: float, *, steps: int, early: float = 1 / 8) -> optax.Schedule:
    """Returns the schedule of a ratio that rises from 0 to `prune_ratio` by an exponential.

      ratio(t) = prune_ratio * (1 - exp(-k t / steps)) / (1 - exp(-k))

    with the k by which three quarters of it are reached at t = early * steps. From `steps` on it
    stays. `agp` of this package is the cubic ramp in rounds.

    Args:
      prune_ratio: what it ends at, in [0, 1].
      steps: steps of the ramp, at least 1.
      early: share of the steps for three quarters of the ratio, above 0 and below 3/4.

    Raises:
      JaxpruneError: an argument is out of range.

    Source: He et al., "Asymptotic Soft Filter Pruning for Deep Convolutional Neural Networks",
    IEEE Transactions on Cybernetics 2020, equation 6: a exp(-k t) + b through (0, 0),
    (N / 8, 3/4 P) and (N, P).

    >>> import jaxprune as jp
    >>> ratio = jp.schedule.asymptotic(0.4, steps=80)
    >>> [round(float(ratio(step)), 4) for step in (0, 10, 80, 100)]
    [0.0, 0.3, 0.4, 0.4]
    """
    ratio = check_share(prune_ratio, "asymptotic: prune_ratio", "prune_ratio=0.3.")
    steps = check_count(steps, "asymptotic: steps", "steps=epochs * steps of an epoch.")
    if not is_number(early) or not 0 < plain(early) < 3 / 4:
        raise JaxpruneError(
            f"asymptotic: early must be above 0 and below 3/4, got {early!r}.\nFix: early=1 / 8."
        )
    rate = _rate(float(plain(early)))

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        share = jnp.minimum(jnp.asarray(step) / steps, 1)
        return ratio * jnp.expm1(-rate * share) / math.expm1(-rate)

    return schedule


def _rate(early: float) -> float:
    """The k of (1 - exp(-k early)) / (1 - exp(-k)) = 3/4, which falls with k to `early`."""
    low, high = 0.0, 2 * math.log(4) / early
    for _ in range(100):
        middle = (low + high) / 2
        reached = math.expm1(-middle * early) / math.expm1(-middle) if middle else early
        low, high = (middle, high) if reached < 3 / 4 else (low, middle)
    return (low + high) / 2
