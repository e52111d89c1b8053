"""A small network for the tests of slimmable training, search and serving."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from jaxprune import slimmable

close = partial(jax.tree.map, partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-9))


class Residual(nn.Module):
    """A stem with BatchNorm, a residual block, a head."""

    width: int = 8
    inner: int = 12

    @nn.compact
    def __call__(self, x, train=False):
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")
        x = nn.relu(norm(nn.Dense(self.width, name="stem")(x)))
        y = nn.relu(nn.Dense(self.inner, name="up")(x))
        x = nn.relu(x + nn.Dense(self.width, name="down")(y))
        return nn.Dense(3, name="head")(x)


class Normed(nn.Module):
    """Its stream enters a LayerNorm, where a zero is not neutral."""

    width: int = 12
    inner: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.Dense(self.width, name="in")(x))
        return nn.Dense(3, name="out")(nn.relu(nn.Dense(self.inner, name="inner")(x)))


class Setup(NamedTuple):
    model: Any
    graph: jp.ChannelGraph
    variables: Any
    x: Any
    labels: Any

    def train(self, keep):
        """The network at the widths of keep: (variables, x) -> (logits, statistics)."""
        small = jp.linen.resize(self.model, self.graph, keep)
        return jax.jit(partial(small.apply, train=True, mutable=["batch_stats"]))

    def serve(self, keep):
        """The network at the widths of keep: (variables, x) -> logits."""
        return jax.jit(jp.linen.resize(self.model, self.graph, keep).apply)


def setup(model: Any = None, seed: int = 0, dtype: Any = jnp.float32) -> Setup:
    """Returns the network with random variables, of which nothing is zero, and a batch."""
    model, rng = model or Residual(), np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(12, 2)), dtype)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(
        lambda leaf: (
            jnp.asarray(rng.uniform(0.3, 1, leaf.shape), dtype)
            * jnp.asarray(np.where(leaf.ndim > 1, rng.choice([-1, 1], leaf.shape), 1), dtype)
        ),
        shapes,
    )
    graph = jp.trace(lambda v, x: model.apply(v, x), variables, x[:1])
    return Setup(model, graph, variables, x, jnp.arange(12) % 3)


def loss(logits, labels):
    """Returns the mean cross entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def widths_of(graph, widths=(1.0, 0.5)):
    """Returns the prefix keep of each multiplier."""
    return {width: slimmable.prefix(graph, width, divisor=2) for width in widths}
