"""Collectives over the axes that `vmap` maps: reductions, also of channels."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp

X = np.random.default_rng(0).normal(size=(4, 6, 5))


def over(axis: int, fn: Any) -> Any:
    return lambda h: jax.vmap(fn, in_axes=axis, out_axes=axis, axis_name="i")(h)


# name -> (hidden [4, 6, 8]) -> hidden; mapped over replicas, places or the channels.
EXACT = {
    "psum of replicas": over(0, lambda h: h - lax.psum(h, "i")),
    "pmean of replicas": over(0, lambda h: h - lax.pmean(h, "i")),
    "pmax of replicas": over(0, lambda h: h - lax.pmax(h, "i")),
    "pmin of places": over(1, lambda h: h - lax.pmin(h, "i")),
    "all_gather of replicas": over(0, lambda h: h + lax.all_gather(h, "i").sum(0)),
    "ring of replicas": over(
        0, lambda h: h + lax.ppermute(h, "i", [(i, (i + 1) % 4) for i in range(4)])
    ),
    "scatter of a sum": over(0, lambda h: h + lax.psum_scatter(h[:4], "i")[None]),
    "psum over channels": over(2, lambda h: h * lax.psum(h, "i")),
    "pmean over channels": over(2, lambda h: h - h * lax.pmean(h, "i")),
    "psum over channels in a jit": over(2, jax.jit(lambda h: h * lax.psum(h, "i"))),
    "psum of two axes": lambda h: jax.vmap(
        jax.vmap(lambda h: h * lax.psum(h, ("i", "j")), axis_name="j"), axis_name="i"
    )(h),
    "psum of the outer axis": lambda h: jax.vmap(
        jax.vmap(lambda h: h * lax.psum(h, "i"), axis_name="j"), axis_name="i"
    )(h),
    "psum of a tree": over(0, lambda h: sum(lax.psum((h, 2 * h), "i"), h)),
}
INEXACT = {
    "pmax over channels": over(2, lambda h: h - lax.pmax(h, "i")),
    "pmin over channels": over(2, lambda h: h - lax.pmin(h, "i")),
    "psum of what is not zero": over(2, lambda h: h * lax.psum(jnp.cos(h), "i")),
    "all_gather over channels": over(2, lambda h: h + jnp.cos(lax.all_gather(h, "i")).sum(0)),
}


def network(apply: Any) -> Any:
    return lambda v, x: apply(x @ v["w"]) @ v["u"]


def variables() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {"w": random.normal(size=(5, 8)), "u": random.normal(size=(8, 2))}


@pytest.mark.parametrize("name", EXACT | INEXACT)
def test_a_mapped_collective_is_a_reduction(name: str) -> None:
    with jax.enable_x64(True):
        fn, v = network((EXACT | INEXACT)[name]), variables()
        graph = jp.trace(fn, v, X)
        (group,) = graph.groups.values()
        assert {(slot.path, slot.axis) for slot in group.slots} == {("w", 1), ("u", 0)}
        assert (group.inexact is None) == (name in EXACT)
        keep = {"w": np.isin(np.arange(8), [1, 4, 6])}
        masked = fn(jp.mask(graph, v, keep), X)
        small = jp.narrow(fn, graph, keep)(jp.slice(graph, v, keep), X)
        assert np.allclose(masked, small, rtol=1e-9) == (name in EXACT)


def test_the_batch_norms_of_mapped_replicas() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.BatchNorm(use_running_average=False, axis_name="batch")(nn.Dense(8)(x))
            return nn.Dense(3)(nn.relu(x))

    net = Net()
    v = jax.jit(net.init)(jax.random.key(0), X[0].astype(np.float32))

    def train(v: Any, x: Any) -> Any:
        replica = functools.partial(net.apply, v, mutable=["batch_stats"])
        logits, updates = jax.vmap(replica, axis_name="batch")(x)
        return logits, jax.tree.map(lambda leaf: leaf[0], updates)

    x = X.astype(np.float32)
    graph = jp.trace(train, v, x)
    assert {name: group.inexact for name, group in graph.groups.items()} == {"Dense_0/kernel": None}
    keep = {"Dense_0/kernel": np.isin(np.arange(8), [1, 4, 6])}
    logits, updates = jax.jit(train)(jp.mask(graph, v, keep), x)
    small, updated = jax.jit(jp.narrow(train, graph, keep))(jp.slice(graph, v, keep), x)
    np.testing.assert_allclose(logits, small, rtol=1e-4, atol=1e-6)
    kept = jp.slice(graph, updates, keep)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), kept, updated)
    model = jp.linen.resize(net, graph, keep)
    assert model.follows == ()
