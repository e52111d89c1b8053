"""What statistics take: operations of an array once, and nothing of its size on the host."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

import jaxprune as jp
from jaxprune import stats
from jaxprune.stats import At
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


def test_neither_activations_nor_weights_come_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read there is the state: of a group of n at most n x n numbers."""
    n, v = 20, {"a": jnp.ones((400, 20)), "b": jnp.ones((20, 30)), "c": jnp.ones((30, 30))}
    x, y = jnp.ones((512, 400)), jnp.ones((512, 30))

    def fn(v: Any, x: Any) -> Any:
        return jax.nn.relu(x @ v["a"]) @ v["b"] @ v["c"]

    def loss(outputs: Any, batch: Any) -> Any:
        return ((outputs - batch[1]) ** 2).mean()

    graph = jp.trace(fn, v, x)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    x, y = jax.device_put((x, y), jax.NamedSharding(mesh, jax.P("d")))
    v = jax.device_put(v, jax.NamedSharding(mesh, jax.P()))
    sizes: list[int] = []

    def noted(read: Callable[..., Any]) -> Callable[..., Any]:
        def reads(tree: Any, *args: Any, **keywords: Any) -> Any:
            leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
            sizes.extend(leaf.size for leaf in leaves if not isinstance(leaf, Tracer))
            return read(tree, *args, **keywords)

        return reads

    for place, name in ((np, "asarray"), (np, "array"), (jax, "device_get")):
        monkeypatch.setattr(place, name, noted(getattr(place, name)))
    wanted = {
        "moments": stats.moments(),
        "gram": stats.gram(),
        "norm": stats.weighted_norm(),
        "each": stats.mean_square(at=At.EXAMPLES),
        "slope": stats.sum(at=At.GATES),
    }
    found = stats.collect(graph, v, [(x, y), (x, y)], wanted, loss=loss)
    jp.scores.fisher(graph, found["each"])
    jp.scores.taylor(graph, v, jax.grad(lambda v: loss(fn(v, x), (x, y)))(v))
    jp.scores.l2(graph, v)
    assert sizes
    assert max(sizes) <= 30 * 30
    assert n in sizes
