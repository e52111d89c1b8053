"""Products of what contractions read: of all pairs of channels, and with what they write."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.numbers import check_count
from jaxprune.stats.products import between, pairs
from jaxprune.stats.readings import (
    Reading,
    drawn,
    kernel_matrix,
    layers_of,
    owners,
    read_matrix,
    taken,
    written_matrix,
)
from jaxprune.stats.statistic import At, Rows, State, Statistic, row_count

Array = Any


class Gram(NamedTuple):
    """What one contraction reads, x f32[K], and writes, y f32[O] without bias, for each block.

    Blocks are the groups of a grouped convolution, or what both sides of a product share; K of a
    convolution is (channel, window). Under a scan whose layers have their own channels, all arrays
    have a leading axis of layers.

    count: how many rows. xx: f32[blocks, K, K], Σ x x^T. xy: f32[blocks, K, O], Σ x y^T. x, y:
    f32[blocks, K] and f32[blocks, O], Σ x and Σ y.
    """

    count: Array
    xx: Array
    xy: Array
    x: Array
    y: Array


class Covariance(NamedTuple):
    """Entries of pairs of channels.

    count: how many; mean: f32[n]; matrix: f32[n, n], the mean product of distances from the mean.
    """

    count: Array
    mean: Array
    matrix: Array

    @property
    def correlation(self) -> Array:
        """f32[n, n] in [-1, 1]; a constant channel has 0 with all others, and 1 with itself."""
        size = np.sqrt(np.diagonal(self.matrix, axis1=-2, axis2=-1))
        scale = np.where(size > 0, size, 1)
        scaled = self.matrix / scale[..., None] / scale[..., None, :]
        eye = np.eye(size.shape[-1], dtype=bool)
        return np.where(eye, 1, scaled).astype(self.matrix.dtype)


def gram(*, positions: int | None = None) -> Statistic:
    """Returns {group: (Gram, ...)}, one of every contraction with a kernel that reads the group.

    The rows of a convolution are its patches, which take window times the memory of the activation
    while they are multiplied.

    Args:
      positions: how many rows of every example are drawn, without replacement, in every batch; all
        by default. He et al., "Channel Pruning", ICCV 2017, take 10.
    """

    def read(reading: Reading) -> Rows:
        y = written_matrix(reading)
        rows = drawn(y.shape[-2], reading.key, positions)
        return Rows((read_matrix(reading, rows), taken(y, rows)))

    def measure(samples: tuple[Array, Array], _: Any) -> Gram:
        x, y = samples
        count = jnp.float32(x.shape[-2])
        return Gram(count, pairs(x), between(x, y), x.sum(-2), y.sum(-2))

    return Statistic(measure=measure, read=read, each=_drawn(positions), join=tuple, weighted=True)


def contributions(*, positions: int | None = None) -> Statistic:
    """Returns {group: f32[n, n]}: Σ z_i . z_j, where z_i is what channel i adds to its readers.

    z_i = x_i W_i are the outputs of a contraction from channel i alone, all of them, and the sum is
    over rows, outputs and readers. It is all that ThiNet and LASSO need of the data: the error of
    the outputs without the channels T is Σ_ij of T. Computed as (X^T X) * (W W^T), summed over the
    window; its memory is K x K while a batch is measured. A reader of m outputs costs K (rows + m)
    multiplications an input (3/4 of them or less from K = 1024 on), where it costs m rows itself:
    a 3 x 3 convolution of as many outputs as channels has 9 times its own. `positions` draws rows.

    Args:
      positions: as for `gram`.
    """

    def read(reading: Reading) -> Rows:
        rows = drawn(written_matrix(reading).shape[-2], reading.key, positions)
        x = read_matrix(reading, rows)
        weights, owner, layers = (
            pairs(kernel_matrix(reading).mT),
            owners(reading),
            layers_of(reading),
        )
        n = owner.max() + 1
        where, shape = channel_pairs(owner), (n, n)
        if layers is not None:
            where, shape = (layers.argmax(1)[:, None, None], *where), (layers.shape[1], n, n)
        elif all(np.array_equal(row, np.arange(n)) for row in owner):
            where = None
        return Rows(x, (weights, where, jnp.zeros(shape, weights.real.dtype)))

    def measure(x: Array, fixed: tuple[Array, tuple[Array, ...] | None, Array]) -> Array:
        weights, where, blank = fixed
        added = (pairs(x) * weights).real
        return added.sum(0) if where is None else blank.at[where].add(added, mode="drop")

    return Statistic(measure=measure, read=read, each=_drawn(positions), weighted=True)


def channel_pairs(owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where pairs of columns add up, the indices of two channels; past all if nobody's.

    Args:
      owner: int[blocks, K], as of `readings.owners`.
    """
    channel = np.where(owner < 0, owner.max() + 1, owner)
    return channel[:, :, None], channel[:, None, :]


def covariance(*, at: At = At.READS) -> Statistic:
    """Returns {group: Covariance} of all pairs of channels of a group.

    Distances are from the mean of the data so far, as in `moments`. Every array that is read costs
    n^2 multiplications a position (3/4 of them or less from n = 1024 on, as the matrix is
    symmetric), once for all that read it, where a reader of m outputs costs n m. So 1024 hidden
    units beside a stream of 256 cost as much as the three kernels of their gated layer, and this
    takes 1.7 times the operations of the forward pass of such a decoder.
    """

    def measure(x: Array, _: Any) -> Covariance:
        middle = x.mean(-2)
        away = x - middle[..., None, :]
        return Covariance(row_count(x), middle, pairs(away))

    def merge(a: Covariance, b: Covariance) -> Covariance:
        total = a.count + b.count
        share = b.count / jnp.maximum(total, 1)
        apart = b.mean - a.mean
        between = apart[..., :, None] * apart[..., None, :].conj() * (a.count * share)[..., None]
        return Covariance(total, a.mean + apart * share, a.matrix + b.matrix + between)

    def finalize(state: State) -> Covariance:
        return Covariance(state.count[..., 0], state.mean, state.matrix / state.count[..., None])

    return Statistic(measure=measure, merge=merge, finalize=finalize, at=at)


def _drawn(positions: int | None) -> bool:
    """Whether rows are drawn, of every example by itself."""
    if positions is None:
        return False
    check_count(positions, "positions", "positions=10.")
    return True
