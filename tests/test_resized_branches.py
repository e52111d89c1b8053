"""Modules and functions of which branches go compute what narrow does, and a network by hand."""

import json
import re
import subprocess
import sys
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.arguments.paths import flatten

X = np.random.default_rng(0).normal(size=(2, 3, 6)).astype(np.float32)


class Layer(nn.Module):
    """Attention and an MLP with a scale in the module around."""

    @nn.compact
    def __call__(self, x, _):
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(nn.LayerNorm()(x))
        scale = self.param("scale", nn.initializers.normal(), (x.shape[-1],))
        h = nn.gelu(nn.Dense(12, name="up")(nn.RMSNorm()(x)))
        return x + scale[None, None] * nn.Dense(8, name="down")(h), None


class Stacked(nn.Module):
    layers: int = 4

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="stem")(x)
        kind = nn.scan(
            Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers
        )
        return nn.Dense(3, name="head")(kind(name="stack")(x, None)[0])


class Listed(nn.Module):
    layers: tuple[int, ...] = (0, 1, 2)

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="stem")(x)
        for i in self.layers:
            x, _ = nn.remat(Layer)(name=f"layer_{i}")(x, None)
        return nn.Dense(3, name="head")(x)


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {path: np.shape(leaf) for path, leaf in flatten(tree)[0].items()}


@cache
def traced(module: nn.Module) -> tuple[Any, jp.ChannelGraph]:
    variables = module.init(jax.random.key(0), X)
    return variables, jp.linen.trace(module, variables, X)


LISTED = Listed()
ATTENTION, MLP = "+layer_{}/attention/out/kernel", "+layer_{}/down/kernel"
LAYER_1 = {ATTENTION.format(1): False, MLP.format(1): False}


def test_a_linen_decoder_without_a_layer_is_the_one_written_without_it() -> None:
    variables, graph = traced(LISTED)
    small = jp.slice(graph, variables, LAYER_1)
    by_hand = Listed(layers=(0, 2))
    resized = jp.linen.resize(LISTED, graph, LAYER_1)
    assert shapes(small) == shapes(by_hand.init(jax.random.key(0), X))
    assert shapes(small) == shapes(resized.init(jax.random.key(0), X))
    np.testing.assert_allclose(resized.apply(small, X), by_hand.apply(small, X), atol=1e-6)
    again = jp.linen.trace(resized, small, X)
    assert jp.cost.macs(again) == jp.cost.macs(graph, LAYER_1)
    assert list(jp.branches(again)) == [n for n in jp.branches(graph) if n not in LAYER_1]
    assert "layer_1/attention" in str(resized)
    tx = optax.sgd(0.01)
    state, loss = tx.init(small), lambda v: jnp.mean(resized.apply(v, X) ** 2)
    updates, _ = tx.update(jax.grad(loss)(small), state)
    assert loss(optax.apply_updates(small, updates)) < loss(small)


def test_channels_and_branches_go_together() -> None:
    variables, graph = traced(LISTED)
    keep = {ATTENTION.format(0): False, MLP.format(2): False}
    keep |= {"layer_0/up/kernel": np.arange(12) % 3 > 0}
    small = jp.slice(graph, variables, keep)
    resized = jp.linen.resize(LISTED, graph, keep)
    ours = jax.jit(resized.apply)(small, X)
    np.testing.assert_allclose(ours, jp.narrow(graph.fn, graph, keep)(small, X), atol=1e-6)
    assert shapes(small) == shapes(resized.init(jax.random.key(0), X))


STACKED = Stacked()
LAYERS = [True, False, True, True]
STACK_ATTENTION, STACK_MLP = "+stack/attention/out/kernel", "+stack/down/kernel"


def test_a_scan_loses_layers_and_its_length_follows() -> None:
    variables, graph = traced(STACKED)
    keep = {STACK_ATTENTION: LAYERS, STACK_MLP: LAYERS}
    small = jp.slice(graph, variables, keep)
    resized = jp.linen.resize(STACKED, graph, keep, overrides={"": {"layers": 3}})
    assert shapes(small) == shapes(resized.init(jax.random.key(0), X))
    ours, wanted = resized.apply(small, X), Stacked(layers=3).apply(small, X)
    np.testing.assert_allclose(ours, wanted, atol=1e-6)
    np.testing.assert_allclose(ours, jp.narrow(graph.fn, graph, keep)(small, X), atol=1e-6)


def test_a_scan_loses_one_branch_of_all_layers() -> None:
    variables, graph = traced(STACKED)
    keep = {STACK_ATTENTION: False}
    small = jp.slice(graph, variables, keep)
    resized = jp.linen.resize(STACKED, graph, keep)
    wanted = jp.narrow(graph.fn, graph, keep)(small, X)
    np.testing.assert_allclose(resized.apply(small, X), wanted, atol=1e-6)


def test_a_scan_loses_a_branch_of_all_layers_and_a_layer_whose_other_one_goes() -> None:
    variables, graph = traced(STACKED)
    keep = {STACK_ATTENTION: LAYERS, STACK_MLP: False}
    small = jp.slice(graph, variables, keep)
    resized = jp.linen.resize(STACKED, graph, keep, overrides={"": {"layers": 3}})
    wanted = jp.narrow(graph.fn, graph, keep)(small, X)
    np.testing.assert_allclose(resized.apply(small, X), wanted, atol=1e-6)


class Alone(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(6)(x)


def test_a_tree_that_loses_all_is_an_empty_one() -> None:
    variables, graph = traced(Alone())
    keep = dict.fromkeys(jp.branches(graph), False)
    small = jp.slice(graph, variables, keep)
    assert small == {}
    assert jp.cost.params(graph, keep) == 0
    resized = jp.linen.resize(Alone(), graph, keep)
    assert resized.init(jax.random.key(0), X) == {}
    np.testing.assert_array_equal(resized.apply(small, X), X)
    np.testing.assert_array_equal(jp.narrow(graph.fn, graph, keep)(small, X), X)
    assert jax.tree.structure(jp.unslice(graph, small, keep)) == jax.tree.structure(variables)


@pytest.mark.parametrize(
    ("keep", "text"),
    [
        ({STACK_ATTENTION: [True, False, True, True]}, "would not be alike: they are stacked"),
        ({STACK_ATTENTION: False, STACK_MLP: False}, "no layer of the stack at .* would stay"),
    ],
)
def test_layers_of_a_scan_that_code_cannot_run_are_refused(keep: Any, text: str) -> None:
    _, graph = traced(STACKED)
    with pytest.raises(jp.errors.ResizeError, match=text):
        jp.linen.resize(STACKED, graph, keep)


class Inline(nn.Module):
    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.normal(), (6, 6))
        return nn.Dense(3)(x + nn.sigmoid(x @ w.astype(x.dtype)))


def test_a_branch_that_no_module_makes_is_refused() -> None:
    module = Inline()
    variables = module.init(jax.random.key(0), X)
    graph = jp.linen.trace(module, variables, X)
    with pytest.raises(jp.errors.ResizeError, match="not the same network"):
        jp.linen.resize(module, graph, {"+w": False})


class NnxLayer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs, decode=False)
        self.up = nnx.Linear(8, 12, rngs=rngs)
        self.down = nnx.Linear(12, 8, rngs=rngs)
        self.scale = nnx.Param(jnp.full(8, 0.5))

    def __call__(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.scale[None, None] * self.down(nnx.gelu(self.up(x)))


class NnxListed(nnx.Module):
    def __init__(self, layers: int, rngs: nnx.Rngs):
        self.stem = nnx.Linear(6, 8, rngs=rngs)
        self.layers = nnx.List([NnxLayer(rngs) for _ in range(layers)])
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_an_nnx_decoder_loses_a_layer_and_trains_on() -> None:
    model = NnxListed(3, nnx.Rngs(0))
    graph, variables = jp.nnx.trace(model, X), jp.nnx.variables(model)
    gone = ("+layers/1/attention/out/kernel", "+layers/1/down/kernel", "+layers/2/down/kernel")
    keep = {**dict.fromkeys(gone, False), "layers/0/up/kernel": np.arange(12) < 5}
    small, cut = jp.nnx.resize(model, graph, keep), jp.slice(graph, variables, keep)
    assert shapes(jp.nnx.variables(small)) == shapes(cut)
    np.testing.assert_allclose(small(X), jp.narrow(graph.fn, graph, keep)(cut, X)[0], atol=1e-6)
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    optimizer = jp.nnx.resize_optimizer(optimizer, small, graph, keep)
    loss, gradients = nnx.value_and_grad(lambda model: (model(X) ** 2).mean())(small)
    optimizer.update(small, gradients)
    assert (small(X) ** 2).mean() < loss
    assert len(model.layers) == 3
    assert model.layers[1].down.kernel.shape == (12, 8)


class Shared(nn.Module):
    @nn.compact
    def __call__(self, x):
        block = nn.Dense(6, name="block")
        return nn.Dense(3, name="head")((x := x + nn.tanh(block(x))) + nn.tanh(block(x)))


class NnxShared(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.block, self.head = nnx.Linear(6, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.head((x := x + jnp.tanh(self.block(x))) + jnp.tanh(self.block(x)))


@pytest.mark.parametrize("linen", [True, False], ids=["linen", "nnx"])
def test_one_call_of_a_shared_module_does_not_go_without_the_others(linen: bool) -> None:
    model = Shared() if linen else NnxShared(nnx.Rngs(0))
    graph = traced(model)[1] if linen else jp.nnx.trace(model, X)
    before = None if linen else jax.tree.leaves(nnx.state(model))
    for name, other in (("+block/kernel", "+block/kernel#2"), ("+block/kernel#2", "+block/kernel")):
        text = f"share their weights: branch {name!r} goes and {other!r} stays. Take out both"
        with pytest.raises(jp.errors.ResizeError, match=re.escape(text)):
            (jp.linen if linen else jp.nnx).resize(model, graph, {name: False})
    if before is not None:
        assert all(a is b for a, b in zip(before, jax.tree.leaves(nnx.state(model)), strict=True))
        assert jp.nnx.resize(model, graph, dict.fromkeys(jp.branches(graph), False))(X).shape == (
            2, 3, 3
        )  # fmt: skip


def looped(v, x):
    for name in sorted(v["layers"]):
        x = x + jnp.tanh(x @ v["layers"][name])
    return x


def stepped(v, x):
    return jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, v["layers"])[0]


def test_plain_functions_whose_code_follows_the_variables() -> None:
    x, random = X[0], np.random.default_rng(1)
    weights = random.normal(size=(3, 6, 6)).astype(np.float32)
    for fn, layers, keep in (
        (looped, dict(zip("abc", weights, strict=True)), {"+layers/b": False}),
        (stepped, weights, {"+layers": [True, False, True]}),
    ):
        graph = jp.trace(fn, {"layers": layers}, x)
        small = jp.slice(graph, {"layers": layers}, keep)
        resized = jp.resize(fn, graph, keep)
        wanted = jp.narrow(fn, graph, keep)(small, x)
        np.testing.assert_allclose(resized(small, x), wanted, rtol=1e-5)
        with pytest.raises(jp.errors.TreeError):
            resized({"layers": {}}, x)


def test_a_list_keeps_its_places_and_code_that_reads_one_is_refused() -> None:
    x, weights = X[0], [np.eye(6, dtype=np.float32)] * 2
    graph = jp.trace(indexed, {"layers": weights}, x)
    with pytest.raises(jp.errors.ResizeError, match="the function does not run"):
        jp.resize(indexed, graph, {"+layers/1": False})


def indexed(v, x):
    return x + x @ v["layers"][0] + jnp.tanh(x @ v["layers"][1])


def test_a_spec_of_branches_is_read_in_another_process(tmp_path) -> None:
    variables, graph = traced(LISTED)
    keep = {**LAYER_1, "layer_0/up/kernel": np.arange(12) < 5}
    small, spec = jp.slice(graph, variables, keep), jp.spec(graph, keep)
    assert spec["format"] == 2
    assert jp.spec(graph, {})["format"] == 1
    jp.save(tmp_path / "pruned", small, spec)
    code = """
import sys, jax, numpy as np, jaxprune as jp, test_resized_branches as t
restored = jp.restore(sys.argv[1])
_, graph = t.traced(t.LISTED)
keep = jp.keep_from_spec(restored.spec, graph)
model = jp.linen.resize(t.LISTED, graph, keep)
print(np.asarray(model.apply(restored.variables, t.X)).sum())
"""
    run = [sys.executable, "-c", code, str(tmp_path / "pruned")]
    found = subprocess.run(run, capture_output=True, text=True, check=True, cwd="tests")
    wanted = np.asarray(jp.narrow(graph.fn, graph, keep)(small, X)).sum()
    np.testing.assert_allclose(float(found.stdout.split()[-1]), wanted, rtol=1e-4)


def test_a_spec_of_other_branches_is_refused() -> None:
    _, graph = traced(STACKED)
    spec = json.loads(json.dumps(jp.spec(graph, {STACK_MLP: [True, False, True, True]})))
    np.testing.assert_array_equal(
        jp.keep_from_spec(spec, graph)[STACK_MLP], [True, False, True, True]
    )
    other = spec | {"branches": {"+stack/other/kernel": False}}
    with pytest.raises(jp.errors.SpecError, match=r"has no branch '\+stack/other/kernel'"):
        jp.check_spec(graph, other)
    with pytest.raises(jp.errors.SpecError, match=r"is of shape \(4,\), it was \(\)"):
        jp.check_spec(graph, spec | {"branches": {STACK_MLP: False}})
    for wrong in ({"branches": {STACK_MLP: [1, 0]}}, {"branches": 1}, {"format": 1}):
        with pytest.raises(jp.errors.KeepError, match="spec"):
            jp.keep_from_spec(spec | wrong)
