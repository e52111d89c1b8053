"""What the outputs of the readers lose without a channel, all others made the best of it."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.numbers import check_finite
from jaxprune.stats.products import pairs
from jaxprune.stats.readings import Reading, kernel_matrix, layers_of, owners, read_matrix
from jaxprune.stats.statistic import Rows, State, Statistic, total_of

Array = Any


def removal_costs(*, damping: float = 0.01) -> Statistic:
    """Returns {group: f64[n]}: Σ_readers 1/2 tr(W_c^T ((H^-1)_cc)^-1 W_c) of each channel c.

    H = X^T X / N + damping * mean(diag(X^T X / N)) I of what a reader with the kernel W reads, and
    c the inputs that belong to a channel: all taps, pixels, or dimensions of a head. Where
    `damping` is 0 it is half the mean squared error of the outputs that is left, once the channel
    is gone and all other weights are refitted. `scores.obs` is this; `jp.recover.obs` removes by
    it, one channel at a time.

    The state is K x K of each reader, as of `gram`; the inverse is computed in float64 on the host,
    O(K^3), and H lifted by what its float32 sums are not known to.

    Args:
      damping: relative to the mean square of the inputs; at least 0.

    Raises:
      JaxpruneError: `damping` is negative or not a number.

    Source: Hassibi and Stork, "Second Order Derivatives for Network Pruning: Optimal Brain
    Surgeon", NeurIPS 1992; for structures Kurtic et al., "ZipLM", NeurIPS 2023, section 3.1, whose
    damping is 0.01 as well.
    """
    damping = check_finite(damping, "damping", "damping=0.01.")

    def read(reading: Reading) -> Rows:
        owner, layers = owners(reading), layers_of(reading)
        n = owner.max() + 1
        shape = (n,) if layers is None else (layers.shape[1], n)
        repeated = (
            owner
            if layers is None
            else np.where(owner < 0, -1, owner + n * layers.argmax(1)[:, None])
        )
        fixed = (kernel_matrix(reading), jnp.asarray(repeated, jnp.float32), jnp.zeros(shape))
        return Rows(read_matrix(reading), fixed)

    def measure(x: Array, fixed: tuple[Array, Array, Array]) -> State:
        kernel, owner, blank = fixed
        count = jnp.float32(x.shape[-2])
        xx = pairs(x).real
        return count, xx, kernel * count, owner * count, blank

    def finalize(state: State) -> Array:
        count, xx, kernel, owner, blank = (np.asarray(part) for part in state)
        if np.ndim(count):
            steps = zip(count, xx, kernel, owner, blank, strict=True)
            return np.stack([finalize(step) for step in steps])
        owners = np.rint(owner / count).astype(int)
        costs = np.zeros(blank.size)
        for square, w, columns in zip(xx / count, kernel / count, owners, strict=True):
            if not square.any():
                continue
            hessian = _lifted(square.astype(np.float64), damping)
            costs += block_costs(np.linalg.inv(hessian), w.astype(np.float64), columns, blank.size)
        return costs.reshape(blank.shape)

    return Statistic(measure=measure, read=read, finalize=finalize, join=total_of, weighted=True)


def block_costs(inverse: Array, kernel: Array, owner: Array, channels: int) -> Array:
    """Returns f64[channels]: 1/2 tr(W_c^T ((H^-1)_cc)^-1 W_c), 0 where no input is of c.

    Args:
      inverse: f64[K, K], H^-1.
      kernel: f64[K, O].
      owner: int[K], the channel that an input is of, -1 for none.
      channels: how many there are.
    """
    places = np.flatnonzero(owner >= 0)
    places = places[np.argsort(owner[places], kind="stable")]
    sizes = np.bincount(owner[places], minlength=channels)
    starts = np.cumsum(sizes) - sizes
    costs = np.zeros(channels)
    for size in np.unique(sizes[sizes > 0]):
        who = np.flatnonzero(sizes == size)
        inputs = places[starts[who][:, None] + np.arange(size)]
        w = kernel[inputs]
        inside = inverse[inputs[:, :, None], inputs[:, None, :]]
        costs[who] = (w * np.linalg.solve(inside, w)).sum((1, 2)) / 2
    return costs


def _lifted(hessian: Array, damping: float) -> Array:
    """H with its damping, and above the rounding of its sums."""
    n, diagonal = len(hessian), np.diagonal(hessian)
    floor = np.finfo(np.float32).eps * diagonal.sum()
    return hessian + (damping * diagonal.mean() + floor) * np.eye(n)
