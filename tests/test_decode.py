"""Decoding with a cache: it is cut with the heads, and what is generated is the same."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

STEPS = 7
TOKENS = np.random.default_rng(0).normal(size=(STEPS, 2, 1, 6)).astype(np.float32)


class Decoder(nn.Module):
    """One layer of a decoder."""

    @nn.compact
    def __call__(self, x):
        x += nn.MultiHeadDotProductAttention(4, qkv_features=16, decode=True)(x, x)
        return nn.Dense(3)(nn.relu(nn.Dense(10)(x)))


class OffByOne(nn.Module):
    """Its code adds a width to a number that is no start of a slice."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(8, name="up")(x)
        place = self.variable("cache", "place", lambda: jnp.zeros((), jnp.int32))
        return nn.Dense(3, name="down")(h) * (place.value + h.shape[-1])


def traced(module: nn.Module) -> tuple[jp.ChannelGraph, Any]:
    variables = jax.jit(module.init)(jax.random.key(0), np.ones((2, STEPS, 6), np.float32))
    return jp.linen.trace(module, variables, TOKENS[0], mutable=["cache"]), variables


def generated(fn: Any, variables: Any) -> list[np.ndarray]:
    """What comes out step by step, each with the cache that the one before left."""
    found = []
    for token in TOKENS:
        y, updates = jax.jit(fn)(variables, token)
        variables = {**variables, **(updates or {})}
        found.append(np.asarray(y))
    return found


def test_a_cut_cache_decodes_as_the_narrow_and_the_masked_network():
    module = Decoder()
    graph, variables = traced(module)
    heads, values, hidden = (
        next(name for name in graph.groups if part in name)
        for part in ("key/kernel[1]", "value/kernel[2]", "Dense_1")
    )
    keep = {
        heads: np.array([True, False, False, True]),
        values: np.array([False, True, True, True]),
        hidden: np.arange(10) % 2 == 0,
    }
    small, module2 = jp.slice(graph, variables, keep), jp.linen.resize(module, graph, keep)
    assert small["cache"]["MultiHeadDotProductAttention_0"]["cached_key"].shape == (2, 7, 2, 4)
    assert small["cache"]["MultiHeadDotProductAttention_0"]["cached_value"].shape == (2, 7, 2, 3)
    assert not module2.follows
    found = generated(lambda v, x: module2.apply(v, x, mutable=["cache"]), small)
    for fn, v in (
        (jp.narrow(graph.fn, graph, keep), small),
        (graph.fn, jp.mask(graph, variables, keep)),
    ):
        np.testing.assert_allclose(found, generated(fn, v), rtol=1e-5, atol=1e-6)


class Layers(nn.Module):
    """Layers of a decoder, whose caches are in their modules."""

    layers: tuple[int, ...] = (0, 1, 2)

    @nn.compact
    def __call__(self, x):
        for i in self.layers:
            name = f"attention_{i}"
            x += nn.MultiHeadDotProductAttention(2, qkv_features=8, decode=True, name=name)(x, x)
            x += nn.Dense(6, name=f"down_{i}")(nn.relu(nn.Dense(10, name=f"up_{i}")(x)))
        return nn.Dense(3)(x)


def test_a_decoder_without_a_layer_has_a_shorter_cache_and_decodes_the_same():
    module = Layers()
    graph, variables = traced(module)
    keep = dict.fromkeys(("+attention_1/out/kernel", "+down_1/kernel"), False)
    small = jp.slice(graph, variables, keep)
    assert list(small["cache"]) == ["attention_0", "attention_2"]
    resized = jp.linen.resize(module, graph, keep)
    runs = [lambda v, x, m=m: m.apply(v, x, mutable=["cache"]) for m in (resized, Layers((0, 2)))]
    ours, by_hand = (generated(run, small) for run in runs)
    np.testing.assert_allclose(ours, by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        generated(jp.narrow(graph.fn, graph, keep), small), by_hand, rtol=1e-5, atol=1e-6
    )


class Layer(nn.Module):
    """A layer of a stack, which counts its calls."""

    @nn.compact
    def __call__(self, x, _):
        attention = nn.MultiHeadDotProductAttention(2, qkv_features=8, decode=True)
        x += attention(x, x)
        return x + nn.Dense(6, name="down")(nn.relu(nn.Dense(10, name="up")(x))), None


class Stacked(nn.Module):
    """Layers of a decoder that a scan steps over, with their caches."""

    layers: int = 3

    @nn.compact
    def __call__(self, x):
        stack = nn.scan(
            Layer,
            variable_axes={"params": 0, "cache": 0},
            split_rngs={"params": True},
            length=self.layers,
        )
        return nn.Dense(3)(stack(name="stack")(x, None)[0])


KEPT = np.array([True, False, True])
ATTENTION, DOWN = "+stack/MultiHeadDotProductAttention_0/out/kernel", "+stack/down/kernel"


def test_a_scan_without_a_layer_has_a_shorter_cache_and_decodes_the_same():
    module = Stacked()
    graph, variables = traced(module)
    keep = {ATTENTION: KEPT, DOWN: KEPT}
    small = jp.slice(graph, variables, keep)
    assert {len(leaf) for leaf in jax.tree.leaves(small["cache"])} == {2}
    resized = jp.linen.resize(module, graph, keep, overrides={"": {"layers": 2}})
    runs = [lambda v, x, m=m: m.apply(v, x, mutable=["cache"]) for m in (resized, Stacked(2))]
    ours, by_hand = (generated(run, small) for run in runs)
    np.testing.assert_allclose(ours, by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        generated(jp.narrow(graph.fn, graph, keep), small), by_hand, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "keep", [{ATTENTION: KEPT}, {ATTENTION: ~KEPT, DOWN: KEPT}, {ATTENTION: False}, {DOWN: KEPT}]
)
def test_the_cache_of_a_scan_loses_the_rows_of_the_layers_without_attention(keep):
    graph, variables = traced(Stacked())
    small = jp.slice(graph, variables, keep)
    rows = np.count_nonzero(np.broadcast_to(keep.get(ATTENTION, True), 3))
    assert {len(leaf) for leaf in jax.tree.leaves(small.get("cache", {}))} == ({rows} - {0})
    gated = jp.gated(graph.fn, graph)
    ours = generated(jp.narrow(graph.fn, graph, keep), small)
    whole = generated(lambda v, x: gated(v, keep, x), variables)
    np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-6)


def test_an_integer_that_is_no_start_does_not_follow():
    module = OffByOne()
    graph, _ = traced(module)
    with pytest.raises(jp.errors.ResizeError, match="reads the constant 5, it was 8"):
        jp.linen.resize(module, graph, {"up/kernel": np.arange(8) < 5})
