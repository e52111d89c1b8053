"""One small network with all that sparse training meets, and gradients by the seed."""

from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from jaxprune.arguments import paths
from networks import weights


class Block(nn.Module):
    """A stem, and a residual branch with a depthwise convolution; BatchNorm wherever it helps."""

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        def norm(name: str) -> Any:
            return nn.BatchNorm(use_running_average=not train, name=name)

        x = nn.Conv(4, (1, 1), use_bias=False, name="stem")(x)
        x = nn.relu(norm("stem_norm")(x))
        y = nn.relu(norm("up_norm")(nn.Conv(6, (1, 1), name="up")(x)))
        y = nn.relu(nn.Conv(6, (3, 3), feature_group_count=6, use_bias=False, name="depthwise")(y))
        y = norm("down_norm")(nn.Conv(4, (1, 1), use_bias=False, name="down")(y))
        return nn.Dense(3, name="head")((x + y).mean(axis=(1, 2)))


X = np.random.default_rng(3).normal(size=(4, 3, 3, 2)).astype(np.float32)
LABELS = np.arange(4) % 3


@cache
def block() -> tuple[jp.ChannelGraph, Any]:
    """The graph in eval mode, and variables with running statistics away from 0 and 1."""
    variables = weights(Block(), 0, X)
    return jp.trace(Block().apply, variables, X), variables


run = jax.jit(Block().apply)


@jax.jit
def loss(variables: Any) -> Any:
    """In eval mode."""
    outs = Block().apply(variables, X)
    return optax.softmax_cross_entropy_with_integer_labels(outs, LABELS).mean()


@jax.jit
def slopes(params: Any, statistics: Any) -> Any:
    """The gradient of the loss."""
    return jax.grad(lambda params: loss({"params": params, "batch_stats": statistics}))(params)


def noise(params: Any, step: int) -> Any:
    """Gradients of any size, the same for the same step."""
    random = np.random.default_rng(step)
    return jax.tree.map(lambda w: random.normal(size=w.shape).astype(np.float32), params)


def trained(tx: Any, params: Any, steps: int = 20) -> tuple[Any, Any, int]:
    """The parameters and the state after jitted steps with `noise`, and how often it was traced."""
    traces = []

    @jax.jit
    def step(params: Any, state: Any, gradients: Any) -> Any:
        traces.append(1)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params, state = jax.tree.map(jnp.asarray, params), tx.init(params)
    for number in range(steps):
        params, state = step(params, state, noise(params, number))
    return params, state, len(traces)


class Momentum:
    """SGD with weight decay and momentum, in NumPy: `stepped(number)` moves `w` of every path."""

    def __init__(self, params: Any, rate: float, momentum: float, decay: float):
        self.tree = params
        self.w = {p: np.asarray(w, np.float64) for p, w in paths.flatten(params)[0].items()}
        self.buffers = {path: np.zeros_like(w) for path, w in self.w.items()}
        self.rate, self.momentum, self.decay = rate, momentum, decay

    def slopes(self, number: int) -> dict[str, np.ndarray]:
        """The gradients of `noise` by path."""
        return paths.flatten(noise(self.tree, number))[0]

    def step(self, number: int, added: Any = None) -> None:
        """One step by the gradients of `noise`, with `added` before all else."""
        slopes = self.slopes(number)
        for path in self.w:
            slope = slopes[path] + self.decay * self.w[path] + (added or {}).get(path, 0)
            self.buffers[path] = self.momentum * self.buffers[path] + slope
            self.w[path] = self.w[path] - self.rate * self.buffers[path]

    def optimizer(self) -> Any:
        """The same in optax."""
        decay = optax.add_decayed_weights(self.decay)
        return optax.chain(decay, optax.sgd(self.rate, momentum=self.momentum))


def close(got: Any, expected: dict[str, np.ndarray], rtol: float = 1e-4) -> None:
    """Compares a tree with {path: array}, zeros to the bit."""
    named = paths.flatten(got)[0]
    assert named.keys() == expected.keys()
    for path, leaf in named.items():
        np.testing.assert_allclose(leaf, expected[path], rtol=rtol, atol=1e-5, err_msg=path)
        np.testing.assert_array_equal(np.asarray(leaf) == 0, expected[path] == 0, err_msg=path)
