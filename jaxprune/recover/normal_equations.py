"""Symmetric systems in float64 on the host: Cholesky, and what stands in where it fails."""

from typing import NamedTuple

import numpy as np

Array = np.ndarray
CHOLESKY = "Cholesky"


class Solution(NamedTuple):
    """x of a x = b, and by which factorization."""

    x: Array
    method: str


def damped(a: Array, damping: float) -> Array:
    """Returns a + damping * mean(diag a) I, in float64."""
    wide = np.array(a, np.float64)
    if len(wide):
        wide.flat[:: len(wide) + 1] += damping * np.diagonal(wide).mean()
    return wide


def solve(a: Array, b: Array, rounding: float) -> Solution:
    """Returns the solution of a x = b for a symmetric f64[k, k] that is not negative.

    Where Cholesky fails, or the squares of its pivots spread over more than 1 / (k * rounding), so
    that `a` is not known well enough to divide by it, the pseudo-inverse without the eigenvalues
    below k * rounding of the largest gives the least solution. Its name says how many are left.

    Args:
      a: f64[k, k].
      b: f64[k, m].
      rounding: of the sums that `a` consists of: the epsilon of their type.
    """
    from scipy.linalg import cho_factor, cho_solve

    floor = max(len(a), 1) * rounding
    try:
        factor = cho_factor(a, lower=True)
        pivots = np.diagonal(factor[0]) ** 2
        if len(a) and pivots.min() > floor * pivots.max():
            return Solution(cho_solve(factor, b), CHOLESKY)
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(a)
    left = values > floor * values.max(initial=0)
    basis = vectors[:, left]
    x = basis @ ((basis.T @ b) / values[left, None])
    return Solution(x, f"pseudo-inverse of rank {int(left.sum())} of {len(a)}")
