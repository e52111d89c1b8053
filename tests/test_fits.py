"""Kernels fitted from moments: never worse on their data, better where inputs are alike."""

from typing import Any

import numpy as np

from jaxprune.recover import Form
from jaxprune.recover.fits import Block, Moments, fit
from jaxprune.recover.fits import error as squared_error

EPS = float(np.finfo(np.float64).eps)


def moments_of(x: np.ndarray, y: np.ndarray) -> Moments:
    dx, dy = x - x.mean(0), y - y.mean(0)
    rows: Any = float(len(x))
    products = dx.T @ dx, dx.T @ dy, (dy * dy).sum(0)
    return Moments(rows, x.mean(0), y.mean(0), *products, (y * y).sum(0))


def test_a_hundred_random_layers_are_never_worse_on_their_data() -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        k, o, n = rng.integers(2, 30), rng.integers(1, 9), rng.integers(2, 80)
        x = rng.normal(size=(n, k)) @ rng.normal(size=(k, k)) + rng.normal(size=k)
        w = rng.normal(size=(k, o))
        kept = rng.permutation(k) < rng.integers(1, k)
        channels, written = np.arange(k) // 2, rng.random(o) < 0.8
        block = Block(w, kept, written, channels)
        y = x @ w + rng.normal(size=(n, o)) * (seed % 2)
        data, biased = moments_of(x, y), bool(seed % 3)
        start = np.where(kept[:, None], w, 0)
        for form in Form:
            for ridge in (0.0, 1e-3, 1.0):
                new = fit(block, [data], [biased], form, ridge, EPS).kernel
                shifts = [
                    y.mean(0) - x.mean(0) @ u if biased else np.zeros(o) for u in (start, new)
                ]
                before, after = (
                    squared_error(data, u, b, written)
                    for u, b in zip((start, new), shifts, strict=True)
                )
                assert after <= before * (1 + 1e-9) + 1e-9, (seed, form, ridge)
                direct = ((y - x @ new - shifts[1])[:, written] ** 2).sum()
                np.testing.assert_allclose(after, direct, rtol=1e-6, atol=1e-6)
                assert not new[~kept].any()


def test_held_out_errors_fall_on_correlated_inputs() -> None:
    ratios, white = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        k, kept = 32, rng.permutation(32) < 16
        mix = rng.normal(size=(8, k)) + 0.0
        w = rng.normal(size=(k, 6))
        for out, correlated in ((ratios, True), (white, False)):
            z = rng.normal(size=(2, 160, 8)) @ mix + 0.5 * rng.normal(size=(2, 160, k))
            x, fresh = z if correlated else rng.normal(size=(2, 160, k))
            block = Block(w, kept, np.ones(6, bool), np.arange(k))
            data = moments_of(x, x @ w)
            new = fit(block, [data], [True], Form.KERNEL, 0.01, EPS).kernel
            shift = (x @ w - x @ new).mean(0)
            old = ((fresh[:, ~kept] @ w[~kept]) ** 2).mean()
            out.append(((fresh @ w - fresh @ new - shift) ** 2).mean() / old)
    assert np.mean(ratios) < 0.5
    assert max(ratios) <= 1.1
    print(f"held out, error with over without: {np.mean(ratios):.3f}; white {np.mean(white):.3f}")
    assert 1 < np.mean(white) < 1 + 2 * 17 / 160  # what fitting noise costs: about kept / rows
