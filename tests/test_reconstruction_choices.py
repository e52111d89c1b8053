"""LASSO over channels: a solution of its problem, at the count that is asked for."""

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import JaxpruneError, KeepError
from jaxprune.recover import lasso
from jaxprune.recover.coefficients import solve_lasso

RANDOM = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def fn(v, x):
    return jax.nn.relu(x @ v["a"]) @ v["b"]


V = {"a": normal(5, 12), "b": normal(12, 3)}
X = normal(50, 5)
GRAPH = jp.trace(fn, V, X)
ADDED = jp.stats.collect(GRAPH, V, [X], {"z": jp.stats.contributions()})["z"]


@pytest.mark.parametrize("count", [1, 4, 9, 12])
def test_lasso_solves_its_problem_at_the_count(count: int) -> None:
    found = lasso(GRAPH, V, {"a": count}, ADDED)
    b, penalty, kept = found.coefficients["a"], found.penalties["a"], found.keep["a"]
    assert kept.sum() == count
    h = np.maximum(X.astype(np.float64) @ V["a"], 0)
    z = np.einsum("nc,co->noc", h, V["b"]).reshape(-1, 12)
    slope = z.T @ (z.sum(1) - z @ b)  # the conditions of an optimum, from the data
    tolerance = 1e-4 * abs(z.T @ z.sum(1)).max()
    np.testing.assert_allclose(slope[kept], penalty * np.sign(b[kept]), atol=tolerance)
    assert (abs(slope[~kept]) <= penalty + tolerance).all()
    folded = V["b"] * b[:, None]
    np.testing.assert_allclose(found.variables["b"], folded, rtol=1e-6)
    np.testing.assert_array_equal(found.variables["a"], V["a"])


def test_a_refit_of_what_lasso_keeps_is_closer() -> None:
    chosen = lasso(GRAPH, V, {"a": 6}, ADDED)
    kept, dense = chosen.keep["a"], np.asarray(fn(V, X))
    refit = jp.recover.least_squares(GRAPH, V, chosen.keep, [X], ridge=0).variables
    errors = [
        (((np.maximum(X @ V["a"], 0)[:, kept] @ v["b"][kept]) - dense) ** 2).sum()
        for v in (refit, chosen.variables)
    ]
    assert errors[0] < errors[1] < (dense**2).sum()


def test_repeated_and_silent_channels() -> None:
    one = np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]])
    b = solve_lasso(one, one.sum(1), 0.5, np.ones(3))
    np.testing.assert_allclose(b[:2].sum(), 1.5)
    v = {"a": V["a"][:, :3] * 0, "b": V["b"][:3]}
    graph = jp.trace(fn, v, X)
    with pytest.raises(JaxpruneError, match="0 of its channels add all that there is"):
        lasso(graph, v, {"a": 2}, {"a": np.zeros((3, 3))})


def test_bad_input() -> None:
    with pytest.raises(JaxpruneError, match=r"group 'a' must be finite numbers \[12, 12\], got"):
        lasso(GRAPH, V, {"a": 3}, {})
    with pytest.raises(JaxpruneError, match="must be finite"):
        lasso(GRAPH, V, {"a": 3}, {"a": ADDED["a"] * np.nan})
    with pytest.raises(KeepError):
        lasso(GRAPH, V, {"a": 13}, ADDED)
