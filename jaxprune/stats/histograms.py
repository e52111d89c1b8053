"""Histograms of what each channel holds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.numbers import check_count, is_number
from jaxprune.errors import JaxpruneError
from jaxprune.stats.readings import Reading
from jaxprune.stats.statistic import At, Rows, State, Statistic, columns

Array = Any


class Histogram(NamedTuple):
    """Entries of each channel by their size.

    counts: f32[*layers, n, bins]. low, high: the range, of which every bin has an equal part; what
    lies outside is in the first or the last bin.
    """

    counts: Array
    low: Array
    high: Array


def histogram(*, bins: int, range: Any, at: At = At.READS) -> Statistic:
    """Returns {group: Histogram} with `bins` bins of equal width.

    Args:
      bins: how many, at least 2.
      range: (low, high), two numbers; or {group: (f32[n], f32[n])}, those of each channel, as
        `jp.stats.extremes()` gives them in a pass before.
      at: where it looks.

    Raises:
      JaxpruneError: the range is empty or none; when it is collected, a group has none.
    """
    check_count(bins, "bins", "bins=100.", least=2)
    ranges = range if isinstance(range, Mapping) else None
    if ranges is None:
        pair = isinstance(range, tuple | list) and len(range) == 2 and all(map(is_number, range))
        if not (pair and range[0] < range[1]):
            raise JaxpruneError(
                f"histogram: range must be (low, high) with low < high, got {kind_of(range)}.\n"
                "Fix: range=(-1.0, 1.0), or what jp.stats.extremes() found."
            )

    def read(reading: Reading) -> Rows:
        if ranges is not None and reading.group not in ranges:
            raise JaxpruneError(
                f"histogram: range has no group {reading.group!r}.\nFix: groups=list(range)."
            )
        ends = range if ranges is None else ranges[reading.group]
        return Rows(columns(reading).samples, tuple(jnp.asarray(e, jnp.float32) for e in ends))

    def measure(x: Array, ends: tuple[Array, Array]) -> State:
        shape = (*x.shape[:-2], x.shape[-1])
        least, most = (jnp.broadcast_to(end, shape)[..., None, :] for end in ends)
        width = jnp.where(most > least, most - least, 1)
        place = jnp.floor((x - least) / width * bins)
        place = jnp.clip(place, 0, bins - 1).astype(jnp.int32)
        counts = jax.nn.one_hot(place, bins).sum(-3)
        counts += jnp.where(jnp.isfinite(x).all(-2), 0, jnp.nan)[..., None]
        return counts, least[..., 0, :], most[..., 0, :], jnp.ones((*x.shape[:-2], 1))

    def finalize(state: State) -> Histogram:
        counts, least, most, batches = state
        return Histogram(counts, least / batches, most / batches)

    return Statistic(measure=measure, read=read, finalize=finalize, at=at)
