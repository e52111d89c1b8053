"""Networks whose specs are stored, to be read by another process, JAX, batch or call.

`python tests/spec_networks.py` writes `tests/specs/jax-VERSION.json` under the JAX that runs it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxprune as jp

FOLDER = Path(__file__).with_name("specs")


class Images(nn.Module):
    """Convolutions with BatchNorm, a residual connection and dropout."""

    act: Callable[..., Any] = nn.relu
    dilation: int = 1
    epsilon: float = 1e-5
    pool: int = 2
    joined: bool = True
    late: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        def norm(x):
            return nn.BatchNorm(use_running_average=not train, epsilon=self.epsilon)(x)

        x = self.act(norm(nn.Conv(8, (3, 3), use_bias=False)(x)))
        y = self.act(norm(nn.Conv(12, (3, 3), kernel_dilation=self.dilation)(x)))
        y = norm(nn.Conv(8, (3, 3), use_bias=False)(y))
        x = nn.max_pool(x + y if self.joined else y, (self.pool, self.pool), (2, 2), "SAME")
        x = nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(3)(self.act(x) if self.late else x)


class Tokens(nn.Module):
    """A learned position of one batch, attention and an MLP."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        x = x + self.param("position", nn.initializers.normal(), (1, 5, 8))
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm(epsilon=self.epsilon)(x))
        return nn.Dense(3)(x + nn.Dense(8)(nn.gelu(nn.Dense(16)(x))))


class Model(nnx.Module):
    """An NNX model with BatchNorm and dropout."""

    def __init__(self, seed=0, epsilon=1e-5):
        rngs = nnx.Rngs(seed)
        self.first = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, epsilon=epsilon, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))).mean((1, 2)))


def plain(v, x, slope=0.1):
    """Returns what a plain function makes."""
    h = jax.nn.leaky_relu(x @ v["a"], slope)
    return (h - h.mean(0, keepdims=True)) / x.shape[0] @ v["b"]


def images(batch: int = 1, train: bool = False, **fields: Any) -> jp.ChannelGraph:
    """Returns the graph of `Images`."""
    x = jnp.ones((batch, 8, 8, 3))
    module = Images(**fields)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    rngs = {"dropout": jax.random.key(batch)} if train else None
    mutable = ["batch_stats"] if train else False
    return jp.linen.trace(module, variables, x, train=train, rngs=rngs, mutable=mutable)


def closure(batch: int = 1, **fields: Any) -> jp.ChannelGraph:
    """Returns the graph of a function that applies `Images`."""
    x, module = jnp.ones((batch, 8, 8, 3)), Images(**fields)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return jp.trace(lambda v, x: module.apply(v, 2 * x), variables, x)


def tokens(batch: int = 1, **fields: Any) -> jp.ChannelGraph:
    """Returns the graph of `Tokens`."""
    x, module = jnp.ones((batch, 5, 6)), Tokens(**fields)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return jp.linen.trace(module, variables, x)


def model(batch: int = 1, train: bool = False, **fields: Any) -> jp.ChannelGraph:
    """Returns the graph of `Model`."""
    found = Model(seed=batch, **fields)
    (found.train if train else found.eval)()
    return jp.nnx.trace(found, jnp.ones((batch, 8, 8, 3)))


def function(batch: int = 1, **options: Any) -> jp.ChannelGraph:
    """Returns the graph of `plain`."""
    v = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2))}
    return jp.trace(lambda v, x: plain(v, x, **options), v, jnp.ones((batch, 3)))


GRAPHS: dict[str, Callable[..., jp.ChannelGraph]] = {
    "images": images,
    "images in training": lambda batch=1, **fields: images(batch, train=True, **fields),
    "closure": closure,
    "tokens": tokens,
    "model": model,
    "model in training": lambda batch=1, **fields: model(batch, train=True, **fields),
    "function": function,
}


def half(graph: jp.ChannelGraph) -> dict[str, np.ndarray]:
    """Returns a keep of every second channel."""
    return {name: np.arange(group.size) % 2 == 0 for name, group in graph.groups.items()}


def specs(batch: int) -> dict[str, Any]:
    """Returns the specs of all networks, traced at a batch."""
    return {name: jp.spec(graph := make(batch), half(graph)) for name, make in GRAPHS.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"jax-{jax.__version__}-flax-{flax.__version__}.json"
    path.write_text(json.dumps(specs(batch=4), indent=None, sort_keys=True) + "\n")
    print(path)
