"""State among the inputs, such as a KV cache: it is cut with the layers that fill and read it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.running.verify import following
from tests import decoders

TOKENS, POSITIONS, CACHE = jnp.array([[1], [2]]), jnp.zeros((2, 1)), decoders.new_cache()


def half(graph: jp.ChannelGraph, seed: int = 0) -> dict[str, np.ndarray]:
    """Every other channel of every group, in no order; the same count in groups of one size."""
    rng = np.random.default_rng(seed)
    return {n: rng.permutation(np.arange(g.size) % 2 == 0) for n, g in graph.groups.items()}


@pytest.fixture(scope="module")
def linen() -> Any:
    model = decoders.Decoder()
    variables = jax.jit(model.init)(jax.random.key(0), TOKENS, POSITIONS, CACHE)
    graph = jp.linen.trace(model, variables, TOKENS, POSITIONS, CACHE, state="cache")
    return model, variables, graph


def test_a_cache_as_an_argument_keeps_every_group(linen):
    model, variables, graph = linen
    frozen = jp.linen.trace(model, variables, TOKENS, POSITIONS, CACHE)
    assert len(frozen.groups) == 5
    assert len(graph.groups) == 9
    assert all(group.inexact is None for group in graph.groups.values())
    assert graph.state["cache"].output == "1"
    assert jp.cost.params(graph) == jp.cost.params(frozen)
    assert jp.cost.macs(graph) == jp.cost.macs(frozen)
    assert jp.cost.activation_bytes(graph) == jp.cost.activation_bytes(frozen)
    assert "cache/layer_1/v axis 2" in jp.explain(graph, "layer_1/k/kernel")
    small = jp.slice(graph, decoders.new_cache(3, 5), half(graph), state="cache")
    assert small["layer_0"]["k"].shape == (3, 5, 2, 4)
    assert small["layer_0"]["v"].shape == (3, 5, 2, 2)
    assert small["layer_0"]["end"].shape == ()


def test_greedy_tokens_of_a_linen_decoder_with_half_of_everything(linen):
    model, variables, graph = linen
    keep = half(graph)
    small = jp.slice(graph, variables, keep)
    cache = jp.slice(graph, CACHE, keep, state="cache")
    model2 = jp.linen.resize(model, graph, keep)
    resized, _ = decoders.greedy(model2.apply, small, cache)
    wanted, _ = decoders.greedy(following(graph.fn, graph, keep, model2.apply), small, cache)
    np.testing.assert_array_equal(resized, wanted)
    assert len(np.unique(resized)) > 3
    own = {name: mask for name, mask in keep.items() if "embed" not in name}  # nothing follows
    model3 = jp.linen.resize(model, graph, own)
    assert not model3.follows
    small, cache = jp.slice(graph, variables, own), jp.slice(graph, CACHE, own, state="cache")
    resized, _ = decoders.greedy(model3.apply, small, cache)
    narrowed, _ = decoders.greedy(jp.narrow(model.apply, graph, own), small, cache)
    np.testing.assert_array_equal(resized, narrowed)


def test_greedy_tokens_of_an_nnx_decoder_with_half_of_everything():
    model = decoders.NnxDecoder(nnx.Rngs(0))
    graph = jp.nnx.trace(model, TOKENS, POSITIONS, CACHE, state=2)
    assert len(graph.groups) == 9
    keep = half(graph)
    model2 = jp.nnx.resize(model, graph, keep)
    small = jp.nnx.variables(model2)
    cache = jp.slice(graph, CACHE, keep, state=2)
    fn = jp.nnx.function(model2)
    resized, _ = decoders.greedy(lambda v, *xs: fn(v, *xs)[0], small, cache)
    same = following(graph.fn, graph, keep, fn)
    wanted, _ = decoders.greedy(lambda v, *xs: same(v, *xs)[0], small, cache)
    np.testing.assert_array_equal(resized, wanted)


def test_masked_steps_are_the_narrow_ones(linen):
    model, variables, graph = linen
    keep = half(graph, seed=1)
    small = jp.slice(graph, variables, keep), jp.slice(graph, CACHE, keep, state="cache")
    whole = jp.mask(graph, variables, keep), jp.mask(graph, CACHE, keep, state="cache")
    ours, after = decoders.greedy(jp.narrow(model.apply, graph, keep), *small)
    theirs, full = decoders.greedy(model.apply, *whole)
    np.testing.assert_array_equal(ours, theirs)
    for a, b in zip(
        *map(jax.tree.leaves, (after, jp.slice(graph, full, keep, state="cache"))), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    again = jp.unslice(graph, after, keep, state="cache")
    assert jax.tree.map(jnp.shape, again) == jax.tree.map(jnp.shape, CACHE)
    np.testing.assert_allclose(again["layer_0"]["k"], full["layer_0"]["k"], rtol=1e-4, atol=1e-5)


def test_a_cache_by_keyword_is_the_same_and_may_be_left_out(linen):
    model, variables, positional = linen
    graph = jp.linen.trace(
        model, variables, TOKENS, positions=POSITIONS, cache=CACHE, state="cache"
    )
    assert list(graph.groups) == list(positional.groups)
    keep = half(graph)
    small = jp.slice(graph, variables, keep)
    cache = jp.slice(graph, CACHE, keep, state="cache")
    model2 = jp.linen.resize(model, graph, keep)
    run = jax.jit(jp.narrow(model.apply, graph, keep))
    wanted = run(small, TOKENS, positions=POSITIONS, cache=cache)[0]
    np.testing.assert_allclose(run(small, TOKENS, POSITIONS, cache=cache)[0], wanted, rtol=1e-6)
    by_name = {"positions": POSITIONS, "cache": CACHE}
    assert jp.verify(graph, graph.fn, keep, variables, TOKENS, resized=model2.apply, **by_name).ok

    def loss(v, x, cache):
        return jnp.sum(model.apply(v, x, POSITIONS, cache)[0])

    masked = jax.jit(loss)(jp.mask(graph, variables, keep), TOKENS, CACHE)
    narrow = jax.jit(jp.narrow(loss, graph, keep))
    np.testing.assert_allclose(narrow(small, TOKENS, cache=cache), masked)


def test_a_spec_describes_the_state(linen):
    model, variables, graph = linen
    keep = half(graph)
    spec = jp.spec(graph, keep)
    found = spec["description"]["variables"]["state cache/layer_0/k"]
    assert found == ["any", "any", f"g{list(graph.groups).index('layer_0/k/kernel')}:state", "any"]
    again = jp.linen.trace(model, variables, TOKENS, POSITIONS, CACHE, state="cache")
    for name, mask in jp.keep_from_spec(spec, again).items():
        np.testing.assert_array_equal(mask, keep[name])
    without = jp.linen.trace(model, variables, TOKENS, POSITIONS, CACHE)
    with pytest.raises(jp.errors.SpecError, match="group 'layer_0/k/kernel' has 0 channels"):
        jp.keep_from_spec(spec, without)


class Cell(nn.Module):
    """A recurrent cell of one's own, whose state is one array."""

    act: Any = jnp.tanh

    @nn.compact
    def __call__(self, x, h, mask=None, scale=1.0):
        new = self.act(nn.Dense(h.shape[-1], name="i")(x) + nn.Dense(h.shape[-1], name="h")(h))
        new = new if mask is None else jnp.where(mask, new, h)
        return nn.Dense(3, name="o")(new * scale), new


def cell(**options: Any) -> tuple[Any, Any, Any]:
    module, x, h = Cell(**options), jnp.ones((2, 5)), jnp.zeros((2, 6))
    variables = jax.jit(module.init)(jax.random.key(0), x, h)
    return module, variables, jp.linen.trace(module, variables, x, h, state="h")


def test_a_recurrent_state_keeps_its_group():
    module, variables, graph = cell()
    (group,) = graph.groups.values()
    assert group.inexact is None
    keep = {group.name: np.arange(6) % 2 == 0}
    small = jp.slice(graph, variables, keep)
    h, small_h = jnp.ones((4, 6)), jp.slice(graph, jnp.ones((4, 6)), keep, state="h")
    module2 = jp.linen.resize(module, graph, keep)
    x = jax.random.normal(jax.random.key(1), (5, 4, 5))
    masked_v, masked_h = jp.mask(graph, variables, keep), jp.mask(graph, h, keep, state="h")
    for step in x:
        y, small_h = module2.apply(small, step, small_h)
        wanted, masked_h = module.apply(masked_v, step, masked_h)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


def test_a_state_that_fills_its_pruned_channels_is_not_exact():
    """After one step a pruned channel of it is a half, and a mean would read it."""

    def fn(v, x, h):
        new = jax.nn.sigmoid(x @ v["i"])
        return (h * v["g"][None]).mean(-1) + h.mean(-1) + (new @ v["o"]).mean(-1), new

    v = {"i": np.ones((5, 6)), "g": np.ones(6), "o": np.ones((6, 2))}
    graph = jp.trace(fn, v, np.ones((2, 5)), np.zeros((2, 6)), state="h")
    assert "reduce_sum" in str(graph.groups["i"].inexact)
    kept = jp.trace(lambda *xs: (fn(*xs)[0], jnp.tanh(fn(*xs)[1] - 0.5)), v, np.ones((2, 5)),
                    np.zeros((2, 6)), state=1)  # fmt: skip
    assert kept.groups["i"].inexact is not None

    def read(v, x, h):
        return fn(v, x, h)[0]

    x, h = np.ones((2, 5), np.float32), np.ones((2, 6), np.float32)
    graph = jp.trace(read, v, x, h, state={"1": None})
    assert graph.state["1"].output is None
    assert graph.groups["g"].inexact is None
    assert jp.verify(graph, read, {"g": np.arange(6) < 2}, jax.tree.map(np.float32, v), x, h).ok


def growing(v, x, past):
    """Attention whose cache grows by one, and is a tuple."""
    k, u = past
    k = jnp.concatenate([k, x @ v["k"]], 1)
    u = jnp.concatenate([u, x @ v["u"]], 1)
    weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", x @ v["q"], k))
    return jnp.einsum("bts,bse->bte", weights, u) @ v["o"], {"past": (k, u)}


def test_a_cache_that_grows_is_cut_too():
    rng = np.random.default_rng(0)
    shapes = {"q": (5, 4), "k": (5, 4), "u": (5, 6), "o": (6, 3)}
    v = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    x, past = np.ones((2, 1, 5), np.float32), (np.ones((2, 3, 4)), np.ones((2, 3, 6)))
    past = jax.tree.map(np.float32, past)
    graph = jp.trace(growing, v, x, past=past, state="past")
    assert graph.state["past"].output == "1/past"
    assert list(graph.groups) == ["k", "u"]
    keep = {"k": np.arange(4) < 2, "u": np.arange(6) % 3 > 0}
    small, cut = jp.slice(graph, v, keep), jp.slice(graph, past, keep, state="past")
    run = jp.resize(growing, graph, keep)
    masked, full = jp.mask(graph, v, keep), jp.mask(graph, past, keep, state="past")
    for i in range(3):
        step = np.float32(rng.normal(size=x.shape))
        y, new = run(small, step, past=cut)
        wanted, old = growing(masked, step, full)
        np.testing.assert_allclose(y, wanted, rtol=1e-5)
        cut, full = new["past"], old["past"]
        assert cut[0].shape == (2, 4 + i, 2)


def test_a_stack_of_layers_under_scan_has_its_own_channels_in_the_cache():
    def layer(carry, each):
        x, at = carry
        w, cache = each
        cache = cache.at[:, at].set(x @ w["in"])
        return (x + cache.sum(1) @ w["out"], at), cache

    def fn(v, x, cache, at):
        (x, _), cache = jax.lax.scan(layer, (x, at), (v["blocks"], cache))
        return x @ v["head"], cache

    rng = np.random.default_rng(0)

    def make(*shape):
        return np.float32(rng.normal(size=shape))

    v = {"blocks": {"in": make(3, 5, 4), "out": make(3, 4, 5)}, "head": make(5, 2)}
    x, cache = make(2, 5), np.zeros((3, 2, 7, 4), np.float32)
    graph = jp.trace(fn, v, x, cache, 0, state="cache")
    assert graph.groups["blocks/in"].shape == (3, 4)
    keep = {"blocks/in": np.array([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1]], bool)}
    small, cut = jp.slice(graph, v, keep), jp.slice(graph, cache, keep, state="cache")
    assert cut.shape == (3, 2, 7, 2)
    masked, full = jp.mask(graph, v, keep), jp.mask(graph, cache, keep, state="cache")
    for at in range(3):
        y, cut = jp.narrow(fn, graph, keep)(small, x, cut, at)
        wanted, full = fn(masked, x, full, at)
        np.testing.assert_allclose(y, wanted, rtol=1e-5)
        assert jp.resize(fn, graph, keep)(small, x, cut, at)[0].shape == y.shape


def test_errors_name_the_state_and_the_way_out():
    module, variables, _ = cell()
    x, h = jnp.ones((2, 5)), jnp.zeros((2, 6))

    def trace(**options):
        return jp.linen.trace(module, variables, x, h, **options)

    for state, text in (
        ("c", "state names 'c'.*inputs are .'0 = x', '1 = h'"),
        ({"h": "new"}, r"state 'h' is an array \[2, 6\], but output 'new' is nothing; near"),
        (None, "state must be inputs, got None"),
        (True, "state must be inputs, got True"),
        (["h", 1], "share an input"),
    ):
        with pytest.raises(jp.errors.TraceError, match=text):
            trace(state=state)

    def fn(v, a, b):
        return (a * v["w"][None], b * v["w"][None])

    with pytest.raises(jp.errors.TraceError, match=r"several outputs.*\['0', '1'\].*\nFix: state="):
        jp.trace(fn, {"w": np.ones(3)}, np.ones((2, 3)), np.ones((2, 3)), state="a")
    with pytest.raises(jp.errors.TraceError, match="no output has the structure of state 'x'"):
        jp.trace(lambda v, x: x[:, :2] @ v["w"], {"w": np.ones((2, 3))}, np.ones((2, 5)), state="x")
    graph = trace(state="h")
    with pytest.raises(jp.errors.TreeError, match=r"no state 'c'; it has \['h'\]"):
        jp.slice(graph, h, {}, state="c")
    with pytest.raises(jp.errors.TreeError, match=r"has shape \(2, 5\), the graph has \(2, 6\)"):
        jp.mask(graph, x, {}, state="h")
    with pytest.raises(jp.errors.TreeError, match="'a' is not of state 'h'"):
        jp.slice(graph, {"a": h}, {}, state="h")
    with pytest.raises(jp.errors.JaxpruneError, match="rescale is of variables"):
        jp.slice(graph, h, {}, state="h", rescale=True)
    keep = {"h/kernel": np.arange(6) < 2}
    small = jp.slice(graph, variables, keep)
    with pytest.raises(jp.errors.TreeError, match=r"has shape \(2, 6\), not \(2, 2\)"):
        jp.narrow(module.apply, graph, keep)(small, x, h)
