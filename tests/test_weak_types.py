"""Variables whose type is weak: they must not widen what they meet, whatever is cut."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprune as jp

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
KEEP = np.array([True, False, True, True, False, True])


def weak(value: Any) -> bool:
    return jax.typeof(value).weak_type


class Net(nn.Module):
    """Scaled by weak variables: a scalar, and one for every channel."""

    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x: Any) -> Any:
        h = nn.Dense(6, dtype=self.dtype)(x)
        h = h * self.param("scale", lambda _: jnp.asarray(2.66))
        h = jnp.tanh(h * self.param("gains", lambda _: jnp.full((1, 6), 0.75)))
        return nn.Dense(2, dtype=self.dtype)(h)


@pytest.fixture(scope="module")
def model() -> Any:
    module = Net()
    variables = module.init(jax.random.key(0), X)
    return module, variables, jp.trace(module.apply, variables, X)


def test_the_graph_knows_them(model: Any) -> None:
    _, variables, graph = model
    found = {path for path, own in graph.variables.items() if own.weak_type}
    assert found == {"params/scale", "params/gains"}
    same = jax.tree.map(lambda a, b: weak(a) == weak(b), graph.abstract, variables)
    assert all(jax.tree.leaves(same))


def test_linen_resizes_and_narrow_gives_the_dtype_of_the_network(model: Any) -> None:
    module, variables, graph = model
    keep = {"Dense_0/kernel": KEEP}
    small = jp.slice(graph, variables, keep)
    masked = module.apply(jp.mask(graph, variables, keep), X)
    assert masked.dtype == jnp.bfloat16
    for run in (jp.linen.resize(module, graph, keep).apply, jp.narrow(module.apply, graph, keep)):
        found = run(small, X)
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype(float), masked.astype(float), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("traced", [False, True])
def test_cutting_keeps_them_weak(model: Any, traced: bool) -> None:
    _, variables, graph = model
    keep = {"Dense_0/kernel": KEEP}

    def cut(v: Any) -> Any:
        small = jp.slice(graph, v, keep)
        return small, jp.mask(graph, v, keep), jp.unslice(graph, small, keep)

    for found in (jax.jit(cut) if traced else cut)(variables):
        wanted = {name: weak(leaf) for name, leaf in variables["params"].items() if "D" not in name}
        assert {name: weak(found["params"][name]) for name in wanted} == wanted
    small, masked, whole = cut(variables)
    np.testing.assert_array_equal(small["params"]["gains"], np.full((1, 4), 0.75, np.float32))
    np.testing.assert_array_equal(masked["params"]["gains"][0], KEEP * np.float32(0.75))
    jax.tree.map(np.testing.assert_array_equal, masked, whole)


def test_a_plain_function_is_resized() -> None:
    def fn(v: Any, x: Any) -> Any:
        return (x.astype(jnp.bfloat16) @ v["a"] * v["s"]) @ v["b"]

    v = {
        "a": jnp.ones((4, 6), jnp.bfloat16),
        "b": jnp.ones((6, 2), jnp.bfloat16),
        "s": jnp.asarray(2.66),
    }
    graph = jp.trace(fn, v, X)
    small = jp.slice(graph, v, {"a": KEEP})
    assert jp.resize(fn, graph, {"a": KEEP})(small, X).dtype == jnp.bfloat16
    assert jp.narrow(fn, graph, {"a": KEEP})(small, X).dtype == jnp.bfloat16
    strong = {**small, "s": np.float32(2.66)}  # as a checkpoint gives it back
    assert fn(strong, X).dtype == jnp.float32
    assert jp.narrow(fn, graph, {"a": KEEP})(strong, X).dtype == jnp.float32


def test_a_model_of_nnx_is_resized() -> None:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first = nnx.Linear(4, 6, dtype=jnp.bfloat16, rngs=rngs)
            self.last = nnx.Linear(6, 2, dtype=jnp.bfloat16, rngs=rngs)
            self.scale = nnx.Param(jnp.asarray(2.66))

        def __call__(self, x: Any) -> Any:
            return self.last(nnx.relu(self.first(x)) * self.scale[...])

    model = Model(nnx.Rngs(0))
    graph = jp.nnx.trace(model, X)
    assert graph.variables["scale"].weak_type
    small = jp.nnx.resize(model, graph, {"first/kernel": KEEP})
    assert small(X).dtype == model(X).dtype


def test_gates_and_the_state_of_an_optimizer(model: Any) -> None:
    module, variables, graph = model
    gates = jp.gates.unit(graph)
    assert jp.gated(module.apply, graph)(variables, gates, X).dtype == jnp.bfloat16
    tx, keep = optax.adam(1e-3), {"Dense_0/kernel": KEEP}
    params = variables["params"]
    state = jp.slice_opt_state(graph, tx.init(params), keep, tx=tx, params=params)
    assert state[0].mu["gains"].shape == (1, 4)


def test_rescaling_keeps_them_weak() -> None:
    def fn(v: Any, x: Any) -> Any:
        return jnp.mean(x[:, :1] * v["s"][None], axis=1)

    v = {"s": jnp.full((6,), 0.5)}
    graph = jp.trace(fn, v, X)
    small = jp.slice(graph, v, {"s": KEEP}, rescale=True)
    assert weak(small["s"])
    np.testing.assert_allclose(small["s"], np.full(4, 0.5 * 4 / 6), rtol=1e-6)
