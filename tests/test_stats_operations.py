"""What statistics take: operations of an array once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import stats
from jaxprune.stats import grams
from jaxprune.stats.products import between, pairs

RANDOM = np.random.default_rng(0)


def operations(run: Callable[..., Any], *args: Any) -> float:
    found: Any = jax.jit(run).lower(*args).compile().cost_analysis()
    return (found[0] if isinstance(found, list) else found)["flops"]


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_halves_give_the_matrix_of_all_pairs(dtype: str) -> None:
    x = RANDOM.normal(size=(2, 5, 1031)) + 1j * RANDOM.normal(size=(2, 5, 1031))
    x = (x if dtype == "complex64" else x.real).astype(dtype)
    expected = np.einsum("bsi,bsj->bij", x, x.conj())
    np.testing.assert_allclose(jax.jit(pairs)(x), expected, rtol=1e-4, atol=1e-4)


def test_halves_take_three_quarters_of_the_operations() -> None:
    x = jax.ShapeDtypeStruct((64, 1024), jnp.float32)
    assert operations(pairs, x) < 0.76 * operations(lambda x: between(x, x), x)


def test_what_several_kernels_read_is_multiplied_once() -> None:
    """Queries, keys and values of one array, in layers of a scan."""
    shapes = jax.ShapeDtypeStruct((4, 2, 32), jnp.float32), jax.ShapeDtypeStruct((4, 32, 2), "f4")

    def extra(readers: int) -> float:
        def fn(v: Any, x: Any) -> Any:
            def layer(x: Any, w: Any) -> Any:
                h = jax.nn.relu(x @ w["up"])
                return x + sum(h @ w[f"down{i}"] for i in range(readers)), None

            return jax.lax.scan(layer, x, v)[0]

        v = {"up": shapes[0]} | {f"down{i}": shapes[1] for i in range(readers)}
        x = jax.ShapeDtypeStruct((64, 2), jnp.float32)
        tools = stats.collector(jp.trace(fn, v, x), {"": stats.covariance()}, groups=["up"])
        return operations(tools.update, tools.init(v, x), v, x) - operations(fn, v, x)

    once, thrice = extra(1), extra(3)
    gram = 2 * 64 * 32 * 32
    assert once > gram
    assert thrice - once < gram / 2


def test_contributions_take_the_products_of_all_pairs_alone() -> None:
    """The sum over the inputs of a channel is none."""
    rows, n, window, outputs = 64, 32, 9, 16

    def dense(v: Any, x: Any) -> Any:
        return jax.nn.relu(x @ v["a"]) @ v["b"]

    def conv(v: Any, x: Any) -> Any:
        dims = ("NHWC", "HWIO", "NHWC")
        h = jax.nn.relu(x @ v["a"])
        return jax.lax.conv_general_dilated(h, v["b"], (1, 1), "SAME", dimension_numbers=dims)

    for fn, size, shape, x in (
        (dense, n, (n, outputs), (rows, 3)),
        (conv, n * window, (3, 3, n, outputs), (1, 8, 8, 3)),
    ):
        v = {name: jax.ShapeDtypeStruct(s, "f4") for name, s in (("a", (3, n)), ("b", shape))}
        x = jax.ShapeDtypeStruct(x, "f4")
        graph = jp.trace(fn, v, x)
        tools = stats.collector(graph, {"z": stats.contributions()})
        extra = operations(tools.update, tools.init(v, x), v, x) - operations(fn, v, x)
        assert extra < 1.1 * 2 * size**2 * (rows + outputs)


def test_channels_with_unlike_numbers_of_inputs_in_several_blocks() -> None:
    """Pairs of five columns in each of two blocks, that some channel owns, or none."""
    owner = np.array([[2, 0, 2, -1, 1], [3, -1, 3, 3, 0]])
    matrix = RANDOM.normal(size=(2, 5, 5)).astype(np.float32)
    found = jnp.zeros((4, 4)).at[grams.channel_pairs(owner)].add(matrix, mode="drop")
    expected = np.zeros((4, 4))
    for block, *pair in np.argwhere((owner[:, :, None] >= 0) & (owner[:, None, :] >= 0)):
        expected[tuple(owner[block, pair])] += matrix[block, *pair]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
