"""Which sums have branches, how they are cut of whole modules, scored and selected."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
import nnx_networks
from jaxprune.arguments.paths import flatten
from zoo import (
    attention_images,
    attention_positions,
    decoder,
    decoder_experts,
    mobile,
    plain,
    residual,
    sequences,
)
from zoo import branches as branching


def ones(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


X = np.ones((2, 4), np.float32)
V = ones(a=(4, 4), b=(4, 4), c=(4, 4), head=(4, 2))


def found(fn: Any, variables: Any = V, x: Any = X) -> list[str]:
    return list(jp.branches(jp.trace(fn, variables, x)))


@jax.custom_jvp
def own(v, x):
    return x + jnp.tanh(x @ v["a"]) @ v["b"]


own.defjvp(lambda primals, tangents: jax.jvp(own.fun, primals, tangents))


def loop(v, x):
    return jax.lax.fori_loop(0, 2, lambda _, x: x + jnp.tanh(x @ v["a"]), x)


def recurrent(v, x):
    def step(h, x):
        return ((h := h + jnp.tanh(h @ v["a"] + x[None])), h)

    return jax.lax.scan(step, jnp.zeros((1, 4)), x)[1][:, 0]


def scored(v, x):
    q, k = x @ v["a"], x @ v["b"]
    scores = q @ k.T
    return jax.nn.softmax(scores + scores @ v["head"][:2]) @ (x @ v["c"])


HAVE = {
    "a layer": (lambda v, x: x + x @ v["a"], ["+a"]),
    "written the other way": (lambda v, x: x @ v["a"] + x, ["+a"]),
    "a difference": (lambda v, x: x - x @ v["a"], ["+a"]),
    "two in a row": (lambda v, x: (y := x + x @ v["a"]) + y @ v["b"], ["+a", "+b"]),
    "terms": (lambda v, x: x + (x @ v["a"] + x @ v["b"]), ["+a", "+b", "+a+b"]),
    "the same layer twice": (lambda v, x: (y := x + x @ v["a"]) + y @ v["a"], ["+a", "+a#2"]),
    "moved and scaled": (lambda v, x: (x.T + 0.5 * (x @ v["a"]).T).T, ["+a"]),
    "with a bias": (lambda v, x: x + (x @ v["a"] + v["b"][:2]), ["+a"]),
}
HAVE_NOT = {
    "a bias": lambda v, x: x @ v["a"] + v["b"][:2],
    "positions": lambda v, x: (x + v["b"][:2]) @ v["a"],
    "a projection": lambda v, x: x @ v["b"] + jnp.tanh(x @ v["a"]),
    "a concatenation": lambda v, x: jnp.concatenate([x, x @ v["a"]], 1),
    "a gate": lambda v, x: x * jax.nn.sigmoid(x @ v["a"]),
    "a mean": lambda v, x: (y := x @ v["a"]) - y.mean(1, keepdims=True),
    "what is read elsewhere": lambda v, x: (x + (y := x @ v["a"]), y),
    "an activation of the stream": lambda _, x: x + jnp.tanh(x),
    "a function with its own derivative": own,
    "a while loop": loop,
    "a recurrent state": recurrent,
    "scores of attention": scored,
}


@pytest.mark.parametrize("name", HAVE)
def test_a_branch_is_found(name: str) -> None:
    fn, names = HAVE[name]
    assert found(lambda v, x: fn(v, x) @ v["head"]) == names


@pytest.mark.parametrize("name", HAVE_NOT)
def test_no_branch_is_found(name: str) -> None:
    assert found(HAVE_NOT[name]) == []


EXPECTED = {
    "ResNeXt": ["Conv_3", "Conv_6"],
    "ShuffleNetV1": ["ShuffleUnitV1_1/Conv_2", "ShuffleUnitV1_2/Conv_2"],
    "MobileNetV2": ["Inverted_0/Conv_2"],
    "MobileNetV3": ["Inverted_0/Conv_2"],
    "EfficientNet": ["Inverted_0/Conv_2"],
    "ConvNeXt": ["down_0", "down_1"],
    "StochasticDepth": ["Conv_1", "Conv_3"],
    "WaveNet": ["residual_0", "residual_1"],
    "Mamba": ["out_proj"],
    "ViT": ["attention/out", "mlp/down"],
    "Mixer": ["tokens/down", "channels/down"],
    "Perceiver": ["think/out", "mlp/down"],
    "Swin": ["attention_0/out", "mlp_0/down", "attention_1/out", "mlp_1/down"],
    "Llama": ["block_0_out", "mlp_0/down"],
    "EncoderDecoder": [
        "encoder_self_out", "encoder_mlp/down", "decoder_self_out", "decoder_cross_out",
        "decoder_mlp/down",
    ],
} | {
    name: []
    for name in (
        "UNet", "DeepLab", "Inception", "DenseNet", "VGG", "LSTMCell", "GRUCell", "ShuffleNetV2",
        "FPN of nearest", "FPN of bilinear", "Rotary halves", "Biased buckets",
    )
}  # fmt: skip
ZOO = {
    network.name: network
    for network in itertools.chain.from_iterable(
        family.NETWORKS
        for family in (
            residual, mobile, branching, plain, sequences, attention_images, attention_positions,
            decoder, decoder_experts,
        )
    )
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_the_branches_of_the_zoo(name: str) -> None:
    network = ZOO[name]
    with jax.enable_x64(True):
        apply = network.applied(False)
        graph = jp.trace(lambda v, *x: apply(v, x), network.variables(), *network.inputs(1))
    assert list(jp.branches(graph)) == [f"+{kernel}/kernel" for kernel in EXPECTED[name]]


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        y = nn.Conv(5, (3, 3), use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
        y = nn.Conv(4, (3, 3), use_bias=False)(y)
        return nn.relu(x + nn.BatchNorm(use_running_average=not train)(y))


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        for _ in range(3):
            x = Block()(x, train)
        return nn.Dense(2)(x.mean((1, 2)))


@pytest.mark.parametrize("train", [False, True])
def test_a_linen_network_loses_blocks_with_their_statistics(train: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: ResNet().init(jax.random.key(0), x, False))
    random = np.random.default_rng(1)
    v = jax.tree.map(lambda leaf: random.uniform(0.3, 1, leaf.shape).astype(np.float32), shapes)

    def fn(v, x):
        return ResNet().apply(v, x, train, mutable=["batch_stats"] if train else [])

    graph = jp.trace(fn, v, x)
    keep = {"+Block_1/Conv_1/kernel": False, "Block_0/Conv_0/kernel": np.arange(5) < 3}
    small = jp.slice(graph, v, keep)
    paths = [path for path in flatten(v)[0] if "Block_1" not in path]
    assert list(flatten(small)[0]) == paths
    channels = {"Block_0/Conv_0/kernel": keep["Block_0/Conv_0/kernel"]}
    run = jax.jit(jp.gated(fn, graph))
    logits, updates = run(jp.mask(graph, v, channels), {"+Block_1/Conv_1/kernel": False}, x)
    ours, ours_updates = jax.jit(jp.narrow(fn, graph, keep))(small, x)
    np.testing.assert_allclose(ours, logits, rtol=1e-5)
    wanted = jp.slice(graph, {**v, **updates}, keep)["batch_stats"]
    if train:
        assert jax.tree.structure(ours_updates["batch_stats"]) == jax.tree.structure(wanted)
        for a, b in zip(jax.tree.leaves(ours_updates), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    assert jp.cost.macs(graph, keep) == jp.cost.macs(jp.trace(jp.narrow(fn, graph, keep), small, x))


def test_an_nnx_network_loses_a_block() -> None:
    model, x = nnx_networks.model_of(nnx_networks.Residual), np.ones((2, 6, 6, 3), np.float32)
    graph, v = jp.nnx.trace(model, x), jp.nnx.variables(model)
    keep = {"+second/kernel": False}
    small = jp.slice(graph, v, keep)
    gone = {"first/kernel", "second/kernel", "second/bias"}
    gone |= {f"inner_norm/{name}" for name in ("scale", "bias", "mean", "var")}
    assert set(flatten(v)[0]) - set(flatten(small)[0]) == gone
    wanted = jp.gated(graph.fn, graph)(v, keep, x)[0]
    np.testing.assert_allclose(jp.narrow(graph.fn, graph, keep)(small, x)[0], wanted, rtol=1e-6)


def test_a_list_keeps_the_paths_of_what_is_left() -> None:
    v = {"layers": [np.eye(4), 2 * np.eye(4), 3 * np.eye(4)]}

    def fn(v, x):
        for layer in v["layers"]:
            x = x + jnp.tanh(x @ layer)
        return x

    graph = jp.trace(fn, v, X)
    keep = {"+layers/1": False}
    small = jp.slice(graph, v, keep)
    assert list(flatten(small)[0]) == ["layers/0", "layers/2"]
    again = jp.trace(jp.narrow(fn, graph, keep), small, X)
    assert list(jp.branches(again)) == ["+layers/0", "+layers/2"]


def two(v, x):
    x = x + jnp.tanh(x @ v["a"])
    return (x + x @ v["b"] @ v["c"]) @ v["head"]


def test_the_optimizer_state_goes_with_the_branch() -> None:
    graph, tx = jp.trace(two, V, X), optax.adam(0.1)
    keep = {"+c": False, "a": np.arange(4) < 3}
    keep = {name: mask for name, mask in keep.items() if name in {*graph.groups, "+c"}}
    small = jp.slice(graph, V, keep)
    state = jp.slice_opt_state(graph, tx.init(V), keep, tx=tx, params=V)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(small))


def test_a_loop_carries_on_what_its_next_step_reads() -> None:
    """Of three carries one is a result, one is read in the next step, and one is for nothing."""
    random = np.random.default_rng(0)
    v = {"w": random.normal(size=(3, 4, 4)), "u": random.normal(size=(3, 4, 4)), "o": np.eye(4)}

    def step(carry, w):
        x, before, unused = carry
        y = x + jnp.tanh((x + before) @ w[0])
        return (y + y @ w[1], x, unused + jnp.sin(y)), None

    def fn(v, x):
        return jax.lax.scan(step, (x, x, x), (v["w"], v["u"]))[0][0] @ v["o"]

    graph = jp.trace(fn, v, X)
    assert list(jp.branches(graph)) == ["+w", "+u"]
    keep = {"+w": [True, False, True], "+u": [False, False, True]}
    small = jp.slice(graph, v, keep)
    assert (small["w"].shape, small["u"].shape) == ((2, 4, 4), (1, 4, 4))
    wanted = jp.gated(fn, graph)(v, {name: np.array(mask) for name, mask in keep.items()}, X)
    np.testing.assert_allclose(jp.narrow(fn, graph, keep)(small, X), wanted, rtol=1e-5)
    assert jp.cost.params(graph, keep) == sum(leaf.size for leaf in small.values())
    back = jp.unslice(graph, small, keep, into=v)
    assert all((back[name] == v[name]).all() for name in v)
    assert not jp.unslice(graph, small, keep)["w"][1].any()


def test_unslice_gives_the_branch_back() -> None:
    graph, keep = jp.trace(two, V, X), {"+c": False}
    small = jp.slice(graph, V, keep)
    assert sorted(small) == ["a", "head"]
    back = jp.unslice(graph, small, keep)
    assert not back["b"].any()
    assert jax.tree.structure(back) == jax.tree.structure(V)
    assert (jp.unslice(graph, small, keep, into=V)["b"] == V["b"]).all()


def test_compose_keeps_out_what_is_out() -> None:
    keep = jp.compose({"b": [True, False]}, {"+c": False, "b": [True]})
    assert not keep["+c"]
    assert keep["b"].tolist() == [True, False]
    assert jp.compose({"+a": False}, {}) == {"+a": False}


REFUSED = {
    "another name": ({"+z": False}, r"branch '\+z', which the graph does not have; near"),
    "a number": ({"+c": 0}, r"branch '\+c' is 0, not a bool"),
    "a vector": ({"+c": [True, False]}, r"branch '\+c' is bool\(2,\), not a bool"),
    "a ragged list": ({"+c": [True, [False]]}, r"branch '\+c' is \[True, \[False\]\], not a bool"),
    "a channel too": ({"+c": False, "q": [True]}, "names? group 'q'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_keep_of_branches_is_checked(name: str) -> None:
    keep, text = REFUSED[name]
    graph = jp.trace(two, V, X)
    for call in (
        lambda: jp.slice(graph, V, keep),
        lambda: jp.narrow(two, graph, keep),
        lambda: jp.unslice(graph, V, keep),
        lambda: jp.cost.macs(graph, keep),
    ):
        with pytest.raises(jp.errors.KeepError, match=text):
            call()


def test_a_traced_branch_decides_shapes() -> None:
    graph = jp.trace(two, V, X)
    for call in (
        lambda keep: jp.slice(graph, V, {"+c": keep}),
        lambda keep: jp.narrow(two, graph, {"+c": keep})(V, X),
    ):
        with pytest.raises(jp.errors.KeepError, match=r"'\+c' is traced, but it decides shapes"):
            jax.jit(call)(np.array(False))


def test_what_takes_no_branches_says_so() -> None:
    graph, keep = jp.trace(two, V, X), {"+c": False}
    with pytest.raises(jp.errors.KeepError, match=r"branch '\+c', and branches are not pruned"):
        jp.recover.absorb_constants(graph, V, keep)


def test_a_comparison_counts_branches_and_the_groups_that_go_with_them() -> None:
    graph = jp.trace(two, V, X)
    found = jp.compare(graph, {"+c": False})
    assert (found.branches[0].name, found.branches[0].before, found.branches[0].after) == (
        "+c", 1, 0
    )  # fmt: skip
    assert [(change.before, change.after) for change in found.groups] == [(4, 0)]
    assert found.macs.after == jp.cost.macs(graph, {"+c": False})


def test_a_function_without_the_branch_is_refused() -> None:
    graph, keep = jp.trace(two, V, X), {"+c": False}
    small = jp.slice(graph, V, keep)

    def other(v, x):
        return two(v, x) + x @ v["c"] @ v["head"]

    with pytest.raises(jp.errors.ResizeError, match="does not have the same branches at these"):
        jp.narrow(other, graph, keep)(small, X)
    with pytest.raises(jp.errors.TreeError, match=r"variables \['a'\] are missing"):
        jp.narrow(two, graph, keep)({"head": V["head"]}, X)
    with pytest.raises(jp.errors.GateError, match=r"'\+z': the graph has no such branch; near"):
        jp.gated(two, graph)(V, {"+z": 1.0}, X)
    with pytest.raises(jp.errors.GateError, match=r"'\+c': its gate must be of shape \(\), got"):
        jp.gated(two, graph)(V, {"+c": np.ones(2)}, X)


def test_a_bool_gate_stops_what_is_not_finite() -> None:
    def fn(v, x):
        return x + jnp.log(x @ v["a"] - 4.0)

    graph = jp.trace(fn, V, X)
    out = jp.gated(fn, graph)(V, {"+a": False}, X)
    np.testing.assert_array_equal(out, X)


def test_tables_and_explanations() -> None:
    graph = jp.trace(lambda v, x: two(v, x) + (x @ v["a"])[:, :2], V, X)
    assert "branch  steps  variables  MACs  params" in str(graph)
    assert "+c                     2    64      32" in str(graph)
    text = jp.explain(graph, "+")
    assert "branch +c at" in text
    assert "without it there are 64 MACs and 32 parameters less:\n    b\n    c" in text
    assert "neither operand is made from the other through a layer" in text
    assert jp.explain(graph, "+c") in text
    with pytest.raises(jp.errors.PatternError, match="branch pattern"):
        jp.explain(graph, "+z")
    assert "branch" not in str(jp.trace(lambda v, x: x @ v["a"], {"a": V["a"]}, X))
