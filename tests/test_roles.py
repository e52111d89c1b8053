"""Which role a variable's axis plays, where several variables make up one kernel."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp

N, M = 6, 5


def roles(graph: jp.ChannelGraph) -> dict[tuple[str, int], str]:
    """Returns {(path, axis): role}."""
    return {
        (slot.path, slot.axis): slot.role for group in graph.groups.values() for slot in group.slots
    }


KERNELS: dict[str, Callable[[Any, Any], Any]] = {
    "beside each other": lambda a, b: jnp.concatenate([a, b], axis=1),
    "stacked": lambda a, b: jnp.stack([a, b]).sum(0),
    "summed": lambda a, b: a + 0.5 * b,
    "chosen": lambda a, b: jnp.where(jnp.ones((N, M), bool), a, b),
    "transposed and joined": lambda a, b: jnp.concatenate([a.T, b.T]).T,
    "three": lambda a, b: jnp.concatenate([a * 2, b, a + b], axis=1),
}


@pytest.mark.parametrize("name", KERNELS)
def test_every_variable_of_a_kernel_has_its_roles(name: str) -> None:
    def fn(v: Any, x: Any) -> Any:
        h = jnp.tanh(x @ v["first"])
        return jnp.tanh(h @ KERNELS[name](v["a"], v["b"])) @ v["last"]

    width = jax.eval_shape(KERNELS[name], np.zeros((N, M)), np.zeros((N, M))).shape[1]
    v = {"first": np.ones((3, N)), "a": np.ones((N, M)), "b": np.ones((N, M))}
    graph = jp.trace(fn, v | {"last": np.ones((width, 2))}, np.ones((4, 3)))
    known = roles(graph)
    assert {known[path, 0] for path in "ab"} == {"in"}
    assert {known[path, 1] for path in "ab"} == {"out"}


def test_what_only_changes_a_kernel_is_a_vector() -> None:
    def fn(v: Any, x: Any) -> Any:
        kernel = (
            v["kernel"] / jnp.linalg.norm(v["kernel"], axis=0, keepdims=True) * v["scale"][None]
            + v["shift"][None]
        )
        return jnp.tanh(x @ kernel) @ v["last"]

    v = {"kernel": np.ones((3, N)), "scale": np.ones(N), "shift": np.ones(N)}
    known = roles(jp.trace(fn, v | {"last": np.ones((N, 2))}, np.ones((4, 3))))
    assert known["kernel", 1] == "out"
    assert known["scale", 0] == known["shift", 0] == "vector"


def test_kernels_joined_for_one_product_have_the_roles_of_kernels_apart() -> None:
    def graph(cell: Callable[[int], nn.RNNCellBase]) -> jp.ChannelGraph:
        model = nn.Sequential([nn.Dense(N), nn.RNN(cell(M), name="rnn"), nn.Dense(2)])
        x = jnp.ones((2, 3, 4))
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        return jp.trace(model.apply, variables, x)

    apart, joined = graph(nn.LSTMCell), graph(nn.OptimizedLSTMCell)

    def named(graph: jp.ChannelGraph) -> dict[tuple[str, int], str]:
        return {
            (path.replace("OptimizedLSTM", "LSTM"), axis): role
            for (path, axis), role in roles(graph).items()
        }

    assert named(joined) == named(apart)
