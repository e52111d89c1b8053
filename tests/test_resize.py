"""`linen.resize`: what it refuses, naming the equation, and what it gets right."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
import modules
import networks
from jaxprune.arguments.paths import flatten
from jaxprune.inspecting import spec

Keep = Mapping[str, np.ndarray]

IMAGES = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
TOKENS = np.random.default_rng(0).normal(size=(2, 5, 6))
IDS = np.random.default_rng(0).integers(0, 11, size=(2, 5))


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def variables_of(module: nn.Module, x: Any) -> Any:
    """Returns random variables of `module` in double precision."""
    return jax.tree.map(np.float64, networks.weights(module, 0, x))


def channels(keep: Mapping[str, Any], graph: jp.ChannelGraph) -> Keep:
    """Returns the keep of `{group: kept indices}`."""
    return {name: np.isin(np.arange(graph.groups[name].size), kept) for name, kept in keep.items()}


def random_keep(graph: jp.ChannelGraph, seed: int = 3) -> Keep:
    """Returns one to all channels of each group, in no order, and never all of all groups."""
    random = np.random.default_rng(seed)
    return {
        name: random.permutation(group.size) < random.integers(1, max(group.size, 2))
        for name, group in graph.groups.items()
    }


def run(fn: Callable[..., Any], *arguments: Any) -> Any:
    """Returns `fn(*arguments)`, compiled."""
    return jax.device_get(jax.jit(fn)(*arguments))


def only(graph: jp.ChannelGraph, *, size: int) -> str:
    """Returns the name of the one group of `size`."""
    (name,) = (name for name, group in graph.groups.items() if group.size == size)
    return name


def check_masked_equals_narrow(fn, graph, variables, keep, x):
    """Checks the pruned network without any module."""
    masked = run(fn, jp.mask(graph, variables, keep), x)
    narrow = run(jp.narrow(fn, graph, keep), jp.slice(graph, variables, keep), x)
    np.testing.assert_allclose(narrow, masked, rtol=1e-9, atol=1e-9)


# What must be refused.


@pytest.fixture
def attention():
    module = modules.HandAttention()
    variables = variables_of(module, TOKENS)
    return module, variables, jp.trace(module.apply, variables, TOKENS)


def test_heads_and_head_dims_are_groups_of_a_hand_written_attention(attention):
    _, _, graph = attention
    assert sorted(group.size for group in graph.groups.values()) == [4, 4, 4]
    assert all(group.inexact is None for group in graph.groups.values())


def heads_of(graph: jp.ChannelGraph) -> str:
    """Returns the group that all of query, key and value share."""
    (name,) = (
        name
        for name, group in graph.groups.items()
        if {"params/query/kernel", "params/value/kernel"} <= {slot.path for slot in group.slots}
    )
    return name


@pytest.mark.usefixtures("unsearched")
def test_resize_refuses_a_hard_coded_head_count(attention):
    module, variables, graph = attention
    keep = channels({heads_of(graph): [0, 3]}, graph)
    expected = r"reshape.*HandAttention should give \[2, 5, 2, 4\].*\[2, 5, 4, 2\]"
    with pytest.raises(jp.errors.ResizeError, match=expected) as error:
        jp.linen.resize(module, graph, keep)
    for way_out in ("Fix:", "overrides", "protect", "narrow"):
        assert way_out in str(error.value)
    check_masked_equals_narrow(module.apply, graph, variables, keep, TOKENS)


def test_an_override_resizes_a_hard_coded_head_count(attention):
    module, variables, graph = attention
    keep = channels({heads_of(graph): [0, 3]}, graph)
    resized = jp.linen.resize(module, graph, keep, overrides={"": {"heads": 2}})
    check_agreement(module, resized, graph, keep, variables, TOKENS)


@pytest.mark.usefixtures("unsearched")
def test_an_override_reaches_an_inner_module_and_the_refusal_names_it():
    module = modules.Encoder()
    variables = variables_of(module, TOKENS)
    graph = jp.trace(module.apply, variables, TOKENS)
    (name,) = (
        name
        for name, group in graph.groups.items()
        if {"params/attention/query/kernel", "params/attention/value/kernel"}
        <= {slot.path for slot in group.slots}
    )
    keep = channels({name: [1, 2]}, graph)
    with pytest.raises(jp.errors.ResizeError, match=r"reshape.*Encoder/attention should"):
        jp.linen.resize(module, graph, keep)
    resized = jp.linen.resize(module, graph, keep, overrides={"attention": {"heads": 2}})
    check_agreement(module, resized, graph, keep, variables, TOKENS)


def test_an_override_that_matches_no_module_or_attribute_is_an_error(attention):
    module, _, graph = attention
    keep = channels({heads_of(graph): [0, 3]}, graph)
    with pytest.raises(jp.errors.JaxpruneError, match="Attention_7"):
        jp.linen.resize(module, graph, keep, overrides={"Attention_7": {"heads": 2}})
    with pytest.raises(jp.errors.JaxpruneError, match="haeds"):
        jp.linen.resize(module, graph, keep, overrides={"": {"haeds": 2}})


@pytest.mark.parametrize(
    ("module", "change"),
    [
        (modules.VanishingProjection(), r"conv_general_dilated.*/project became add.*\n.*narrow"),
        (modules.AppearingResidual(), r"reduce_sum.* at AppearingResidual became add.*\n.*narrow"),
    ],
)
def test_resize_refuses_a_residual_that_changes_because_widths_coincide(module, change):
    variables = variables_of(module, IMAGES)
    graph = jp.trace(module.apply, variables, IMAGES)
    body = only(graph, size=12)
    coincide = channels({"stem/kernel": [0, 2, 4, 5, 7], body: [1, 2, 3, 8, 9]}, graph)
    with pytest.raises(jp.errors.ResizeError, match=change):
        jp.linen.resize(module, graph, coincide)
    check_masked_equals_narrow(module.apply, graph, variables, coincide, IMAGES)
    differ = channels({"stem/kernel": [0, 2, 4, 5, 7], body: [1, 3, 8, 9]}, graph)
    resized = jp.linen.resize(module, graph, differ)
    check_agreement(module, resized, graph, differ, variables, IMAGES)


def test_resize_refuses_a_group_norm_whose_group_count_cannot_follow():
    module = modules.Normalized(modules.HandGroupNorm())
    variables = variables_of(module, IMAGES)
    graph = jp.trace(module.apply, variables, IMAGES)
    groups, members = only(graph, size=4), only(graph, size=6)
    keep = channels({groups: [1, 3]}, graph)
    with pytest.raises(jp.errors.ResizeError, match=r"reshape.*/norm should give .*2, 6\]"):
        jp.linen.resize(module, graph, keep)
    assert graph.groups[groups].inexact is None
    check_masked_equals_narrow(module.apply, graph, variables, keep, IMAGES)
    assert graph.groups[members].inexact is not None


# What must be resized.


RESIZABLE = {
    "depthwise": (modules.DepthwiseBlock(), IMAGES),
    "transpose": (modules.TransposeBlock(), IMAGES),
    "dense-general": (modules.DenseGeneralBlock(), TOKENS),
    "embed": (modules.EmbedBlock(), IDS),
    "setup": (modules.SetupBlock(), TOKENS),
    "fields": (modules.FieldBlock(nn.Dense(8), nn.Dense(9)), TOKENS),
    "nested-fields": (
        modules.FieldBlock(modules.FieldBlock(nn.Dense(8), nn.Dense(9)), modules.SetupBlock()),
        TOKENS,
    ),
    "field-called-module": (modules.SwitchBlock(nn.Dense(9)), TOKENS),
    "remat-fields": (modules.FieldBlock(nn.remat(nn.Dense)(8), nn.remat(modules.Wide)(9)), TOKENS),
    "sequential": (nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(6), nn.Dense(3)]), TOKENS),
    "remat": (modules.RematBlock(), TOKENS),
    "scan": (modules.ScanBlock(), TOKENS),
    "remat-scan": (modules.RematScanBlock(), TOKENS),
}


def check_agreement(module, resized, graph, keep, variables, x):
    """Checks that the resized, the narrow and the masked network are one."""
    small = jp.slice(graph, variables, keep)
    narrow = run(jp.narrow(module.apply, graph, keep), small, x)
    np.testing.assert_allclose(run(resized.apply, small, x), narrow, rtol=1e-9, atol=1e-9)
    assert not any(graph.groups[name].inexact for name in keep)
    check_masked_equals_narrow(module.apply, graph, variables, keep, x)
    assert shapes(jax.eval_shape(resized.init, jax.random.key(0), x)) == shapes(small)


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each leaf."""
    return {path: leaf.shape for path, leaf in flatten(tree)[0].items()}


@pytest.mark.parametrize(("module", "x"), RESIZABLE.values(), ids=RESIZABLE)
def test_layers_are_resized(module, x):
    variables = variables_of(module, x)
    graph = jp.trace(module.apply, variables, x)
    assert graph.groups
    keep = random_keep(graph)
    resized = jp.linen.resize(module, graph, keep)
    assert shapes(jp.slice(graph, variables, keep)) != shapes(variables)
    check_agreement(module, resized, graph, keep, variables, x)


def check_equals_hand_written(module, hand_written, keep_of, x):
    """Checks the resized module, where constants follow a width, against a narrow definition."""
    variables = variables_of(module, x)
    graph = jp.trace(module.apply, variables, x)
    keep = keep_of(graph)
    small = jp.slice(graph, variables, keep)
    resized = jp.linen.resize(module, graph, keep)
    assert shapes(variables_of(hand_written, x)) == shapes(small)
    expected = run(hand_written.apply, small, x)
    np.testing.assert_allclose(run(resized.apply, small, x), expected, rtol=1e-9, atol=1e-9)


NORMS = {
    "layer-norm": (nn.LayerNorm(), nn.LayerNorm(), {24: [1, 5, 7, 20, 22]}),
    "rms-norm": (nn.RMSNorm(), nn.RMSNorm(), {24: [1, 5, 7, 20, 22]}),
    "group-norm-groups": (nn.GroupNorm(4), nn.GroupNorm(2), {4: [0, 3]}),
    "group-norm-members": (nn.GroupNorm(4), nn.GroupNorm(4), {6: [0, 2, 5]}),
    "group-norm-both": (nn.GroupNorm(4), nn.GroupNorm(3), {4: [0, 1, 3], 6: [2, 3]}),
    "group-norm-by-size": (
        nn.GroupNorm(None, group_size=6),
        nn.GroupNorm(None, group_size=3),
        {6: [0, 2, 5], 4: [1, 2]},
    ),
    "group-norm-of-a-bias": (
        nn.GroupNorm(4, use_scale=False),
        nn.GroupNorm(2, use_scale=False),
        {4: [0, 3]},
    ),
    "hand-written-group-norm": (
        modules.HandGroupNorm(),
        modules.HandGroupNorm(),
        {6: [0, 2, 5]},
    ),
}


@pytest.mark.parametrize(("norm", "narrow_norm", "kept"), NORMS.values(), ids=NORMS)
def test_normalizations_follow_the_width(norm, narrow_norm, kept):
    sizes = [24] if 24 in kept else [4, 6]
    width = math.prod(len(kept.get(size, range(size))) for size in sizes)
    check_equals_hand_written(
        modules.Normalized(norm),
        modules.Normalized(narrow_norm, width),
        lambda graph: channels({only(graph, size=n): kept[n] for n in kept}, graph),
        IMAGES,
    )


@pytest.mark.parametrize("query_key", [1, 3])
@pytest.mark.parametrize("value", [1, 4])
def test_attention_has_a_head_size_for_values_and_one_for_queries_and_keys(query_key, value):
    module = modules.AttentionBlock()
    variables = variables_of(module, TOKENS)
    graph = jp.trace(module.apply, variables, TOKENS)
    kept = {"key/kernel[2]": range(query_key), "value/kernel[2]": range(value)}
    keep = channels({f"attend/{name}": list(at) for name, at in kept.items()}, graph)
    small = jp.slice(graph, variables, keep)
    resized = jp.linen.resize(module, graph, keep)
    attend = jax.tree.map(np.copy, small["params"]["attend"])
    for leaf in attend["query"].values():
        leaf *= np.sqrt(4 / query_key)  # `narrow` still divides by the root of four
    same = {"params": small["params"] | {"attend": attend}}
    expected = run(jp.narrow(module.apply, graph, keep), same, TOKENS)
    np.testing.assert_allclose(run(resized.apply, small, TOKENS), expected, rtol=1e-9, atol=1e-9)
    assert shapes(jax.eval_shape(resized.init, jax.random.key(0), TOKENS)) == shapes(small)


def test_attention_follows_heads_and_head_size():
    module, narrow = modules.AttentionBlock(), modules.AttentionBlock(2, 3, 5)
    kept = {"key/kernel[1]": [0, 2], "out/kernel": [0, 1, 3, 4, 6]}
    kept |= {"key/kernel[2]": [1, 2, 3], "value/kernel[2]": [0, 1, 3]}
    check_equals_hand_written(
        module,
        narrow,
        lambda graph: channels({f"attend/{name}": at for name, at in kept.items()}, graph),
        TOKENS,
    )


def test_constants_that_follow_a_width_are_listed():
    module = modules.Normalized(modules.HandGroupNorm())
    graph = jp.trace(module.apply, variables_of(module, IMAGES), IMAGES)
    keep = channels({only(graph, size=6): [0, 2]}, graph)
    resized = jp.linen.resize(module, graph, keep)
    assert any("96 became 32" in text for text in resized.follows)


def test_other_methods_are_forwarded():
    module = modules.SetupBlock()
    variables = variables_of(module, TOKENS)
    graph = jp.trace(module.apply, variables, TOKENS)
    keep = channels({"first/kernel": [1, 2, 6]}, graph)
    small = jp.slice(graph, variables, keep)
    resized = jp.linen.resize(module, graph, keep)
    first = small["params"]["first"]
    expected = np.maximum(TOKENS @ first["kernel"] + first["bias"], 0).sum(-1, keepdims=True)
    for method in ("features", modules.SetupBlock.features):
        found = resized.apply(small, TOKENS, method=method)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "module",
    [modules.SetupBlock(), modules.FieldBlock(nn.Dense(8), modules.SwitchBlock(nn.Dense(9)))],
)
def test_a_resized_module_is_a_layer_of_another_module(module):
    variables = variables_of(module, TOKENS)
    graph = jp.trace(module.apply, variables, TOKENS)
    keep = random_keep(graph)
    small, resized = jp.slice(graph, variables, keep), jp.linen.resize(module, graph, keep)
    outer = modules.Outer(resized)
    outer_variables = variables_of(outer, TOKENS)
    assert shapes(outer_variables["params"]["inner"]) == shapes(small["params"])
    outer_variables["params"]["inner"] = small["params"]
    dense = outer_variables["params"]["Dense_0"]
    expected = np.tanh(run(resized.apply, small, TOKENS) @ dense["kernel"] + dense["bias"])
    np.testing.assert_allclose(run(outer.apply, outer_variables, TOKENS), expected, rtol=1e-9)


def test_a_resized_module_is_traced_and_resized_again():
    module = modules.SetupBlock()
    variables = variables_of(module, TOKENS)
    graph = jp.trace(module.apply, variables, TOKENS)
    keep = random_keep(graph)
    small, resized = jp.slice(graph, variables, keep), jp.linen.resize(module, graph, keep)
    again = jp.trace(resized.apply, small, TOKENS)
    assert {name: group.size for name, group in again.groups.items()} == jp.widths(graph, keep)
    keep_again = random_keep(again, seed=4)
    check_agreement(
        resized, jp.linen.resize(resized, again, keep_again), again, keep_again, small, TOKENS
    )


def test_a_keep_from_a_stored_spec_gives_the_same_network():
    module = modules.SetupBlock()
    variables = variables_of(module, TOKENS)
    graph = jp.trace(module.apply, variables, TOKENS)
    keep = random_keep(graph)
    stored = spec.keep_from_spec(json.loads(json.dumps(jp.spec(graph, keep))))
    check_agreement(module, jp.linen.resize(module, graph, stored), graph, keep, variables, TOKENS)


def test_resize_with_a_keep_that_does_not_fit_is_an_error():
    module = modules.SetupBlock()
    graph = jp.trace(module.apply, variables_of(module, TOKENS), TOKENS)
    with pytest.raises(jp.errors.KeepError, match="first/kernel"):
        jp.linen.resize(module, graph, {"first/kernel": np.ones(7, bool)})


class Elsewhere(nn.Module):
    """A layer of every kind behind one that is pruned."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(4, name="last")(nn.relu(nn.Dense(8, name="first")(x)))
        h = nn.ConvTranspose(4, (3,))(nn.Conv(4, (3,))(h)) + nn.DenseGeneral(4)(h)
        h = nn.GroupNorm(2)(h) + nn.MultiHeadDotProductAttention(2)(h, h)
        h = h + nn.RNN(nn.GRUCell(4))(h) + nn.Embed(3, 4)(jnp.zeros(h.shape[:2], jnp.int32))
        return h + nn.RNN(nn.OptimizedLSTMCell(4))(h)


def test_layers_whose_variables_are_not_those_of_the_graph_stay_as_they_are():
    module, x = Elsewhere(), np.ones((1, 5, 3), np.float32)
    params = jax.tree.map(np.float32, variables_of(module, x)["params"])
    v = {"params": {name: params.pop(name) for name in ("first", "last")}}
    graph = jp.trace(lambda v, x: module.apply({"params": v["params"] | params}, x), v, x)
    keep = {"first/kernel": np.arange(8) < 5}
    small, model2 = jp.slice(graph, v, keep), jp.linen.resize(module, graph, keep)
    found = jax.jit(model2.apply)({"params": small["params"] | params}, x)
    wanted = jax.jit(graph.fn)(jp.mask(graph, v, keep), x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
