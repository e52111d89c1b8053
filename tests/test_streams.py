"""Streams whose readers keep their own channels: pre-activation ResNets and DenseNets."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.linen import resizing
from jaxprune.program import spaces as ax
from jaxprune.program import stream_readers

X = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)
conv = partial(nn.Conv, kernel_size=(1, 1), use_bias=False)


class PreActivation(nn.Module):
    """A stem, two blocks of the pre-activation kind, and a head."""

    @nn.compact
    def __call__(self, x, *, train=False):
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = conv(6, name="stem")(x)
        for _ in range(2):
            y = conv(5)(nn.relu(norm()(x)))
            x = x + conv(6)(nn.relu(norm()(y)))
        x = nn.relu(norm(name="last")(x))
        return nn.Dense(3)(jnp.mean(x, axis=(1, 2)))


class Dense(nn.Module):
    """Layers that read all that came before, and a transition."""

    @nn.compact
    def __call__(self, x, *, train=False):
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = conv(4, name="stem")(x)
        for _ in range(2):
            x = jnp.concatenate([x, conv(3)(nn.relu(norm()(x)))], axis=-1)
        x = conv(10, name="transition")(nn.relu(norm()(x)))
        x = jnp.concatenate([x, conv(3)(nn.relu(norm()(x)))], axis=-1)
        x = nn.relu(norm(name="last")(x))
        return nn.Dense(3)(jnp.mean(x, axis=(1, 2)))


class Plain(nn.Module):
    """BatchNorms that each read one layer: nothing to select."""

    @nn.compact
    def __call__(self, x, *, train=False):
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = nn.relu(norm()(conv(6)(x)))
        x = nn.relu(x + norm()(conv(6)(x)))
        x = nn.max_pool(conv(4)(x), (2, 2))
        return nn.Dense(3)(jnp.mean(nn.relu(norm()(x)), axis=(1, 2)))


def random_values(tree: Any) -> Any:
    random = np.random.default_rng(1)
    return jax.tree.map(lambda x: np.float32(random.uniform(0.3, 1.0, x.shape)), tree)


def variables_of(module: nn.Module) -> Any:
    return random_values(jax.eval_shape(module.init, jax.random.key(0), X))


def applied(module: nn.Module, *, train: bool) -> Any:
    mutable = ["batch_stats"] if train else []
    return lambda v, x: module.apply(v, x, train=train, mutable=mutable)


def traced(module: nn.Module, variables: Any, *, train: bool = False) -> jp.ChannelGraph:
    return jp.trace(jp.linen.mark_readers(applied(module, train=train)), variables, X)


def random_keep(graph: jp.ChannelGraph, seed: int) -> dict[str, np.ndarray]:
    """Returns one to all channels of every group; readers keep only what their stream has."""
    random = np.random.default_rng(seed)
    keep = {}
    for name, group in graph.groups.items():
        keep[name] = random.permutation(group.size) < random.integers(2, group.size + 1)
    for reading in graph.readings:
        lost = reading.missing(keep)
        keep[reading.name] = keep[reading.name].copy()
        keep[reading.name][lost] = False
        offered = ax.select(reading.stream, keep)
        keep[reading.name][np.flatnonzero(offered)[0]] = True
    return keep


def readers(graph: jp.ChannelGraph) -> list[str]:
    return [reading.name for reading in graph.readings]


@pytest.mark.parametrize(
    ("module", "streams", "own"),
    [
        (PreActivation(), ["Conv_1/kernel"], ["BatchNorm_0", "BatchNorm_2", "last"]),
        (
            Dense(),
            ["Conv_0/kernel", "Conv_1/kernel", "Conv_2/kernel", "stem/kernel", "transition/kernel"],
            ["BatchNorm_0", "BatchNorm_1", "BatchNorm_2", "BatchNorm_3", "last"],
        ),
    ],
)
def test_each_reader_of_a_stream_has_a_group(module, streams, own):
    variables = variables_of(module)
    for train in (False, True):
        graph = traced(module, variables, train=train)
        assert readers(graph) == own
        for reading in graph.readings:
            slots = {(slot.path, slot.role) for slot in graph.groups[reading.name].slots}
            norm = {f"params/{reading.name}/{leaf}" for leaf in ("scale", "bias")}
            norm |= {f"batch_stats/{reading.name}/{leaf}" for leaf in ("mean", "var")}
            (read,) = slots - {(path, "vector") for path in norm}
            assert read[1] == "in"
        assert all(group.inexact is None for group in graph.groups.values())
        assert set(streams) < set(graph.groups)
        assert not any("BatchNorm" in slot.path for n in streams for slot in graph.groups[n].slots)


def test_explain_names_the_stream_of_a_reader():
    graph = traced(PreActivation(), variables_of(PreActivation()))
    assert "that last keeps of the stream: Conv_1/kernel" in jp.explain(graph, "last")
    assert "of the stream" not in jp.explain(graph, "stem/kernel")


def test_nothing_changes_where_no_stream_is_read():
    variables = variables_of(Plain())
    plain = jp.trace(applied(Plain(), train=False), variables, X)
    graph = traced(Plain(), variables)
    assert not graph.readings
    assert graph.groups.keys() == plain.groups.keys()
    slots = [{(s.path, s.axis) for s in g.slots} for g in graph.groups.values()]
    assert slots == [{(s.path, s.axis) for s in g.slots} for g in plain.groups.values()]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("module", [PreActivation(), Dense()])
@pytest.mark.parametrize("wide", [False, True], ids=["all", "readers"])
def test_masked_narrowed_and_resized_are_one_network(module, train, wide):
    variables = variables_of(module)
    graph = traced(module, variables, train=train)
    keep = random_keep(graph, 3)
    if wide:  # as in the paper: the streams stay wide
        keep = {n: np.arange(graph.groups[n].size) % 2 == 0 for n in readers(graph)}
    small = jp.slice(graph, variables, keep)
    fn = applied(module, train=train)
    model = jp.linen.resize(module, graph, keep)

    def loss(apply, v, tree):
        out = apply(v | {"params": tree}, X)
        return jnp.sum(jnp.sin(out[0])), out

    def run(apply, v):
        return jax.jit(jax.grad(partial(loss, apply, v), has_aux=True))(v["params"])

    gradient, (logits, state) = run(fn, jp.mask(graph, variables, keep))
    masked = (cut(graph, {"params": gradient}, keep)["params"], (logits, cut(graph, state, keep)))
    narrowed = run(jp.narrow(jp.linen.mark_readers(fn), graph, keep), small)
    resized = run(applied(model, train=train), small)
    for found in (narrowed, resized):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5), found, masked)


def cut(graph: jp.ChannelGraph, tree: Any, keep: Any) -> Any:
    return jp.slice(graph, tree, keep) if tree else tree


def test_the_resized_network_takes_the_channels_from_the_wide_stream():
    module = PreActivation()
    variables = variables_of(module)
    graph = traced(module, variables)
    keep = {"BatchNorm_0": np.arange(6) > 2, "last": np.arange(6) % 2 == 1}  # the third: whole
    model = jp.linen.resize(module, graph, keep)
    small = jp.slice(graph, variables, keep)
    assert small["params"]["stem"]["kernel"].shape == (1, 1, 2, 6)
    assert small["params"]["BatchNorm_0"]["scale"].shape == (3,)
    assert small["params"]["Conv_0"]["kernel"].shape == (1, 1, 3, 5)
    assert small["params"]["Dense_0"]["kernel"].shape == (3, 3)
    text = str(jax.make_jaxpr(lambda v: model.apply(v, X))(small))
    assert "indices=(3, 4, 5) reader=BatchNorm_0" in text
    assert "indices=(1, 3, 5) reader=last" in text
    assert text.count("select_inputs") == 2


def test_a_reader_cannot_keep_what_its_stream_has_lost():
    module = PreActivation()
    variables = variables_of(module)
    graph = traced(module, variables)
    stream = {"Conv_1/kernel": np.arange(6) < 4}
    with pytest.raises(jp.errors.KeepError, match=r"(?s)BatchNorm_0 reads 2 channels.*last reads"):
        jp.slice(graph, variables, stream)
    fits = stream | {name: np.arange(6) < 3 for name in readers(graph)}
    jp.linen.resize(module, graph, fits)


def test_pruned_twice_is_pruned_once():
    module = Dense()
    variables = variables_of(module)
    graph = traced(module, variables)
    first = {n: np.arange(graph.groups[n].size) % 3 != 1 for n in readers(graph)}
    model, small = jp.linen.resize(module, graph, first), jp.slice(graph, variables, first)
    again = traced(model, small)
    assert readers(again) == readers(graph)
    assert {n: g.size for n, g in again.groups.items()} == jp.widths(graph, first)
    second = {n: np.arange(again.groups[n].size) % 2 == 0 for n in readers(again)}
    twice = jp.linen.resize(model, again, second)
    once = jp.linen.resize(module, graph, jp.compose(first, second))
    tiny = jp.slice(again, small, second)
    np.testing.assert_array_equal(twice.apply(tiny, X), once.apply(tiny, X))


def test_a_wrong_selection_is_refused(monkeypatch):
    module = PreActivation()
    graph = traced(module, variables_of(module))
    keep = {"last": np.arange(6) < 3}
    monkeypatch.setattr(resizing, "_selections", lambda *_: {"last": (0, 1, 3)})
    with pytest.raises(jp.errors.ResizeError, match=r"should read the channels \(0, 1, 2\)"):
        jp.linen.resize(module, graph, keep)


def test_marks_in_a_plain_function():
    def fn(v, x):
        x = x @ v["stem"]
        y = jp.select_inputs(x, "first") * v["scale"][None]
        x = x + y @ v["mid"]
        return jp.select_inputs(x, "second") @ v["out"]

    random = np.random.default_rng(0)
    shapes = {"stem": (3, 6), "scale": (6,), "mid": (6, 6), "out": (6, 2)}
    variables = {name: np.float32(random.normal(size=shape)) for name, shape in shapes.items()}
    x = np.float32(random.normal(size=(4, 3)))
    graph = jp.trace(fn, variables, x)
    assert list(graph.groups) == ["first", "mid", "second"]
    keep = {"first": np.arange(6) > 3, "second": np.arange(6) % 2 == 0}
    small = jp.slice(graph, variables, keep)
    np.testing.assert_allclose(
        jp.narrow(fn, graph, keep)(small, x), fn(jp.mask(graph, variables, keep), x), rtol=1e-5
    )


def test_channels_that_a_reader_does_not_keep_are_no_zeros_in_its_stream():
    def fn(v, x):
        x = x @ v["stem"]
        y = jp.select_inputs(x, "summed")
        return x @ v["wide"] + y @ v["out"] + y.sum(axis=-1, keepdims=True)

    random = np.random.default_rng(0)
    shapes = {"stem": (3, 6), "wide": (6, 2), "out": (6, 2)}
    variables = {name: np.float32(random.normal(size=shape)) for name, shape in shapes.items()}
    x = np.float32(random.normal(size=(4, 3)))
    graph = jp.trace(fn, variables, x)
    assert "reduce_sum" in (graph.groups["summed"].inexact or "")
    assert graph.groups["stem"].inexact is None
    kept = np.arange(6) % 2 == 0
    small = jp.slice(graph, variables, {"summed": kept})
    h = x @ variables["stem"]
    expected = h @ variables["wide"] + h[:, kept] @ small["out"] + h[:, kept].sum(-1)[:, None]
    found = jp.narrow(fn, graph, {"summed": kept})(small, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_marks_differentiate_and_batch():
    x = np.float32(np.random.default_rng(0).normal(size=(5, 3, 4)))
    take = partial(stream_readers.take, indices=(2, 0), reader="here")
    np.testing.assert_array_equal(jax.vmap(take)(x), x[..., [2, 0]])
    np.testing.assert_array_equal(jax.vmap(take, 1)(x), np.moveaxis(x, 1, 0)[..., [2, 0]])
    np.testing.assert_array_equal(
        jax.grad(lambda x: take(x).sum())(x), np.zeros_like(x) + np.float32([1, 0, 1, 0])
    )


@pytest.mark.parametrize("wrap", [nn.remat, nn.jit])
def test_readers_inside_lifted_modules(wrap):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.relu(nn.BatchNorm(use_running_average=True)(x))
            return x + nn.Dense(6)(y)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(6)(x)
            x = wrap(Block)(name="a")(x)
            x = wrap(Block)(name="b")(x)
            return nn.Dense(2)(x)

    x = X[:, 0, 0]
    variables = random_values(jax.eval_shape(Net().init, jax.random.key(0), x))
    graph = jp.trace(jp.linen.mark_readers(Net().apply), variables, x)
    assert readers(graph) == ["a/BatchNorm_0", "b/BatchNorm_0"]
    keep = {"a/BatchNorm_0": np.arange(6) < 2, "b/BatchNorm_0": np.arange(6) > 2}
    model, small = jp.linen.resize(Net(), graph, keep), jp.slice(graph, variables, keep)
    np.testing.assert_allclose(
        model.apply(small, x), Net().apply(jp.mask(graph, variables, keep), x), rtol=1e-5
    )


def test_a_reader_that_cannot_be_pruned_goes_with_its_stream():
    def fn(v, x):
        x = x @ v["stem"]
        return jp.select_inputs(x, "free") @ v["out"], jp.select_inputs(x, "shown") * v["scale"][
            None
        ]

    shapes = {"stem": (3, 6), "out": (6, 2), "scale": (6,)}
    variables = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    graph = jp.trace(fn, variables, np.ones((4, 3), np.float32))
    assert list(graph.groups) == ["free"]
    assert "output" in jp.explain(graph, "stem")


def test_a_reading_that_is_broadcast_along_an_axis_that_is_pruned_to_one() -> None:
    """JAX leaves the broadcast out where the axis has one entry."""
    random = np.random.default_rng(0)
    shapes = {"a": (3, 8), "k": (4, 8), "w": (4, 8, 2), "other": (8, 2)}
    v = {name: random.normal(size=shape) for name, shape in shapes.items()}
    x = random.normal(size=(2, 3))

    def fn(v, x):
        stream = x @ v["a"]
        read = jp.select_inputs(stream[:, None], "reader")
        spread = jnp.broadcast_to(read, (2, len(v["k"]), read.shape[-1]))
        mixed = jnp.einsum("bkc,kcd->bd", spread * v["k"][None], v["w"])
        return mixed + stream @ v["other"]

    graph = jp.trace(fn, v, x)
    keep = {"k": np.arange(4) == 2, "reader": np.arange(8) % 2 == 0}
    assert keep.keys() <= graph.groups.keys()
    small = jp.slice(graph, v, keep)
    narrow = jp.narrow(fn, graph, keep)(small, x)
    np.testing.assert_allclose(narrow, fn(jp.mask(graph, v, keep), x), rtol=1e-5)
    only = {"k": keep["k"]}
    found = jp.resize(fn, graph, only)(jp.slice(graph, v, only), x)
    np.testing.assert_allclose(found, fn(jp.mask(graph, v, only), x), rtol=1e-5)
