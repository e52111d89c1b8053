"""Absorbing a constant equals the whole network with the pruned BatchNorm scales at zero."""

from collections.abc import Callable
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.arguments.paths import flatten
from jaxprune.errors import KeepError, TreeError
from jaxprune.recover import shifts, views
from jaxprune.recover.absorb import absorb_constants

IMAGE = jnp.zeros((1, 6, 6, 3))
Block = Callable[[jax.Array], jax.Array]


class Network(nn.Module):
    """Blocks of images, then the mean over the pixels and a Dense layer."""

    blocks: tuple[Block, ...]

    @nn.compact
    def __call__(self, x):
        x = run(self.blocks, x)
        return nn.Dense(3)(x.mean(axis=(1, 2)) if x.ndim == 4 else x)


def run(blocks, x):
    for block in blocks:
        x = block(x)
    return x


def conv(features, size=3, padding="VALID", **kwargs) -> Block:
    return lambda x: nn.Conv(features, (size, size), padding=padding, **kwargs)(x)


def dense(features, **kwargs) -> Block:
    return lambda x: nn.Dense(features, **kwargs)(x)


def norm(x):
    return nn.BatchNorm(use_running_average=True)(x)


def residual(*body: Block, shortcut: tuple[Block, ...] = ()) -> Block:
    return lambda x: run(shortcut, x) + run(body, x)


def concatenate(*body: Block) -> Block:
    return lambda x: jnp.concatenate([x, run(body, x)], axis=-1)


def shuffle(x):
    return x.reshape(*x.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(x.shape)


def shared(features) -> Block:
    """One Dense layer used twice."""

    def block(x):
        layer = nn.Dense(features)
        return layer(x) + layer(2 * x)

    return block


def squeeze_excite(x):
    gate = nn.sigmoid(nn.Dense(x.shape[-1])(x.mean(axis=(1, 2), keepdims=True)))
    return nn.Dense(4)(x * gate)


def two_readers(x):
    return nn.relu(norm(nn.Dense(4)(x))) + norm(nn.Conv(4, (1, 1), use_bias=False)(x))


def random_like(tree):
    """Values between -1 and 1; running variances positive."""
    rng = np.random.default_rng(1)

    def value(path, leaf):
        x = rng.uniform(-1, 1, leaf.shape)
        return jnp.asarray(abs(x) + 0.5 if "var" in jax.tree_util.keystr(path) else x, leaf.dtype)

    return jax.tree_util.tree_map_with_path(value, tree)


def network(*blocks: Block, image=IMAGE):
    module = Network(blocks)

    def fn(v, x):
        return module.apply(v, x)

    variables = random_like(jax.eval_shape(module.init, jax.random.key(0), image))
    return fn, variables, jp.trace(fn, variables, image)


def thirds(graph, names=None):
    return {
        name: np.arange(group.size) % 3 != 1
        for name, group in graph.groups.items()
        if names is None or name in names
    }


def without_scales(graph, variables, keep):
    """The variables with the scale of every BatchNorm zero at pruned channels."""

    def value(path, whole, masked):
        name = jax.tree_util.keystr(path)
        return masked if "BatchNorm" in name and "scale" in name else whole

    masked = jp.mask(graph, variables, keep)
    return jax.tree_util.tree_map_with_path(value, variables, masked)


def error(fn, graph, variables, keep, absorbed):
    """The largest difference to the whole network with scales at zero, relative."""
    x = jax.random.normal(jax.random.key(2), (4, *graph.inputs[0].shape[1:]))
    wanted = jax.jit(fn)(without_scales(graph, variables, keep), x)
    got = jax.jit(jp.narrow(fn, graph, keep))(jp.slice(graph, absorbed, keep), x)
    return float(jnp.abs(got - wanted).max() / jnp.abs(wanted).max())


def pool(x):
    return nn.avg_pool(nn.max_pool(x, (2, 2)), (2, 2))


SAME = (conv(6), norm, nn.silu, conv(5, 3, "SAME"), norm, nn.relu)
EXACT = {
    "bias": (
        (conv(6), norm, nn.silu, conv(5), norm, nn.relu),
        "Conv_0/kernel at Network/Conv_1: exact, into params/Conv_1/bias",
    ),
    "mean": (
        (conv(6, use_bias=False), norm, nn.sigmoid, conv(5, use_bias=False), norm, nn.relu),
        "Conv_0/kernel at Network/Conv_1: exact, into batch_stats/BatchNorm_1/mean",
    ),
    "1x1": (
        (dense(6), norm, nn.silu, conv(5, 1, "SAME"), norm),
        "Dense_0/kernel at Network/Conv_0: exact, into params/Conv_0/bias",
    ),
    "dense": (
        (dense(6), norm, nn.gelu, dense(5), norm, nn.tanh),
        "Dense_1/kernel at Network/Dense_2: exact, into params/Dense_2/bias",
    ),
    "two readers": (
        (dense(6), norm, nn.silu, two_readers, dense(4), norm),
        "Dense_0/kernel at Network/Conv_0: exact, into batch_stats/BatchNorm_2/mean",
    ),
    "two norms": (
        (dense(6), norm, residual(dense(6), norm), nn.silu, dense(4), norm),
        "Dense_0/kernel at Network/Dense_2: exact, into params/Dense_2/bias",
    ),
    "a stream": (
        (dense(6), norm, residual(dense(5), norm, nn.silu, dense(6, use_bias=False)), norm),
        "Dense_1/kernel at Network/Dense_2: exact, into batch_stats/BatchNorm_2/mean",
    ),
    "concatenation": (
        (dense(6), norm, concatenate(nn.silu, dense(4), norm), nn.silu, dense(4), norm),
        "Dense_1/kernel at Network/Dense_2: exact, into params/Dense_2/bias",
    ),
    "shuffle": (
        (dense(4), norm, concatenate(dense(4), norm), shuffle, dense(4), norm),
        "Dense_0/kernel at Network/Dense_2: exact, into params/Dense_2/bias",
    ),
    "grouped": (
        (dense(6), norm, nn.silu, conv(4, feature_group_count=2), norm),
        "Dense_0/kernel[1.1] at Network/Conv_0: exact, into params/Conv_0/bias",
    ),
    "depthwise": (
        (dense(6), norm, nn.silu, conv(6, feature_group_count=6), norm, dense(4), norm),
        "Conv_0/kernel at Network/Dense_1: exact, into params/Dense_1/bias",
    ),
    "flat": (
        (conv(6), norm, nn.silu, pool, lambda x: x.reshape(len(x), -1), dense(4), norm),
        "Conv_0/kernel at Network/Dense_0: exact, into params/Dense_0/bias",
    ),
    "nothing": (
        (dense(6), norm, lambda x: 0 * nn.relu(x), conv(5, 3, "SAME"), norm),
        "Dense_0/kernel at Network/Conv_0: exact",
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_equals_the_network_with_scales_at_zero(name):
    blocks, expected = EXACT[name]
    fn, variables, graph = network(*blocks)
    keep = thirds(graph)
    absorbed = absorb_constants(graph, variables, keep)
    assert all(outcome.exact for outcome in absorbed.outcomes), absorbed.outcomes
    assert expected in list(map(str, absorbed.outcomes))
    assert {outcome.group for outcome in absorbed.outcomes} == set(keep)
    assert error(fn, graph, variables, keep, absorbed.variables) < 1e-5
    if name != "nothing":
        assert error(fn, graph, variables, keep, variables) > 1e-3


def test_a_constant_passes_linear_operations():
    fn, variables, graph = network(
        dense(6), norm, nn.silu, dense(4, use_bias=False), lambda x: -2 * x / 3
    )
    keep = thirds(graph, ["Dense_0/kernel"])
    absorbed = absorb_constants(graph, variables, keep)
    assert list(map(str, absorbed.outcomes)) == [
        "Dense_0/kernel at Network/Dense_1: exact, into params/Dense_2/bias"
    ]
    assert error(fn, graph, variables, keep, absorbed.variables) < 1e-5


INEXACT = {
    "padding": (
        SAME,
        "Conv_0/kernel at Network/Conv_1: approximate, into params/Conv_1/bias: "
        "zero padding at Network/Conv_1 differs between places by up to ",
    ),
    "padding before": (
        (dense(6), norm, nn.silu, lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), dense(4)),
        "Dense_0/kernel at Network/Dense_1: approximate, into params/Dense_1/bias: "
        "the constant differs between places by up to ",
    ),
    "no bias": (
        (dense(6), norm, nn.silu, dense(4, use_bias=False), nn.relu),
        "Dense_0/kernel at Network/Dense_1: impossible: max comes before any bias or running mean",
    ),
    "no norm": (
        (dense(6), nn.silu, dense(4), norm),
        "Dense_0/kernel at Network/Dense_1: impossible: the pruned channels are not constant",
    ),
    "a shortcut without a norm": (
        (dense(6), residual(dense(6), norm), dense(4), norm),
        "Dense_0/kernel at Network/Dense_2: impossible: the pruned channels are not constant",
    ),
    "a gate": (
        (dense(6), norm, squeeze_excite, norm),
        "Dense_0/kernel at Network/Dense_2: impossible: the pruned channels are not constant",
    ),
    "a maximum": (
        (dense(6), norm, lambda x: dense(4)(x) * x.max(axis=-1, keepdims=True), norm),
        "Dense_0/kernel at Network: impossible: the pruned channels are not constant",
    ),
    "a shared layer": (
        (dense(6), norm, nn.silu, shared(4), norm),
        "Dense_0/kernel at Network/Dense_1: impossible: params/Dense_1/bias is used 2 times",
    ),
    "a loop": (
        (dense(6), norm, lambda x: jax.lax.fori_loop(0, 2, lambda _, y: nn.silu(y), x), dense(4)),
        "Dense_0/kernel at Network: impossible: scan is not followed",
    ),
}


@pytest.mark.parametrize("name", INEXACT)
def test_says_what_is_lost(name):
    blocks, expected = INEXACT[name]
    fn, variables, graph = network(*blocks)
    keep = thirds(graph)
    absorbed = absorb_constants(graph, variables, keep)
    assert expected in "\n".join(map(str, absorbed.outcomes))
    lossy = {outcome.group for outcome in absorbed.outcomes if not outcome.exact}
    rest = {group: kept for group, kept in keep.items() if group not in lossy}
    absorbed = absorb_constants(graph, variables, rest)
    assert all(outcome.exact for outcome in absorbed.outcomes)
    assert error(fn, graph, variables, rest, absorbed.variables) < 1e-5


def test_the_mean_over_the_places_halves_the_loss_under_padding():
    fn, variables, graph = network(*SAME)
    keep = thirds(graph)
    absorbed = absorb_constants(graph, variables, keep).variables
    lost = error(fn, graph, variables, keep, variables)
    assert 1e-3 < error(fn, graph, variables, keep, absorbed) < lost / 2


def test_the_last_layer_without_a_bias_loses_the_constant():
    variables = {
        "a": {"kernel": jnp.ones((3, 4))},
        "norm": {name: jnp.ones(4) for name in ("scale", "bias", "mean", "var")},
        "b": {"kernel": jnp.ones((4, 2))},
    }

    def fn(v, x):
        n = {name: leaf[None] for name, leaf in v["norm"].items()}
        x = (x @ v["a"]["kernel"] - n["mean"]) * n["scale"] / jnp.sqrt(n["var"]) + n["bias"]
        return jnp.tanh(x) @ v["b"]["kernel"]

    graph = jp.trace(fn, variables, jnp.ones((2, 3)))
    keep = {"a/kernel": np.array([True, True, False, True])}
    (outcome,) = absorb_constants(graph, variables, keep).outcomes
    assert "the output comes before any bias" in str(outcome)
    assert "test_absorb.py" in outcome.consumer  # a plain function: file and line


def test_changes_biases_and_means_alone_and_keeps_their_kind():
    _, variables, graph = network(*EXACT["mean"][0])
    host = jax.tree.map(np.asarray, variables)
    keep = thirds(graph)
    device, absorbed = (absorb_constants(graph, v, keep).variables for v in (variables, host))
    changed = set()
    for path, leaf in flatten(host)[0].items():
        new = flatten(absorbed)[0][path]
        assert (type(new), new.dtype) == (np.ndarray, leaf.dtype)
        changed |= {path} if (new != leaf).any() else set()
    assert changed == {"batch_stats/BatchNorm_1/mean", "params/Dense_0/bias"}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(device))
    jax.tree.map(np.testing.assert_array_equal, device, absorbed)


def test_without_pruned_channels_nothing_changes():
    _, variables, graph = network(*EXACT["dense"][0])
    keep = {name: np.ones(group.size, bool) for name, group in graph.groups.items()}
    absorbed = absorb_constants(graph, variables, keep)
    assert absorbed.outcomes == ()
    jax.tree.map(np.testing.assert_array_equal, absorbed.variables, variables)


def test_half_precision_is_judged_in_half_precision():
    half = {"dtype": jnp.bfloat16}
    blocks = (conv(6, **half), norm, nn.silu, conv(5, **half), norm)
    _, variables, graph = network(*blocks)
    absorbed = absorb_constants(graph, variables, thirds(graph))
    assert all(outcome.exact for outcome in absorbed.outcomes), absorbed.outcomes


def test_refuses_what_does_not_fit():
    _, variables, graph = network(*EXACT["dense"][0])
    with pytest.raises(KeepError, match="which the graph does not have"):
        absorb_constants(graph, variables, {"nowhere": np.ones(3, bool)})
    part = {"params": variables["params"]}
    with pytest.raises(TreeError, match=r"batch_stats/BatchNorm_0/mean(.|\n)*Fix: pass all"):
        absorb_constants(graph, part, thirds(graph))
    with pytest.raises(TreeError, match="have no values"):
        absorb_constants(graph, graph.abstract, thirds(graph))


@pytest.mark.parametrize(("dtype", "rounded"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2**-5)])
def test_a_shift_may_be_uneven_by_the_rounding_of_its_type(dtype, rounded):
    op = SimpleNamespace(out_shapes=[(4,)], rule=SimpleNamespace(weights=(1, 1)))
    view = views.View("bias", (2,), np.array([0, 0, 1, 1]))
    fold = shifts._fold(None, jnp.asarray([1, 1, 2, 2], dtype), view, op)
    np.testing.assert_array_equal(fold.delta, [1, 2])
    assert fold.unevenness == 0
    assert fold.tolerance == pytest.approx(2 * rounded)
