"""Branches are scored, and taken out by the loss."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

X = np.ones((2, 4), np.float32)
V = {name: np.ones((4, 4), np.float32) for name in "abc"} | {"head": np.ones((4, 2), np.float32)}


def two(v, x):
    x = x + jnp.tanh(x @ v["a"])
    return (x + x @ v["b"] @ v["c"]) @ v["head"]


def loss(gates):
    graph = jp.trace(two, V, X)
    return jnp.mean((jp.gated(two, graph)(V, gates, X) - two(V, X)) ** 2)


def test_scores_of_branches() -> None:
    graph, whole = jp.trace(two, V, X), jp.gates.unit_branches(jp.trace(two, V, X))
    assert float(loss(whole)) == 0
    without = jp.scores.removal_loss(graph, loss)
    for name in whole:
        small = jp.slice(graph, V, {name: False})
        ours = jp.narrow(two, graph, {name: False})(small, X)
        np.testing.assert_allclose(without[name], np.mean((ours - two(V, X)) ** 2), rtol=1e-6)
    slopes = jax.grad(lambda gates: jp.gated(two, graph)(V, gates, X).sum())(whole)
    scores = jp.scores.taylor_branch(graph, slopes)
    y = X + np.tanh(X @ V["a"])
    np.testing.assert_allclose(scores["+c"], (y @ V["b"] @ V["c"] @ V["head"]).sum(), rtol=1e-6)
    influence = jp.scores.block_influence(two, graph, V, X)
    after = y + y @ V["b"] @ V["c"]
    cosine = (y * after).sum(1) / np.sqrt((y * y).sum(1) * (after * after).sum(1))
    np.testing.assert_allclose(influence["+c"], 1 - cosine.mean(), atol=1e-6)


def chain(v, x):
    for name in "abc":
        x = x + x @ v[name]
    return x @ v["head"]


def weighed(**weights: float) -> Any:
    """A network whose branches have these weights, and what a loss of gates is for it."""
    v = {name: np.eye(4, dtype=np.float32) * weight for name, weight in weights.items()}
    v |= {"head": np.ones((4, 2), np.float32)}
    graph = jp.trace(chain, v, X)
    run = jp.gated(chain, graph)
    return graph, lambda gates: jnp.mean((run(v, gates, X) - chain(v, X)) ** 2)


def gone(keep: Any) -> list[str]:
    return [name for name, kept in keep.items() if not np.all(kept)]


def test_depth_takes_out_what_matters_least() -> None:
    graph, loss = weighed(a=0.3, b=0.1, c=0.2)
    assert gone(jp.select.depth(graph, loss, remove=1)) == ["+b"]
    assert gone(jp.select.depth(graph, loss, remove=2)) == ["+b", "+c"]
    assert gone(jp.select.depth(graph, loss, remove=1, protect="+b")) == ["+c"]
    assert gone(jp.select.depth(graph, loss, remove=1, protect_last=2)) == ["+a"]
    assert gone(jp.select.depth(graph, loss, remove=1, together=[["+a", "+b"]])) == ["+c"]
    keep = jp.select.depth(graph, loss, keep_macs=0.6)
    assert gone(keep) == ["+b", "+c"]
    assert jp.cost.macs(graph, keep) <= 0.6 * jp.cost.macs(graph)


def test_depth_counts_the_whole_loss_again_in_every_round() -> None:
    """b undoes a: each alone is missed, and without the one the other is not."""
    graph, loss = weighed(a=1.0, b=-0.5, c=0.4)
    first = jp.scores.removal_loss(graph, loss)
    assert min(first, key=first.get) == "+c"
    assert gone(jp.select.depth(graph, loss, remove=3)) == ["+a", "+b", "+c"]
    assert gone(jp.select.depth(graph, loss, remove=2, protect="+c")) == ["+a", "+b"]


def test_depth_says_what_is_not_to_be_had() -> None:
    graph, loss = weighed(a=0.3, b=0.1, c=0.2)
    with pytest.raises(jp.errors.BudgetError, match="1 of 3 branches may go, and that is not en"):
        jp.select.depth(graph, loss, remove=2, min_left=2)
    with pytest.raises(jp.errors.BudgetError, match="depth needs a number or a bound"):
        jp.select.depth(graph, loss)
    with pytest.raises(jp.errors.PatternError, match="protect pattern"):
        jp.select.depth(graph, loss, remove=1, protect="+z")
    with pytest.raises(jp.errors.BudgetError, match="in several entries of together"):
        jp.select.depth(graph, loss, remove=1, together=[["+a"], ["+a", "+b"]])
