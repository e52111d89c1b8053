"""Intervals of means over examples, and over seeds where there are several."""

from functools import cache

import numpy as np

RESAMPLES = 2000
"""Of the bootstrap."""


def interval(values: np.ndarray) -> list[float]:
    """Returns the mean, and the ends of its 95 % percentile bootstrap interval.

    The resamples are the same for every call with as many values, so that differences are paired.

    Args:
      values: f[examples], or f[seeds, examples], where seeds are drawn anew too.

    >>> interval(np.ones((2, 3)))
    [1.0, 1.0, 1.0]
    """
    values = values.astype(np.float32)
    means = _resamples(values.shape[-1]) @ values.T
    if values.ndim > 1 and len(values) > 1:
        means = (means * _resamples(len(values), 1)).sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return [float(values.mean()), float(low), float(high)]


@cache
def _resamples(n: int, seed: int = 0) -> np.ndarray:
    """Returns f32[RESAMPLES, n]: how often each is drawn, over n."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return counts.astype(np.float32) / n
