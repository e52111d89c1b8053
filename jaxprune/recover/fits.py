"""New weights of one contraction from the moments of what it reads and should write."""

from enum import Enum
from typing import NamedTuple

import numpy as np

from jaxprune.recover.normal_equations import CHOLESKY, damped, solve

Array = np.ndarray


class Form(Enum):
    """What of a reader is fitted; its bias always is, where it has one."""

    KERNEL = "every weight of the kept inputs"  # He et al., ICCV 2017
    SCALE = "one factor of each kept channel"  # ThiNet, ICCV 2017
    BIAS = "the bias alone"  # FLAP, AAAI 2024


class Moments(NamedTuple):
    """Of rows x f[K], what is read, and y f[O], what should be written; about their means.

    rows: f[], how many. x, y: f[K] and f[O], the means. xx, xy, yy: f[K, K], f[K, O] and f[O], the
    sums of the products of the distances from them. size: f[O], the sums of the squares of what
    should be written. All may have leading axes.

    Where biases alone are fitted there are no inputs, K = 0, and y is what kept inputs leave of it.
    """

    rows: Array
    x: Array
    y: Array
    xx: Array
    xy: Array
    yy: Array
    size: Array


class Block(NamedTuple):
    """What is to be fitted.

    kernel: f64[K, O]. kept: bool[K], the inputs that stay. written: bool[O], the outputs that stay.
    channels: int[K], whose factor an input shares.
    """

    kernel: Array
    kept: Array
    written: Array
    channels: Array

    @property
    def outputs(self) -> "Block":
        """The block without inputs."""
        return Block(self.kernel[:0], self.kept[:0], self.written, self.channels[:0])


class Fitted(NamedTuple):
    """kernel: f64[K, O], zero at what goes. method: how it was solved."""

    kernel: Array
    method: str


def fit(
    block: Block,
    moments: list[Moments],
    biased: list[bool],
    form: Form,
    ridge: float,
    rounding: float,
) -> Fitted:
    """Returns the kernel W that minimizes Σ |y - W^T x - b|^2 + r |W - W0|^2 over the kept inputs.

    W0 is the kernel that is given, and r = ridge * the mean of the diagonal of Σ x x^T. Several
    uses of the kernel have their errors added, each with a bias b of its own where it is `biased`.
    """
    kept, first = block.kept, block.kernel
    start = np.where(kept[:, None], first, 0)
    both = [_products(each, bias) for each, bias in zip(moments, biased, strict=True)]
    xx, xy = sum(a for a, _ in both), sum(b for _, b in both)
    if form is Form.BIAS or not kept.any() or not block.written.any():
        return Fitted(start, CHOLESKY)
    if form is Form.SCALE:
        return _scaled(block, start, np.asarray(xx), np.asarray(xy), ridge, rounding)
    inside = np.asarray(xx)[np.ix_(kept, kept)]
    error = np.asarray(xy)[kept] - inside @ first[kept]
    change, method = solve(damped(inside, ridge), error, rounding)
    start[kept] += change
    return Fitted(start, method)


def _scaled(
    block: Block, start: Array, xx: Array, xy: Array, ridge: float, rounding: float
) -> Fitted:
    """One factor of each channel; with z_c = W0_c^T x_c: Σ |y - Σ_c f_c z_c|^2 + r |f - 1|^2."""
    kept = np.flatnonzero(block.kept)
    kept = kept[np.argsort(block.channels[kept], kind="stable")]
    _, starts, owner = np.unique(block.channels[kept], return_index=True, return_inverse=True)
    w = start[kept][:, block.written]
    pairs = np.add.reduceat(xx[np.ix_(kept, kept)] * (w @ w.T), starts, axis=0)
    pairs = np.add.reduceat(pairs, starts, axis=1)
    target = np.add.reduceat((xy[kept][:, block.written] * w).sum(1), starts)
    error = (target - pairs.sum(1))[:, None]
    change, method = solve(damped(pairs, ridge), error, rounding)
    scaled = start.copy()
    scaled[kept] *= 1 + change[owner]
    return Fitted(scaled, method)


def bias(moments: Moments, kernel: Array) -> Array:
    """Returns f64[O], the mean of what the kernel leaves: mean y - W^T mean x."""
    return np.asarray(moments.y - moments.x @ kernel)


def error(moments: Moments, kernel: Array, bias: Array, written: Array) -> float:
    """Returns Σ |y - W^T x - b|^2 over the rows and the outputs that stay."""
    w = kernel[:, written]
    about = moments.yy[written].sum() - 2 * (w * moments.xy[:, written]).sum()
    about += (w * (moments.xx @ w)).sum()
    rest = moments.y[written] - moments.x @ w - bias[written]
    return float(max(about, 0) + moments.rows * (rest**2).sum())


def _products(moments: Moments, biased: bool) -> tuple[Array, Array]:
    """Σ x x^T and Σ x y^T, about the means where a bias takes them."""
    if biased:
        return moments.xx, moments.xy
    x = moments.rows * moments.x
    return moments.xx + np.outer(x, moments.x), moments.xy + np.outer(x, moments.y)
