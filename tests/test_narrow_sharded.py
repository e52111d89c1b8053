"""Functions with a shard_map inside, at the kept sizes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from test_narrow import KEEP, RANDOM, V, X
from test_zoo_attention import check_narrow


def mesh(*sizes: int) -> jax.sharding.Mesh:
    auto = (jax.sharding.AxisType.Auto,) * len(sizes)
    devices = jax.devices()[: np.prod(sizes)]
    return jax.make_mesh(sizes, ("d", "e")[: len(sizes)], axis_types=auto, devices=devices)


def hidden(x: Any, w: Any, b: Any) -> Any:
    return jnp.tanh(x @ w + b[None])


def summed(x: Any, w: Any, b: Any) -> Any:
    """Every device has some of the inputs."""
    return jnp.tanh(jax.lax.psum(x @ w, "d") + b[None])


SHARDED = {
    "one device": (hidden, mesh(1), {"in_specs": jax.P(), "out_specs": jax.P()}),
    "rows": (
        hidden,
        mesh(8),
        {"in_specs": (jax.P("d"), jax.P(), jax.P()), "out_specs": jax.P("d")},
    ),
    "sum": (
        summed,
        mesh(2),
        {"in_specs": (jax.P(None, "d"), jax.P("d"), jax.P()), "out_specs": jax.P()},
    ),
    "unchecked": (
        summed,
        mesh(2, 4),
        {
            "in_specs": (jax.P("e", "d"), jax.P("d"), jax.P()),
            "out_specs": jax.P("e"),
            "check_vma": False,
        },
    ),
    "one axis of two": (
        summed,
        mesh(2, 4),
        {
            "in_specs": (jax.P(None, "d"), jax.P("d"), jax.P()),
            "out_specs": jax.P(),
            "axis_names": {"d"},
        },
    ),
}


@pytest.mark.parametrize("case", SHARDED)
def test_a_shard_map_runs_at_the_kept_sizes(case: str) -> None:
    inside, devices, options = SHARDED[case]
    mapped = jax.jit(jax.shard_map(inside, mesh=devices, **options))
    x = RANDOM.normal(size=(8, 6)).astype(np.float32)
    v = {**V, "w": RANDOM.normal(size=(6, 8)).astype(np.float32)}

    def fn(v: Any, x: Any) -> Any:
        return mapped(x, v["w"], v["b"]) @ v["u"]

    check_narrow(jp.trace(fn, v, x), v, KEEP, x)


def test_a_shard_map_of_layers_that_keep_their_own_channels() -> None:
    """What is drawn on the devices belongs to the channels of the layer of that step."""

    def layer(h: Any, key: Any, w: Any, u: Any) -> Any:
        noise = jax.random.uniform(jax.random.wrap_key_data(key), (3, 4))
        return h + (jnp.tanh(h @ w) * noise) @ u

    mapped = jax.shard_map(layer, mesh=mesh(2), in_specs=jax.P(), out_specs=jax.P())
    keys = jax.vmap(jax.random.key_data)(jax.random.split(jax.random.key(0)))
    v = {
        "w": RANDOM.normal(size=(2, 5, 4)).astype(np.float32),
        "u": RANDOM.normal(size=(2, 4, 5)).astype(np.float32),
    }

    def fn(v: Any, x: Any, keys: Any) -> Any:
        def step(h: Any, each: Any) -> Any:
            weights, key = each
            return mapped(h, key, weights["w"], weights["u"]), None

        return jax.lax.scan(step, x, (v, keys))[0]

    keep = {"w": np.array([[True, False, True, False], [False, False, True, True]])}
    check_narrow(jp.trace(fn, v, X, keys), v, keep, X, keys)


def test_an_axis_that_a_mesh_divides_is_whole() -> None:
    mapped = jax.shard_map(
        lambda x, w, b, u: jax.lax.psum(hidden(x, w, b) @ u, "d"),
        mesh=mesh(2),
        in_specs=(jax.P(), jax.P(None, "d"), jax.P("d"), jax.P("d")),
        out_specs=jax.P(),
    )
    graph = jp.trace(lambda v, x: mapped(x, v["w"], v["b"], v["u"]), V, X)
    assert not graph.groups
    reasons = {(item.path, item.axis): item.reason for item in graph.frozen}
    assert reasons["w", 1] == reasons["u", 0] == "divided over a mesh by shard_map"
