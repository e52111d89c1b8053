"""Factors on weights make the resized network equal the masked one where it divides by widths."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import jaxprune as jp
import nnx_networks as networks
from jaxprune.errors import JaxpruneError, KeepError, ResizeError
from jaxprune.pruning.rescale import factors

X = np.random.default_rng(0).normal(size=(2, 5, 6))


class Attention(nn.Module):
    """Linen's own attention, with biases."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        attend = nn.MultiHeadDotProductAttention(num_heads=3, qkv_features=12, name="attend")
        return nn.Dense(3)(attend(x))


QUERY = ("params/attend/query/kernel", "params/attend/query/bias")
SOFTMAX = {"a": (6, 8), "c": (8, 4)}


class Transformer(nn.Module):
    """A pre-norm layer."""

    norm: Any = nn.RMSNorm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(8)(x)
        attend = nn.MultiHeadDotProductAttention(2, qkv_features=8, name="attend")
        x = x + attend(self.norm()(x))
        x = x + nn.Dense(8)(nn.gelu(nn.Dense(10)(self.norm()(x))))
        return nn.Dense(3)(self.norm()(x))


def linear(v: Any, x: jax.Array, kernel: str, bias: str) -> jax.Array:
    return x @ v[kernel] + v[bias][None, None]


def attend(q: jax.Array, k: jax.Array, values: jax.Array) -> jax.Array:
    return nn.softmax(q @ k.swapaxes(1, 2) / jnp.sqrt(q.shape[-1])) @ values


def hand(v: Any, x: jax.Array) -> jax.Array:
    return attend(*(linear(v, x, name, f"{name}_bias") for name in ("q", "k", "v"))) @ v["o"]


def fused(v: Any, x: jax.Array) -> jax.Array:
    return attend(*jnp.split(linear(v, x, "qkv", "bias"), 3, axis=-1)) @ v["o"]


def builtin(v: Any, x: jax.Array) -> jax.Array:
    q, k, u = (jnp.einsum("btd,dhe->bthe", x, v[name]) for name in ("q", "k", "v"))
    return jnp.einsum("bthe,hed->btd", jax.nn.dot_product_attention(q, k, u), v["o"])


def mean(v: Any, x: jax.Array) -> jax.Array:
    return nn.relu(linear(v, x, "a", "bias")).mean(axis=-1, keepdims=True)


def scanned(v: Any, x: jax.Array) -> jax.Array:
    """Three layers, each of which keeps its own channels."""

    def step(h: jax.Array, kernels: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return h + attend(h @ kernels[1], h @ kernels[0], h), None

    return lax.scan(step, x, (v["k"], v["q"]))[0]


def branched(v: Any, x: jax.Array) -> jax.Array:
    h = linear(v, x, "a", "bias")
    branches = [lambda h: nn.leaky_relu(h), lambda h: jnp.maximum(h, -h)]
    h = lax.switch(jnp.int32(x[0, 0, 0] > 0), branches, h)
    return h.mean(axis=-1, keepdims=True) @ v["c"]


class Case(NamedTuple):
    """A network with its shapes, and {path: p}: its factor is (kept / full)**p."""

    fn: Any
    shapes: dict[str, tuple[int, ...]]
    powers: dict[str, float]


QKV = {"q": (6, 8), "k": (6, 8), "v": (6, 8), "o": (8, 4)}
HIDDEN = {"a": (6, 8), "bias": (8,)}
CASES = {
    "1 / sqrt(d) by hand": Case(
        hand,
        QKV | {"q_bias": (8,), "k_bias": (8,), "v_bias": (8,)},
        {"q": 0.5, "q_bias": 0.5},
    ),
    "a fused kernel": Case(
        fused,
        {"qkv": (6, 24), "bias": (24,), "o": (8, 4)},
        {"qkv": 0.25, "bias": 0.25, "o": -0.25},
    ),
    "jax.nn.dot_product_attention": Case(
        builtin, {"q": (6, 2, 8), "k": (6, 2, 8), "v": (6, 2, 8), "o": (2, 8, 4)}, {"q": 0.5}
    ),
    "a mean over channels, then a Dense": Case(
        lambda v, x: mean(v, x) @ v["c"], HIDDEN | {"c": (1, 4)}, {"c": 1.0}
    ),
    "a mean over channels, then a scale": Case(
        lambda v, x: jnp.tanh(v["scale"] * mean(v, x)), HIDDEN | {"scale": (1, 1, 1)}, {"scale": 1}
    ),
    "a mean over channels, then the output": Case(mean, HIDDEN, {"a": 1.0, "bias": 1.0}),
    "stacked layers": Case(scanned, {"q": (3, 6, 8), "k": (3, 6, 8)}, {"q": 0.5}),
    "a mean behind branches": Case(branched, HIDDEN | {"c": (1, 4)}, {"c": 1.0}),
    "an embedding times its root": Case(
        lambda v, x: jnp.tanh(x @ v["a"] * jnp.sqrt(v["a"].shape[1]) @ v["c"]),
        {"a": (6, 8), "c": (8, 4)},
        {"a": -0.5},
    ),
}


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def random(shapes: Any) -> Any:
    """Returns normal variables that are not centered."""
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: draw.normal(0.2, 0.5, leaf.shape), shapes)


def traced(case: Case) -> tuple[jp.ChannelGraph, Any]:
    v = random({path: np.empty(shape) for path, shape in case.shapes.items()})
    return jp.trace(case.fn, v, X), v


def half(graph: jp.ChannelGraph, *, only: str = "") -> dict[str, np.ndarray]:
    """Returns half of the channels of the groups whose name contains `only`, not the first."""
    draw = np.random.default_rng(2)
    return {
        name: draw.permuted(np.full(group.shape, np.arange(group.size) < group.size // 2), axis=-1)
        for name, group in graph.groups.items()
        if only in name
    }


def linen(model: nn.Module) -> tuple[Any, jp.ChannelGraph, Any]:
    shapes = jax.eval_shape(model.init, jax.random.key(0), X)
    fn = lambda v, x: model.apply(v, x)  # noqa: E731
    return fn, jp.trace(fn, shapes, X), random(shapes)


def check(graph: jp.ChannelGraph, v: Any, keep: Any, resized: Any, given: Any = True) -> Any:
    """Checks resized = masked, and that it is not so without the factors; returns the factors."""
    small = jp.slice(graph, v, keep, rescale=given)

    @jax.jit
    def run(small: Any) -> tuple[jax.Array, Any]:
        squares = lambda s: jnp.square(resized(s, X)).sum()  # noqa: E731
        return resized(small, X), jax.grad(squares)(small)

    masked = jax.jit(graph.fn)(jp.mask(graph, v, keep), X)
    out, gradients = run(small)
    np.testing.assert_allclose(out, masked, rtol=1e-5, atol=1e-9)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not np.allclose(run(jp.slice(graph, v, keep))[0], masked, rtol=1e-3)
    return factors(graph, keep)


@pytest.mark.parametrize("name", CASES)
def test_a_function_at_the_kept_widths_is_the_masked_one(name: str) -> None:
    case = CASES[name]
    graph, v = traced(case)
    found = check(graph, v, half(graph), case.fn)
    assert found == pytest.approx({path: 0.5**power for path, power in case.powers.items()})


def test_linen_attention() -> None:
    model = Attention()
    _, graph, v = linen(model)
    keep = half(graph)
    model2 = jp.linen.resize(model, graph, keep)
    found = check(graph, v, keep, model2.apply)
    assert found == pytest.approx(dict.fromkeys(QUERY, 0.5**0.5))


def test_attention_of_nnx() -> None:
    def build(rngs: nnx.Rngs) -> nnx.MultiHeadAttention:
        options = {"decode": False, "attention_fn": networks.attention}
        return nnx.MultiHeadAttention(3, 6, 12, **options, rngs=rngs)

    model = networks.model_of(build)
    graph, v = jp.nnx.trace(model, X), jp.nnx.variables(model)
    keep = half(graph, only="key/kernel[2]")
    small = jp.nnx.resize(model, graph, keep)
    for given in (True, jp.nnx.function(small)):
        nnx.update(small, jp.slice(graph, v, keep, rescale=given))
        masked, _ = graph.fn(jp.mask(graph, v, keep), X)
        np.testing.assert_allclose(small(X), masked, rtol=1e-5)
    nnx.update(small, jp.slice(graph, v, keep))
    assert not np.allclose(small(X), masked, rtol=1e-3)


def test_the_stream_of_a_network_of_rms_norms() -> None:
    model = Transformer()
    _, graph, v = linen(model)
    keep = half(graph)
    model2 = jp.linen.resize(model, graph, keep)
    found = check(graph, v, keep, model2.apply, given=lambda v, x: model2.apply(v, x))
    assert found["params/Dense_0/kernel"] == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("norm", [nn.LayerNorm, partial(nn.GroupNorm, 2)])
def test_statistics_that_subtract_a_mean_cannot_be_scaled(norm: Any) -> None:
    _, graph, v = linen(Transformer(norm))
    with pytest.raises(ResizeError, match=r"(?s)Norm_0: \d+ became \d+, which no var.*protect="):
        jp.slice(graph, v, half(graph), rescale=True)
    only = half(graph, only="key/kernel[2]")
    assert {path.split("/")[2] for path in factors(graph, only)} == {"query"}


def test_a_group_that_is_inexact_for_another_reason() -> None:
    graph, v = traced(Case(lambda v, x: nn.softmax(x @ v["a"]) @ v["c"], SOFTMAX, {}))
    with pytest.raises(ResizeError, match=r"group 'a': reduce_max.*a zero is not neutral"):
        jp.slice(graph, v, half(graph), rescale=True)


def test_both_a_size_and_another_reason_is_an_error() -> None:
    fn = lambda v, x: nn.sigmoid(x @ v["a"]).mean(-1, keepdims=True) @ v["c"]  # noqa: E731
    graph, v = traced(Case(fn, {"a": (6, 8), "c": (1, 4)}, {}))
    with pytest.raises(ResizeError, match="sums values that the mask does not make zero"):
        jp.slice(graph, v, half(graph), rescale=True)


def test_a_constant_that_does_not_follow_the_size_asks_for_no_factor() -> None:
    def fn(v: Any, x: jax.Array) -> jax.Array:
        return nn.relu(x @ v["a"]).sum(axis=-1, keepdims=True) / 8.0

    graph, v = traced(Case(fn, {"a": (6, 8)}, {}))
    keep = half(graph)
    assert graph.groups["a"].inexact is None
    assert factors(graph, keep) == {}
    np.testing.assert_array_equal(jp.slice(graph, v, keep, rescale=True)["a"], v["a"][:, keep["a"]])


def test_a_constant_in_a_while_loop_is_not_followed() -> None:
    def fn(v: Any, x: jax.Array) -> jax.Array:
        h = nn.relu(x @ v["a"])
        body = lambda c: (c[0] + 1, c[1] + h.mean(-1, keepdims=True))  # noqa: E731
        return lax.while_loop(lambda c: c[0] < 3, body, (0, jnp.zeros((2, 5, 1))))[1] @ v["c"]

    graph, v = traced(Case(fn, {"a": (6, 8), "c": (1, 4)}, {}))
    with pytest.raises(ResizeError, match="8 became 4, which no variable makes up for"):
        jp.slice(graph, v, half(graph), rescale=True)


def test_a_network_that_does_not_run_at_the_kept_widths() -> None:
    def fn(v: Any, x: jax.Array) -> jax.Array:
        return (x @ v["a"]).reshape(2, 5, 8).mean(axis=-1)

    graph, v = traced(Case(fn, {"a": (6, 8)}, {}))
    with pytest.raises(ResizeError, match=r"(?s)does not run.*Fix: pass the resized network"):
        jp.slice(graph, v, half(graph), rescale=True)


def test_kinds_of_leaves_and_trees() -> None:
    graph, v = traced(CASES["a mean over channels, then a Dense"])
    keep = half(graph)
    shapes = jp.slice(graph, graph.abstract, keep, rescale=True)
    assert shapes["c"] == jax.ShapeDtypeStruct((1, 4), np.float64)
    part = jp.slice(graph, {"c": jnp.asarray(v["c"], jnp.bfloat16)}, keep, rescale=True)
    np.testing.assert_array_equal(part["c"], jnp.asarray(v["c"], jnp.bfloat16) / 2)
    assert part["c"].dtype == jnp.bfloat16
    assert factors(graph, {}) == {}
    with pytest.raises(KeepError, match="the graph does not have"):
        factors(graph, {"b": np.ones(3, bool)})


@pytest.mark.parametrize("given", [3, "yes", None])
def test_what_is_neither_a_choice_nor_a_network_is_an_error(given: Any) -> None:
    graph, v = traced(Case(lambda v, x: x @ v["a"] @ v["c"], {"a": (6, 8), "c": (8, 4)}, {}))
    with pytest.raises(JaxpruneError, match=r"rescale must be True, False or the resized network"):
        jp.slice(graph, v, half(graph), rescale=given)


def test_an_operation_without_a_rule_may_not_be_scaled() -> None:
    rules = {name: rule for name, rule in jp.RULES.items() if name != "sin"}
    v = {"a": np.ones((2, 4)), "b": np.ones((1, 3)), "w": np.ones((2, 3))}

    def fn(v: Any, x: Any) -> Any:
        return (x @ v["a"]).mean(1, keepdims=True) @ v["b"] + jnp.sin(x) @ v["w"]

    graph = jp.trace(fn, v, np.ones((1, 2)), rules=rules)
    assert factors(graph, {"a": np.arange(4) < 2}) == {"a": 0.5}
