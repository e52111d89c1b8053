"""Functions of Haiku modules of which branches go."""

import haiku as hk
import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.arguments.paths import flatten

X = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)


class Block(hk.Module):
    """An MLP behind BatchNorm, with a scale beside it."""

    def __call__(self, x, train):
        y = hk.BatchNorm(True, True, 0.9)(x, is_training=train)
        y = hk.nets.MLP([8, 6], activation=jax.nn.gelu)(y)
        return x + y * hk.get_parameter("scale", (1, 6), init=hk.initializers.RandomNormal())


def network(x, train):
    x = hk.Linear(6)(x)
    for _ in range(3):
        x = Block()(x, train)
    return hk.Linear(2)(x)


MODEL = hk.without_apply_rng(hk.transform_with_state(network))


def run(v, x):
    logits, state = MODEL.apply(v["params"], v["state"], x, True)
    return logits, {"state": state}


def test_a_function_loses_a_block_and_channels_of_another() -> None:
    params, state = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), X, True))
    random = np.random.default_rng(1)
    v = jax.tree.map(
        lambda leaf: random.uniform(0.1, 0.9, leaf.shape).astype(leaf.dtype),
        {"params": params, "state": state},
    )
    graph = jp.trace(run, v, X)
    branch, hidden = "+block_1/mlp/~/linear_1/w", "block/mlp/~/linear_0/w"
    assert branch in jp.branches(graph)
    keep = {branch: False, hidden: np.arange(8) < 5}
    small = jp.slice(graph, v, keep)
    assert not any("block_1" in path for path in flatten(small)[0])
    resized = jp.haiku.resize(run, graph, keep)
    ours, wanted = resized(small, X), jp.narrow(run, graph, keep)(small, X)
    assert jax.tree.structure(ours) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, wanted)
    again = jp.trace(resized, small, X)
    assert jp.cost.macs(again) == jp.cost.macs(graph, keep)
    verified = jp.verify(graph, run, keep, v, X, resized=resized)
    assert verified.ok
    assert verified.resized == "exact"
    with pytest.raises(jp.errors.TreeError):
        resized(v, X)
