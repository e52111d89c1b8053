"""Keyword arguments of the call: arrays are inputs, everything else is a constant."""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp

V = {"a": np.arange(24.0, dtype=np.float32).reshape(4, 6) / 9, "b": np.ones((6, 3), np.float32)}
X, MASK = np.ones((2, 4), np.float32), np.array([[True, True, False, True]] * 2)
KEEP = {"a": np.arange(6) % 2 == 0}


def masked(v: Any, x: Any, *, mask: Any, train: bool, scale: Any = 2.0) -> Any:
    """A function with keyword arguments alone; `train` must not be traced."""
    h = jax.nn.relu(jnp.where(mask, x, 0) @ v["a"])
    return (jnp.tanh(h) if train else h) * scale @ v["b"]


GRAPH = jp.trace(masked, V, X, mask=MASK, train=False)
SMALL = jp.slice(GRAPH, V, KEEP)


def test_arrays_are_inputs_and_the_rest_constants():
    assert list(GRAPH.keywords) == ["mask"]
    assert GRAPH.constants == {"train": False}
    assert GRAPH.fn(V, X, mask=MASK).shape == (2, 3)
    shapes = jp.trace(masked, V, X, mask=jax.ShapeDtypeStruct(MASK.shape, bool), train=True)
    assert jp.cost.macs(shapes) == jp.cost.macs(GRAPH)
    assert "tanh" in str(shapes.walk.program.eqns)
    assert "tanh" not in str(GRAPH.walk.program.eqns)


@pytest.mark.parametrize("train", [False, True])
def test_everything_that_runs_takes_the_keywords(train: bool):
    graph = jp.trace(masked, V, X, mask=MASK, train=train)
    wanted = masked(jp.mask(graph, V, KEEP), X, mask=MASK, train=train)
    other = ~MASK
    swapped = masked(jp.mask(graph, V, KEEP), X, mask=other, train=train)
    narrow, resized = jp.narrow(masked, graph, KEEP), jp.resize(masked, graph, KEEP)
    for run in (narrow, resized):
        np.testing.assert_allclose(run(SMALL, X, mask=MASK), wanted, rtol=1e-6)
        np.testing.assert_allclose(run(SMALL, X, mask=other, train=train), swapped, rtol=1e-6)
    opposite = masked(jp.mask(graph, V, KEEP), X, mask=MASK, train=not train)
    np.testing.assert_allclose(narrow(SMALL, X, mask=MASK, train=not train), opposite, rtol=1e-6)
    found = jp.verify(graph, masked, KEEP, V, X, mask=MASK, train=train, resized=resized)
    assert found.ok
    assert found.resized == "exact"
    gates = {"a": np.array([1, 0, 1, 0, 1, 0.0])}
    gated = jp.gated(masked, graph)(V, gates, X, mask=MASK)
    np.testing.assert_allclose(gated, wanted, rtol=1e-6)
    outputs, taps = jp.tap(masked, graph)(V, X, mask=MASK)
    np.testing.assert_allclose(outputs, masked(V, X, mask=MASK, train=train), rtol=1e-6)
    assert taps["a"][0].shape == (2, 6)


def test_prune_takes_them_and_finds_a_misspelled_option():
    pruned = jp.prune(masked, V, X, keep_macs=0.6, mask=MASK, train=False, scale=0.5)
    assert pruned.graph.constants == {"train": False, "scale": 0.5}
    assert pruned.not_resized is None
    got = pruned.model(pruned.variables, X, mask=MASK)
    wanted = masked(jp.mask(pruned.graph, V, pruned.keep), X, mask=MASK, train=False, scale=0.5)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    with pytest.raises(
        jp.errors.TraceError, match=r"masked takes no keyword 'strcit'; near.*strict"
    ):
        jp.trace(masked, V, X, mask=MASK, train=False, strcit=True)


def test_an_exported_file_takes_them(tmp_path: pathlib.Path):
    pytest.importorskip("flatbuffers")
    path = tmp_path / "small.jax"
    run = jp.resize(masked, GRAPH, KEEP)
    jp.export(path, run, SMALL, X, mask=MASK, train=False, platforms=("cpu",))
    served = jax.export.deserialize(bytearray(path.read_bytes()))
    x, mask = np.ones((5, 4), np.float32), np.ones((5, 4), bool)
    np.testing.assert_allclose(served.call(x, mask=mask), run(SMALL, x, mask=mask), rtol=1e-6)


def test_a_spec_holds_the_keywords():
    spec = jp.spec(GRAPH, KEEP)
    np.testing.assert_array_equal(jp.keep_from_spec(spec, GRAPH)["a"], KEEP["a"])
    larger = jp.trace(
        masked, V, np.ones((7, 4), np.float32), mask=np.ones((7, 4), bool), train=False
    )
    jp.check_spec(larger, spec)
    with pytest.warns(jp.errors.SpecWarning, match="train=True"):
        jp.check_spec(jp.trace(masked, V, X, mask=MASK, train=True), spec)


class Net(nn.Module):
    """A Linen module with a mask."""

    @nn.compact
    def __call__(self, x, mask=None, train=False):
        x = x if mask is None else jnp.where(mask, x, 0)
        h = nn.relu(nn.Dense(6, name="a")(x))
        return nn.Dense(3, name="b")(jnp.tanh(h) if train else h)


class NnxNet(nnx.Module):
    """The same in NNX, which takes random numbers by reference too."""

    def __init__(self, rngs):
        self.a, self.b = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)
        self.drop = nnx.Dropout(0.5)

    def __call__(self, x, mask=None, train=False, rngs=None):
        h = nnx.relu(self.a(x if mask is None else jnp.where(mask, x, 0)))
        return self.b(self.drop(h, deterministic=not train, rngs=rngs))


def test_linen_and_nnx():
    module = Net()
    variables = module.init(jax.random.key(0), X)
    graph = jp.linen.trace(module, variables, X, mask=MASK, train=True)
    assert list(graph.keywords) == ["mask"]
    keep = {"a/kernel": np.arange(6) < 2}
    small, module2 = jp.slice(graph, variables, keep), jp.linen.resize(module, graph, keep)
    wanted = module.apply(jp.mask(graph, variables, keep), X, mask=MASK, train=True)
    np.testing.assert_allclose(module2.apply(small, X, mask=MASK, train=True), wanted, rtol=1e-6)
    run = jp.narrow(graph.fn, graph, keep)
    np.testing.assert_allclose(run(small, X, mask=MASK), wanted, rtol=1e-6)
    pruned = jp.linen.prune(module, variables, X, mask=MASK, train=True, keep_macs=0.5)
    assert pruned.model.apply(pruned.variables, X, mask=MASK).shape == (2, 3)
    model = NnxNet(nnx.Rngs(0))
    key = nnx.Rngs(1)
    graph = jp.nnx.trace(model, X, mask=MASK, train=True, rngs=key)
    assert list(graph.keywords) == ["mask"]
    model2 = jp.nnx.resize(model, graph, keep := {"a/kernel": np.arange(6) < 2})
    wanted = jp.narrow(graph.fn, graph, keep)(jp.nnx.variables(model2), X, mask=MASK)[0]
    assert wanted.shape == (2, 3)
    pruned = jp.nnx.prune(model, X, mask=MASK, keep_macs=0.5)
    got = jp.narrow(pruned.graph.fn, pruned.graph, pruned.keep)(pruned.variables, X, mask=MASK)[0]
    np.testing.assert_allclose(pruned.model(X, mask=MASK), got, rtol=1e-6)
