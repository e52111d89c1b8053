"""Channels removed one at a time by the inverse Hessian of a layer, in float64 on the host."""

from collections.abc import Sequence

import numpy as np

from jaxprune.recover.normal_equations import solve
from jaxprune.stats.refitted import block_costs

Array = np.ndarray
REFRESH = 64
"""After how many removals the inverse is made anew, so that rounding does not pile up."""


class Surgeon:
    """One kernel W f64[K, O] whose inputs are removed, and the inverse of its damped H f64[K, K].

    `kernel` holds what the inputs that are left became; it is zero at those that went.
    """

    def __init__(self, hessian: Array, kernel: Array, written: Array, rounding: float):
        self.hessian, self.method = _positive(hessian, rounding)
        self.start = kernel
        self.written = written
        self.left = np.ones(len(kernel), bool)
        self.removed = 0
        self.refresh()

    def refresh(self) -> None:
        """Computes inverse and kernel from the Hessian anew, without any downdate."""
        left = self.left
        inside = self.hessian[np.ix_(left, left)]
        self.inverse = np.zeros_like(self.hessian)
        self.inverse[np.ix_(left, left)] = solve(inside, np.eye(len(inside)), 0).x
        self.kernel = np.zeros_like(self.start)
        lost = self.hessian[np.ix_(left, ~left)] @ self.start[~left]
        self.kernel[left] = self.start[left] + solve(inside, lost, 0).x

    def costs(self, owner: Array, channels: int) -> Array:
        """Returns f64[channels]: 1/2 tr(W_c^T ((H^-1)_cc)^-1 W_c), 0 where no input is of c."""
        left = np.where(self.left, owner, -1)
        return block_costs(self.inverse, self.kernel[:, self.written], left, channels)

    def remove(self, gone: Array) -> None:
        """Removes the inputs bool[K], downdating the kernel and the inverse."""
        gone = np.flatnonzero(gone & self.left)
        if not len(gone):
            return
        rows = self.inverse[gone]
        inside = rows[:, gone]
        self.kernel = self.kernel - rows.T @ np.linalg.solve(inside, self.kernel[gone])
        self.inverse = self.inverse - rows.T @ np.linalg.solve(inside, rows)
        self.left[gone] = False
        self.kernel[gone] = 0
        self.inverse[gone] = 0
        self.inverse[:, gone] = 0
        self.removed += 1
        if self.removed % REFRESH == 0:
            self.refresh()


def remove_cheapest(
    surgeons: Sequence[tuple[Surgeon, Array]], channels: int, count: int
) -> tuple[Array, Array]:
    """Removes channels until `count` are left; each time the one whose removal costs least.

    Args:
      surgeons: each with the channel int[K] that an input is of, -1 for none; all lose the same.
      channels: how many there are.
      count: how many stay.

    Returns:
      bool[channels], which stay, and f64[channels], what each cost when it went, or would cost now.
    """
    kept, costs = np.ones(channels, bool), np.zeros(channels)
    while True:
        now = np.sum([surgeon.costs(owner, channels) for surgeon, owner in surgeons], axis=0)
        costs = np.where(kept, now, costs)
        if kept.sum() <= count:
            return kept, costs
        worst = int(np.where(kept, now, np.inf).argmin())
        kept[worst] = False
        for surgeon, owner in surgeons:
            surgeon.remove(owner == worst)


def _positive(hessian: Array, rounding: float) -> tuple[Array, str]:
    """H, or where its least eigenvalue drowns in the rounding of its sums, H lifted above it."""
    values = np.linalg.eigvalsh(hessian)
    floor = len(hessian) * rounding * max(values.max(initial=0), np.finfo(np.float64).tiny)
    if not len(values) or values.min() > floor:
        return hessian, "Cholesky"
    lifted = hessian + (floor - min(values.min(), 0)) * np.eye(len(hessian))
    return lifted, f"singular, so damped by {floor:.2g} more"
