"""Normalizers of scores, against their formulas and at their edges."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

S = jp.scores
RANDOM = np.random.default_rng(0)


def lamp(s: np.ndarray) -> np.ndarray:
    """Each square over the sum of those that are not pruned before it."""
    order = sorted(range(len(s)), key=lambda i: (s[i], i))
    left = [sum(s[j] ** 2 for j in order[k:]) for k in range(len(s))]
    return np.array([s[i] ** 2 / left[order.index(i)] for i in range(len(s))])


FORMULAS: dict[str, Callable[[Any], Any]] = {
    "euclidean": lambda s: s / np.sqrt(np.sum(s**2)),
    "max": lambda s: s / np.max(np.abs(s)),
    "mean": lambda s: s / np.mean(np.abs(s)),
    "sum": lambda s: s / np.sum(np.abs(s)),
    "min_max": lambda s: (s - np.min(s)) / (np.max(s) - np.min(s)),
    "standard": lambda s: (s - np.mean(s)) / np.std(s),
    "lamp": lamp,
    "none": lambda s: s,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_for_each_layer_by_itself(name: str) -> None:
    flat = RANDOM.uniform(0.1, 3, size=7).astype(np.float32)
    stacked = RANDOM.uniform(0.1, 3, size=(3, 5))
    found = S.normalized({"a": flat, "b": stacked}, by=getattr(S, name))
    np.testing.assert_allclose(found["a"], FORMULAS[name](flat), rtol=1e-5, atol=1e-6)
    rows = np.stack([FORMULAS[name](row) for row in stacked])
    np.testing.assert_allclose(found["b"], rows, rtol=1e-12)
    assert (found["a"].dtype, found["b"].dtype) == (np.float32, np.float64)
    traced = jax.jit(lambda scores: S.normalized(scores, by=getattr(S, name)))({"a": flat})
    np.testing.assert_allclose(traced["a"], found["a"], rtol=1e-5, atol=1e-6)


EDGES = {
    "zeros": np.zeros(4),
    "one channel": np.ones(1),
    "equal": np.full(5, 0.1, np.float32),
    "tiny": np.array([1e-30, 2e-30, 3e-30], np.float32),
    "huge": np.array([1e38, 2e38, 3e38], np.float32),
    "zeros and one": np.array([0, 0, 1.0]),
    "one layer of zeros": np.array([[0, 0.0], [1, 2]]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", FORMULAS)
def test_nothing_is_nan_and_the_order_stays(name: str, edge: str) -> None:
    given = EDGES[edge]
    found = S.normalized({"a": given}, by=getattr(S, name))["a"]
    assert np.isfinite(found).all()
    assert (np.sign(np.diff(found)) * np.sign(np.diff(given)) >= 0).all()
    if name in ("standard", "min_max") and edge in ("zeros", "equal", "one channel"):
        assert not found.any()
    if edge == "zeros":
        assert not found.any()


@pytest.mark.parametrize("name", [name for name in FORMULAS if name != "lamp"])
def test_negative_scores_keep_their_order(name: str) -> None:
    for given in ([-3.0, -1.0, -2.0], [-1.0, 1.0, 0.0]):
        found = S.normalized({"a": np.array(given)}, by=getattr(S, name))["a"]
        assert np.argsort(found).tolist() == np.argsort(given).tolist()


def test_what_a_normalizer_may_not_do() -> None:
    given = {"a": np.array([1.0, 2.0]), "b": np.ones(3)}
    for by, text in (
        (
            lambda s: s.mean(),
            "by changes what scores are:\nthose of 'a' are np.float64\\(1.5\\), not",
        ),
        (lambda s: s[:1], "those of 'b' are float64\\[1\\], not float64\\[3\\]"),
        (lambda s: s * np.nan, "what by made .* not finite: 'a' at channels \\[0, 1\\], 'b'"),
        (S.l2, "by must take the scores of one group, but of l2: missing"),
        (3, "by must be a function, got 3"),
    ):
        with pytest.raises(jp.errors.ScoreError, match=text) as caught:
            S.normalized(given, by=by)
        assert "\nFix: by=jp.scores.mean" in str(caught.value)
    with pytest.raises(jp.errors.ScoreError, match=r"lamp squares .* negative"):
        S.normalized({"a": np.array([-1.0, 2.0])}, by=S.lamp)
    with pytest.raises(jp.errors.ScoreError, match=r"must be real numbers.*\n'a' are 'x'\nFix: "):
        S.normalized({"a": "x", "b": np.ones(2)}, by=S.none)
    for bad in (np.nan, np.inf):
        with pytest.raises(jp.errors.ScoreError, match=r"not finite: 'a' at channels \[1\]"):
            S.normalized({"a": np.array([0.0, bad])}, by=S.mean)


def test_a_function_of_ones_own() -> None:
    def by_median(scores: Any) -> Any:
        return scores / np.median(scores)

    found = S.normalized({"a": jnp.array([1.0, 2.0, 4.0])}, by=by_median)
    np.testing.assert_array_equal(found["a"], [0.5, 1, 2])
