"""A cache among the inputs loses the entries of the layers that lost their attention."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from tests import decoders
from tests.cached_decoders import CONTAINERS, LAYERS, Decoder

POSITIONS = jnp.zeros((2, 1))
TOKENS = jnp.array([[1], [2]])
GONE, COUNT = 1, 5


def traced(decoder: Any) -> jp.ChannelGraph:
    return jp.trace(decoder, decoder.variables, TOKENS, POSITIONS, decoder.cache(), state="cache")


def without(graph: jp.ChannelGraph, ends: tuple[str, ...], gone: int = GONE) -> dict[str, Any]:
    """A keep without the branches of a layer that end so."""
    keep: dict[str, Any] = {}
    for name, branch in jp.branches(graph).items():
        if not name.endswith(ends):
            continue
        if branch.steps:
            keep[name] = np.arange(branch.steps) != gone
        elif f"layers/{gone}/" in name or f"layer_{gone}/" in name or name.endswith(f"#{gone + 1}"):
            keep[name] = False
    return keep


def heads(graph: jp.ChannelGraph) -> dict[str, Any]:
    """A keep of some of the groups of heads, and of hidden channels."""
    random = np.random.default_rng(1)
    return {
        name: random.permuted(np.broadcast_to(np.arange(g.size) % 2 == 0, g.shape), axis=-1)
        for name, g in graph.groups.items()
        if name.endswith(("/up", "/k"))
    }


def entries(cache: Any) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(cache)]


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("ends", [("/o", "/down"), ("/o",)])
@pytest.mark.parametrize("container", CONTAINERS)
def test_the_shorter_cache_gives_the_same_numbers(container, ends, channels):
    decoder = Decoder(container)
    graph = traced(decoder)
    gone = without(graph, (*ends, *(f"{end}#{GONE + 1}" for end in ends)))
    cut = heads(graph) if channels else {}
    keep = {**gone, **cut}
    small = jp.slice(graph, decoder.variables, keep)
    cache = jp.slice(graph, decoder.cache(), keep, state="cache")
    width = decoders.KV // 2 if channels else decoders.KV
    left = LAYERS if container == "stacks" else LAYERS - 1  # a loop makes one array of all rows
    by_hand = decoder.cache(kv=width, layers=left)
    assert sorted(entries(cache)) == sorted(entries(by_hand))
    stored = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    assert jp.cost.state_bytes()(graph, keep) == stored
    again = jp.unslice(graph, cache, keep, state="cache")
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, decoder.cache())
    gated = jp.gated(decoder, graph)
    full = jp.mask(graph, decoder.variables, cut)
    wanted, whole = decoders.greedy(
        lambda v, *xs: gated(v, gone, *xs),
        full,
        jp.mask(graph, decoder.cache(), cut, state="cache"),
        COUNT,
    )
    narrow, after = decoders.greedy(jp.narrow(decoder, graph, keep), small, cache, COUNT)
    np.testing.assert_array_equal(narrow, wanted)
    assert jax.tree.structure(after) == jax.tree.structure(cache)
    if len(ends) == 2 and container != "stacks":  # the same code runs the layers that are there
        for run in (decoder, jp.resize(decoder, graph, keep)):
            np.testing.assert_array_equal(decoders.greedy(run, small, cache, COUNT)[0], wanted)
    left = jp.slice(graph, whole, keep, state="cache")
    for a, b in zip(*map(jax.tree.leaves, (after, left)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("container", ["dict", "scan"])
def test_verify_agrees_with_a_shorter_cache(container):
    decoder = Decoder(container)
    graph = traced(decoder)
    keep = without(graph, ("/o", "/down")) | heads(graph)
    inputs = TOKENS, POSITIONS, decoder.cache()
    resized = jp.resize(decoder, graph, keep)
    found = jp.verify(graph, decoder, keep, decoder.variables, *inputs, resized=resized)
    assert found.resized == "exact"
    assert set(found.groups.values()) == {"exact"}


def test_a_shorter_cache_has_any_batch_and_length():
    decoder = Decoder("dict")
    graph = traced(decoder)
    keep = without(graph, ("/o", "/down"))
    small = jp.slice(graph, decoder.variables, keep)
    whole = decoders.new_cache(3, 6, layers=3)
    cache = jp.slice(graph, whole, keep, state="cache")
    assert list(cache) == ["layer_0", "layer_2"]
    inputs = jnp.array([[1], [2], [3]]), jnp.zeros((3, 1))
    narrow = jp.narrow(decoder, graph, keep)
    ours, _ = narrow(small, *inputs, cache)
    theirs, _ = decoder(small, *inputs, cache)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    again = jp.unslice(graph, cache, keep, state="cache")
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, whole)
    with pytest.raises(jp.errors.TreeError, match="'layer_1/v'] went with branches"):
        narrow(small, *inputs, whole)


def test_a_call_that_gives_nothing_but_its_cache_is_that_of_its_cache():
    decoder = Decoder("dict")
    fill = lambda v, *xs: decoder(v, *xs)[1]  # noqa: E731
    graph = jp.trace(fill, decoder.variables, TOKENS, POSITIONS, decoder.cache(), state=2)
    keep = {"+layers/layer_0/down": False}
    small = jp.slice(graph, decoder.variables, keep)
    cache = jp.slice(graph, decoder.cache(), keep, state=2)
    assert entries(cache) == entries(decoder.cache())
    ours = jp.narrow(fill, graph, keep)(small, TOKENS, POSITIONS, cache)
    wanted = jp.gated(fill, graph)(decoder.variables, keep, TOKENS, POSITIONS, cache)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, wanted)


def decoded(graph: Any, keep: Any, small: Any, cache: Any, *runs: Any) -> None:
    """Every run generates the same from the shorter cache, and leaves one of its structure."""
    narrow = jp.narrow(graph.fn, graph, keep)
    every = [decoders.greedy(run, small, cache, COUNT) for run in (logits_and_cache(narrow), *runs)]
    for tokens, after in every:
        np.testing.assert_array_equal(tokens, every[0][0])
        assert jax.tree.structure(after) == jax.tree.structure(cache)


def logits_and_cache(fn: Any) -> Any:
    """A step, without the updates that a function of NNX gives."""

    def step(v: Any, *inputs: Any) -> Any:
        outputs = fn(v, *inputs)
        return outputs[0] if isinstance(outputs[0], tuple) else outputs

    return step


@pytest.mark.parametrize("ends", [("/o/kernel", "/down/kernel"), ("/o/kernel",)])
def test_a_linen_decoder_without_a_layer_takes_the_shorter_cache(ends):
    model, cache = decoders.Decoder((0, 1, 2)), decoders.new_cache(layers=3)
    variables = jax.jit(model.init)(jax.random.key(0), TOKENS, POSITIONS, cache)
    graph = jp.linen.trace(model, variables, TOKENS, POSITIONS, cache, state="cache")
    gone = without(graph, ends)
    keep = gone | {"layer_0/k/kernel": np.arange(4) % 2 == 0}
    for chosen, by_hand in ((gone, [decoders.Decoder((0, 2)).apply]), (keep, [])):
        small = jp.slice(graph, variables, chosen)
        less = jp.slice(graph, cache, chosen, state="cache")
        assert list(less) == ["layer_0", "layer_2"]
        resized = jp.linen.resize(model, graph, chosen).apply
        decoded(graph, chosen, small, less, resized, *by_hand[: len(ends) - 1])


@pytest.mark.parametrize("ends", [("/o/kernel", "/down/kernel"), ("/o/kernel",)])
def test_an_nnx_decoder_without_a_layer_takes_the_shorter_cache(ends):
    model, cache = decoders.NnxDecoder(nnx.Rngs(0), 3), decoders.new_cache(layers=3)
    graph = jp.nnx.trace(model, TOKENS, POSITIONS, cache, state="cache")
    keep = without(graph, ends) | {"layers/0/k/kernel": np.arange(4) % 2 == 0}
    small = jp.nnx.resize(model, graph, keep)
    less = jp.slice(graph, cache, keep, state="cache")
    variables = jp.slice(graph, jp.nnx.variables(model), keep)
    step = logits_and_cache(jp.nnx.function(small))
    decoded(graph, keep, variables, less, step)
    logits, after = small(TOKENS, POSITIONS, cache=less)
    np.testing.assert_allclose(logits, step(variables, TOKENS, POSITIONS, less)[0], rtol=1e-5)
    assert jax.tree.structure(after) == jax.tree.structure(less)
    assert isinstance(nnx.clone(small), decoders.NnxDecoder)
