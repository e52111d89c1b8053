"""Norms of activations, aggregated over positions and over examples in a stated order."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxprune.arguments.checks import kind_of
from jaxprune.errors import JaxpruneError
from jaxprune.stats.readings import Reading, weights_read
from jaxprune.stats.statistic import At, Rows, State, Statistic, row_count, total_of

Array = Any


class Aggregate(NamedTuple):
    """How many numbers become one: `finish(sum of entry(|x|), how many)`."""

    entry: Callable[[Array], Array]
    finish: Callable[[Array, Array], Array]

    def over(self, sizes: Array, axis: int) -> Array:
        """Returns the numbers along an axis as one."""
        return self.finish(self.entry(sizes).sum(axis), sizes.shape[axis])


def _square(x: Array) -> Array:
    return x * x


average = Aggregate(lambda x: x, lambda sums, count: sums / count)
"""The mean."""
euclidean = Aggregate(_square, lambda sums, _: sums**0.5)
"""The root of the sum of squares."""


def activation_norm(
    *, positions: Aggregate = average, examples: Aggregate = euclidean, at: At = At.READS
) -> Statistic:
    """Returns {group: f32[n]}: |a| over the positions of an example, then over all examples.

    By default it is sqrt(Σ_examples (mean_positions |a|)^2). Where a contraction sums over several
    entries of a channel (the dimensions of a head, pixels after a flatten), each has its own norm,
    and the channel the Euclidean norm of these, taken last. A group that several contractions read
    has the sum of their norms.

    Args:
      positions: over all axes of the activation of one example but the channels: `average` or
        `euclidean`.
      examples: over the examples of all batches.
      at: where it looks.

    Source: Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation"
    (Minitron), 2024, whose released code this follows: mean over the sequence, L2 over the batch,
    the root once over all batches, and the sum over the places of the hidden width. Deviations:
    its code reads the hidden width behind every normalization but the last, here all that read it
    count; padding is not left out.
    """
    for name, given in (("positions", positions), ("examples", examples)):
        if not isinstance(given, Aggregate):
            raise JaxpruneError(
                f"{name} must be jp.stats.average or euclidean, got {kind_of(given)}.\n"
                f"Fix: {name}=jp.stats.average."
            )

    def measure(x: Array, _: Any) -> State:
        sizes = positions.over(abs(x), -2)
        return examples.entry(sizes), jnp.ones((*x.shape[:-2], 1), sizes.dtype)

    def finalize(state: State) -> Array:
        sums, count = state
        return _over_positions(examples.finish(sums, count))

    return Statistic(
        measure=measure, finalize=finalize, read=_by_position, at=at, apart=True, join=total_of
    )


def weighted_norm() -> Statistic:
    """Returns {group: f32[n]}: Σ_readers Σ_out |w| * sqrt(mean a^2), of each channel that is read.

    w are the weights of a contraction that read the channel (all taps and outputs), a what it reads
    there. `scores.wanda` is this.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (Wanda),
    ICLR 2024, summed over the outputs as its structured form in An et al. (FLAP), AAAI 2024, whose
    code takes the mean over the outputs.
    """

    def finalize(state: State) -> Array:
        squares, weights, count = state
        return (weights / count * (squares / count) ** 0.5).sum(-2)

    def measure(x: Array, weights: Array) -> State:
        count = row_count(x)
        return _square(abs(x)).sum(-2), weights * count, count

    return Statistic(
        measure=measure, finalize=finalize, read=_with_weights(abs), join=total_of, weighted=True
    )


def weighted_variance() -> Statistic:
    """Returns {group: f32[n]}: Σ_readers Var(a) * Σ_out |w|^2, of each channel that is read.

    Arguments are those of `weighted_norm`.

    Source: An et al., "Fluctuation-based Adaptive Structured Pruning for Large Language Models"
    (FLAP), AAAI 2024, WIFV. Deviations: the variance is over all samples, of all batches; its code
    loses the first and updates the mean in place.
    """

    def measure(x: Array, weights: Array) -> State:
        count = row_count(x)
        middle = x.mean(-2)
        return _square(abs(x - middle[..., None, :])).sum(-2), middle, weights * count, count

    def merge(a: State, b: State) -> State:
        total = a[3] + b[3]
        share = b[3] / jnp.maximum(total, 1)
        apart = b[1] - a[1]
        squares = a[0] + b[0] + _square(abs(apart)) * a[3] * share
        return squares, a[1] + apart * share, a[2] + b[2], total

    def finalize(state: State) -> Array:
        squares, _, weights, count = state
        return (squares / count * weights / count).sum(-2)

    return Statistic(
        measure=measure,
        merge=merge,
        finalize=finalize,
        read=_with_weights(lambda w: _square(abs(w))),
        join=total_of,
        weighted=True,
    )


def _by_position(reading: Reading) -> Rows:
    """[*layers, positions, samples, n]."""
    return Rows(jnp.swapaxes(reading.channels, -2, -3))


def _with_weights(entry: Callable[[Array], Array]) -> Callable[[Reading], Rows]:
    def read(reading: Reading) -> Rows:
        return Rows(_by_position(reading).samples, weights_read(reading, entry))

    return read


def _over_positions(norms: Array) -> Array:
    return (norms**2).sum(-2) ** 0.5
