"""Statistics that are sums over all that a channel holds: counts, means, squares, zeros, maxima.

An entry is one number of an activation: of one example, at one position, of one channel.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.stats.statistic import At, State, Statistic, row_count

Array = Any


class Moments(NamedTuple):
    """Entries of each channel.

    count: how many; mean: their mean; variance: their mean squared distance from it.
    """

    count: Array
    mean: Array
    variance: Array


class _Central(NamedTuple):
    count: Array
    mean: Array
    squares: Array  # of the distances from the mean


def count(*, at: At = At.READS) -> Statistic:
    """Returns the number of entries of each channel, {group: f32[n]}."""
    return Statistic(measure=lambda x, _: _count(x), at=at)


def sum(*, at: At = At.READS) -> Statistic:
    """Returns Σ x, {group: f32[n]}.

    At `At.GATES` it is Σ over batches of dL/dm, which is Σ a * dL/da.
    """
    return Statistic(measure=lambda x, _: x.sum(-2), at=at)


def sum_of_squares(*, at: At = At.READS) -> Statistic:
    """Returns Σ |x|^2, {group: f32[n]}."""
    return Statistic(measure=lambda x, _: _square(x).sum(-2), at=at)


def mean(*, at: At = At.READS) -> Statistic:
    """Returns the mean of x, {group: f32[n]}."""
    return _mean_of(lambda x: x, at)


def mean_size(*, at: At = At.READS) -> Statistic:
    """Returns the mean of |x|, {group: f32[n]}.

    At `At.EXAMPLES` it is the mean over examples of |Σ a * dL/da|: the score of Molchanov et al.,
    ICLR 2017.
    """
    return _mean_of(abs, at)


def mean_square(*, at: At = At.READS) -> Statistic:
    """Returns the mean of |x|^2, {group: f32[n]}.

    At `At.GATES` it is the mean over batches of (Σ a * dL/da)^2: the score of Molchanov et al.,
    CVPR 2019; at `At.EXAMPLES` over examples, of which `scores.fisher` is the half.
    """
    return _mean_of(_square, at)


def zero_share(*, at: At = At.AFTER) -> Statistic:
    """Returns the share of entries that are 0, {group: f32[n]} in [0, 1]: APoZ.

    Source: Hu et al., "Network Trimming", 2016, equation 1.
    """
    return _mean_of(lambda x: jnp.where(jnp.isfinite(x), x == 0, jnp.nan).astype(x.real.dtype), at)


def maximum(*, at: At = At.READS) -> Statistic:
    """Returns the largest |x|, {group: f32[n]}; -inf of no data."""
    return Statistic(measure=lambda x, _: abs(x).max(-2), merge=_larger, empty=-np.inf, at=at)


def extremes(*, at: At = At.READS) -> Statistic:
    """Returns the least and the greatest x, {group: (f32[n], f32[n])}; real activations only."""
    return Statistic(
        measure=lambda x, _: (-x.min(-2), x.max(-2)),
        merge=lambda a, b: (_larger(a[0], b[0]), _larger(a[1], b[1])),
        finalize=lambda state: (-state[0], state[1]),
        empty=-np.inf,
        at=at,
    )


def moments(*, at: At = At.READS) -> Statistic:
    """Returns {group: Moments} of count, mean and variance, each f32[n].

    The variance is of distances from the mean of the data so far, so that a large mean does not
    swallow it. Source: Chan et al., "Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances", 1979.
    """

    def measure(x: Array, _: Any) -> _Central:
        middle = x.mean(-2)
        return _Central(_count(x), middle, _square(x - middle[..., None, :]).sum(-2))

    def finalize(state: _Central) -> Moments:
        return Moments(state.count, state.mean, state.squares / state.count)

    return Statistic(measure=measure, merge=_merge_central, finalize=finalize, at=at)


def _merge_central(a: _Central, b: _Central) -> _Central:
    total = a.count + b.count
    share = b.count / jnp.maximum(total, 1)
    apart = b.mean - a.mean
    squares = a.squares + b.squares + _square(apart) * a.count * share
    return _Central(total, a.mean + apart * share, squares)


def _mean_of(entry: Any, at: At) -> Statistic:
    def measure(x: Array, _: Any) -> State:
        return entry(x).sum(-2), _count(x)

    return Statistic(measure=measure, finalize=lambda state: state[0] / state[1], at=at)


def _count(x: Array) -> Array:
    return jnp.broadcast_to(row_count(x), (*x.shape[:-2], x.shape[-1]))


def _square(x: Array) -> Array:
    size = abs(x)
    return size * size


def _larger(a: Array, b: Array) -> Array:
    return jnp.maximum(a, b)
