"""Removal by the inverse Hessian: the brute-force optimum, downdates, and hard conditions."""

import numpy as np
import pytest

from jaxprune.recover.brain_surgeon import Surgeon, remove_cheapest
from jaxprune.recover.normal_equations import damped, solve

RANDOM = np.random.default_rng(0)
EPS = float(np.finfo(np.float64).eps)


def test_obs_of_one_channel_is_the_brute_force_optimum() -> None:
    x, w = RANDOM.normal(size=(60, 12)), RANDOM.normal(size=(12, 5))
    owner = np.arange(12) % 4
    h = damped(x.T @ x / 60, 0.0)
    surgeon = Surgeon(h, w, np.ones(5, bool), EPS)
    costs = surgeon.costs(owner, 4)
    for channel in range(4):
        kept = owner != channel
        best = np.linalg.lstsq(x[:, kept], x @ w, rcond=None)[0]
        lost = ((x @ w - x[:, kept] @ best) ** 2).sum() / 60
        np.testing.assert_allclose(costs[channel], lost / 2, rtol=1e-9)
        alone = Surgeon(h, w, np.ones(5, bool), EPS)
        alone.remove(~kept)
        np.testing.assert_allclose(alone.kernel[kept], best, rtol=1e-9, atol=1e-12)
        assert not alone.kernel[~kept].any()


def test_a_hundred_downdates_equal_recomputation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxprune.recover.brain_surgeon.REFRESH", 10**9)
    x, w = RANDOM.normal(size=(400, 130)), RANDOM.normal(size=(130, 7))
    surgeon = Surgeon(damped(x.T @ x / 400, 0.01), w, np.ones(7, bool), EPS)
    owner = np.arange(130)
    kept, _ = remove_cheapest([(surgeon, owner)], 130, 30)
    assert kept.sum() == 30
    inverse, kernel = surgeon.inverse.copy(), surgeon.kernel.copy()
    surgeon.refresh()
    np.testing.assert_allclose(inverse, surgeon.inverse, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(kernel, surgeon.kernel, rtol=1e-8, atol=1e-10)


def test_a_thousand_channels_at_a_condition_of_1e9() -> None:
    q = np.linalg.qr(RANDOM.normal(size=(1000, 1000)))[0]
    h = (q * np.logspace(0, -9, 1000)) @ q.T
    h = (h + h.T) / 2
    w = RANDOM.normal(size=(1000, 4))
    surgeon = Surgeon(h, w, np.ones(4, bool), EPS)
    assert surgeon.method == "Cholesky"
    kept, costs = remove_cheapest([(surgeon, np.arange(1000))], 1000, 980)
    assert np.isfinite(costs).all()
    assert (costs > 0).all()
    best = np.linalg.solve(h[np.ix_(kept, kept)], h[kept] @ w)
    d, e = surgeon.kernel - w, np.zeros_like(w)
    e[kept] = best
    e -= w
    error, least = np.sum(d * (h @ d)), np.sum(e * (h @ e))
    np.testing.assert_allclose(error, least, rtol=1e-6)
    np.testing.assert_allclose(costs[~kept].sum(), least / 2, rtol=1e-4)


def test_solve_names_what_it_did() -> None:
    assert solve(np.eye(2), np.ones((2, 1)), EPS).method == "Cholesky"
    flat = solve(np.ones((2, 2)), np.ones((2, 1)), EPS)
    np.testing.assert_allclose(flat.x, [[0.5], [0.5]])
    assert flat.method == "pseudo-inverse of rank 1 of 2"
    assert solve(np.zeros((2, 2)), np.zeros((2, 1)), EPS).method.startswith(
        "pseudo-inverse of rank 0"
    )
