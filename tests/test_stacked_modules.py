"""Linen modules with stacked layers, resized."""

import flax.linen as nn
import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.running.verify import following
from test_stacks import LAYERS, random_keep


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.LayerNorm()(x)
        attention = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
        x = x + attention(y)
        y = nn.relu(nn.Dense(12)(x))
        return x + nn.Dense(x.shape[-1])(y), None


class Stacked(nn.Module):
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        body = nn.remat(Block, prevent_cse=False) if self.remat else Block
        stack = nn.scan(
            body, variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS
        )
        return nn.Dense(3)(stack()(x, None)[0])


@pytest.mark.parametrize("remat", [False, True])
def test_linen_scan_resized(remat):
    model = Stacked(remat=remat)
    x = jax.random.normal(jax.random.key(1), (2, 5, 4))
    v = jax.jit(model.init)(jax.random.key(0), x)
    graph = jp.trace(model.apply, v, x)
    shapes = {name: group.shape for name, group in graph.groups.items()}
    stack = [name for name in shapes if "Scan" in name]
    assert sorted(shapes[name] for name in stack) == [(3, 2), (3, 4), (3, 4), (3, 12)]
    assert all(graph.groups[name].inexact is None for name in stack)
    keep = {name: kept for name, kept in random_keep(graph).items() if name in stack}
    model2 = jp.linen.resize(model, graph, keep)
    assert model2.follows
    small = jp.slice(graph, v, keep)
    masked = model.apply(jp.mask(graph, v, keep), x)
    narrow = jp.narrow(model.apply, graph, keep)
    np.testing.assert_allclose(narrow(small, x), masked, rtol=1e-4, atol=1e-5)
    follow = following(model.apply, graph, keep, model2.apply)
    np.testing.assert_allclose(model2.apply(small, x), follow(small, x), rtol=1e-4, atol=1e-5)
