"""`jp.nnx`: the laws on NNX models, and what a resized model object can do."""

import pickle
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
import nnx_networks as networks
from jaxprune.arguments.paths import flatten
from jaxprune.running.verify import following

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(2, 4, 4, 3)).astype(np.float32)
SEQUENCE = RANDOM.normal(size=(2, 5, 3)).astype(np.float32)
TOKENS = RANDOM.integers(0, 7, size=(2, 5))


def recurrent(cell: Any) -> Any:
    """Returns what builds a network with recurrent cells of a class."""
    return lambda rngs: networks.Recurrent(rngs, cell)


NETWORKS = {
    "residual": (networks.Residual, IMAGES),
    "grouped": (networks.Grouped, IMAGES),
    "transformer": (networks.Transformer, TOKENS),
    "decoder": (networks.Decoder, IMAGES),
    "shared": (networks.Shared, SEQUENCE),
    "stacked": (networks.Stacked, SEQUENCE),
    "lstm": (recurrent(nnx.LSTMCell), SEQUENCE),
    "gru": (recurrent(nnx.GRUCell), SEQUENCE),
}


def random_keep(graph: jp.ChannelGraph, names: Any = None, seed: int = 1) -> dict[str, np.ndarray]:
    """Returns about half of the channels of each group, in no order; exact groups by default."""
    random = np.random.default_rng(seed)
    if names is None:
        names = [name for name, group in graph.groups.items() if group.inexact is None]
    shapes = {name: graph.groups[name].shape for name in names}
    halves = {name: np.arange(shape[-1]) < (shape[-1] + 1) // 2 for name, shape in shapes.items()}
    return {
        name: random.permuted(np.broadcast_to(halves[name], shape), axis=-1)
        for name, shape in shapes.items()
    }


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each leaf."""
    return {path: np.shape(leaf) for path, leaf in flatten(tree)[0].items()}


def assert_close(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    """Checks that two trees agree, relative to the largest entry of each leaf."""
    ours, theirs = flatten(found)[0], flatten(expected)[0]
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        scale = max(1, np.max(np.abs(theirs[path]), initial=0))
        np.testing.assert_allclose(
            value, theirs[path], rtol=0, atol=tolerance * scale, err_msg=path
        )


def gradients(fn: Any, variables: Any, x: Any) -> Any:
    """Returns (gradients of a weighted sum of the outputs, (outputs, updates))."""

    def loss(variables: Any) -> Any:
        outputs, updates = fn(variables, x)
        weights = jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape)
        return (outputs * weights).sum(), (outputs, updates)

    return jax.grad(loss, has_aux=True)(variables)


LAWS = [(name, "eval") for name in NETWORKS] + [("residual", "train"), ("stacked", "train")]


@pytest.mark.parametrize(("name", "mode"), LAWS)
def test_masked_narrow_and_resized_are_one_network(name, mode):
    build, x = NETWORKS[name]
    model = networks.model_of(build)
    getattr(model, mode)()
    graph = jp.nnx.trace(model, x)
    keep, full = random_keep(graph), jp.nnx.variables(model)
    small = jp.nnx.resize(model, graph, keep)
    cut = jp.nnx.variables(small)
    assert shapes(cut) != shapes(full)
    assert_close(cut, jp.slice(graph, full, keep), 0)
    resized = jp.nnx.function(small)
    follow = following(graph.fn, graph, keep, resized)
    assert bool(jp.nnx.follows(graph, keep)) == (name in ("grouped", "transformer"))

    @jax.jit
    def run(full: Any, cut: Any) -> Any:
        found, rest = gradients(graph.fn, jp.mask(graph, full, keep), x)
        return {
            "masked": (jp.slice(graph, found, keep), (rest[0], jp.slice(graph, rest[1], keep))),
            "narrow": gradients(jp.narrow(graph.fn, graph, keep), cut, x),
            "following": gradients(follow, cut, x),
            "resized": gradients(resized, cut, x),
        }

    found = run(full, cut)
    assert_close(found["narrow"], found["masked"])
    assert_close(found["resized"], found["following"])
    written = {path for path in flatten(found["resized"][1][1])[0] if path.endswith("mean")}
    assert bool(written) == (mode == "train" or name == "stacked")  # scan writes all it carries


def test_the_model_object_itself_is_small_and_writes_its_statistics():
    model = networks.model_of(networks.Residual)
    model.train()
    graph = jp.nnx.trace(model, IMAGES)
    keep, before = random_keep(graph), jax.tree.map(np.array, jp.nnx.variables(model))
    small = jp.nnx.resize(model, graph, keep)
    outputs, updates = jp.nnx.function(small)(jp.nnx.variables(small), IMAGES)
    assert_close(nnx.jit(lambda model, x: model(x))(small, IMAGES), outputs)
    written = flatten(updates)[0]
    assert set(written) == {f"{bn}/{v}" for bn in ("norm", "inner_norm") for v in ("mean", "var")}
    found = flatten(jp.nnx.variables(small))[0]
    assert_close({path: found[path] for path in written}, written)
    assert_close(jp.nnx.variables(model), before, 0)


def test_numpy_arrays_are_read_and_not_written_into():
    """A restored checkpoint holds them, and NNX writes statistics into them in place."""
    model = networks.model_of(networks.Residual)
    model.train()
    graph, fn = jp.nnx.trace(model, IMAGES), jp.nnx.function(model)
    variables = jp.nnx.variables(model)
    copies = jax.tree.map(np.array, variables)
    given = jax.tree.map(np.array, variables)
    assert_close(fn(given, IMAGES), fn(variables, IMAGES))
    jax.tree.map(np.testing.assert_array_equal, given, copies)
    nnx.update(model, given)
    small = jp.nnx.resize(model, graph, random_keep(graph, ["first/kernel"]))
    small(IMAGES)
    jax.tree.map(np.testing.assert_array_equal, given, copies)


def test_resize_copies_no_array_that_stays_whole():
    model = networks.model_of(networks.Residual)
    graph = jp.nnx.trace(model, IMAGES)
    small = jp.nnx.resize(model, graph, random_keep(graph, ["first/kernel"]))
    assert small.stem.kernel[...] is model.stem.kernel[...]
    assert small.stem.kernel is not model.stem.kernel
    assert small.first.kernel.shape == (3, 3, 6, 3)
    assert model.first.kernel.shape == (3, 3, 6, 5)
    small.stem.bias[...] = small.stem.bias + 1
    assert not np.allclose(small.stem.bias, model.stem.bias)


def test_shared_modules_are_shared():
    model = networks.model_of(networks.Shared)
    graph = jp.nnx.trace(model, SEQUENCE)
    small = jp.nnx.resize(model, graph, random_keep(graph))
    assert small.again is small.once_more
    assert (small.again.in_features, small.again.out_features) == (3, 3)


def test_a_variable_that_two_layers_share_stays_shared():
    def tied(rngs: nnx.Rngs) -> networks.Shared:
        model = networks.Shared(rngs)
        model.once_more = nnx.Linear(6, 6, rngs=rngs)
        model.once_more.kernel = model.again.kernel
        return model

    model = networks.model_of(tied)
    graph = jp.nnx.trace(model, SEQUENCE)
    small = jp.nnx.resize(model, graph, random_keep(graph))
    assert small.once_more is not small.again
    assert small.once_more.kernel is small.again.kernel
    assert (small.once_more.in_features, small.once_more.out_features) == (3, 3)


def test_random_state_is_kept_and_dropout_does_not_hinder():
    model = networks.model_of(networks.Residual)
    model.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(3))
    model.train()
    graph = jp.nnx.trace(model, IMAGES)
    assert set(graph.groups) == {"first/kernel", "second/kernel"}
    small = jp.nnx.resize(model, graph, random_keep(graph))
    stream: Any = model.dropout.rngs
    cut: Any = small.dropout.rngs
    assert int(stream.count[...]) == int(cut.count[...]) == 0
    assert cut.key[...] == stream.key[...]
    first, second = small(IMAGES), small(IMAGES)
    assert not np.allclose(first, second)
    assert (int(stream.count[...]), int(cut.count[...])) == (0, 2)


def test_rngs_may_be_an_argument_of_the_call():
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first, self.last = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, deterministic=False)

        def __call__(self, x: Any, rngs: nnx.Rngs) -> Any:
            return self.last(self.dropout(self.first(x), rngs=rngs))

    model, rngs = Net(nnx.Rngs(0)), nnx.Rngs(1)
    for graph in (jp.nnx.trace(model, SEQUENCE, rngs=rngs), jp.nnx.trace(model, SEQUENCE, rngs)):
        small = jp.nnx.resize(model, graph, random_keep(graph))
        assert small(SEQUENCE, rngs=nnx.Rngs(1)).shape == (2, 5, 2)
    assert int(rngs.default.count[...]) == 0


def test_a_model_of_shapes_is_traced_and_planned_without_memory():
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first = nnx.Linear(2**20, 2**20, rngs=rngs)  # 4 TiB
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.last = nnx.Linear(2**20, 10, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.last(self.dropout(nnx.relu(self.first(x))))

    model = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
    graph = jp.nnx.trace(model, jax.ShapeDtypeStruct((1, 2**20), jnp.float32))
    assert {name: group.size for name, group in graph.groups.items()} == {"first/kernel": 2**20}
    small = jp.nnx.resize(model, graph, {"first/kernel": np.arange(2**20) < 7})
    assert (small.first.kernel.shape, small.last.in_features) == ((2**20, 7), 7)


def test_methods_and_several_inputs():
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first, self.last = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

        def score(self, batch: Any, shift: Any, scale: float = 1.0) -> Any:
            return self.last(nnx.relu(self.first(batch["x"] + shift))) * scale

    model = networks.model_of(Net)
    batch, shift = {"x": SEQUENCE}, np.float32(1)
    by_name = jp.nnx.trace(model, batch, shift, method="score", scale=2.0)
    by_function = jp.nnx.trace(
        model, batch, shift, method=lambda model, b, s: model.score(b, s, 2.0)
    )
    keep = random_keep(by_name)
    for graph in (by_name, by_function):
        small = jp.nnx.resize(model, graph, keep)
        expected = graph.fn(jp.mask(graph, jp.nnx.variables(model), keep), batch, shift)[0]
        assert_close(small.score(batch, shift, 2.0), expected)


def test_a_resized_model_is_an_ordinary_model():
    model = networks.model_of(networks.Residual)
    graph = jp.nnx.trace(model, IMAGES)
    small = jp.nnx.resize(model, graph, random_keep(graph))
    expected = small(IMAGES)
    assert_close(nnx.merge(*nnx.split(small))(IMAGES), expected, 0)
    assert_close(nnx.clone(small)(IMAGES), expected, 0)
    assert_close(pickle.loads(pickle.dumps(small))(IMAGES), expected, 0)
    grads = nnx.grad(lambda model: (model(IMAGES) ** 2).sum())(small)
    assert shapes(grads) == shapes(nnx.state(small, nnx.Param))
    again = jp.nnx.trace(small, IMAGES)
    widths = {name: group.size for name, group in again.groups.items()}
    assert widths == {"first/kernel": 3, "second/kernel": 3}
    assert jp.cost.macs(again) == jp.cost.macs(graph, random_keep(graph))
    smaller = jp.nnx.resize(small, again, {"first/kernel": np.array([True, False, False])})
    assert smaller.first.out_features == 1


def test_a_variable_may_hold_several_arrays():
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first, self.last = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
            self.affine = nnx.Param({"scale": jnp.ones((1, 1, 8)), "more": (jnp.ones((1, 1, 8)),)})

        def __call__(self, x: Any) -> Any:
            affine: Any = self.affine.get_value()
            return self.last(nnx.relu(self.first(x) * affine["scale"] * affine["more"][0]))

    model = networks.model_of(Net)
    graph = jp.nnx.trace(model, SEQUENCE)
    assert "affine/more/0" in {slot.path for slot in graph.groups["first/kernel"].slots}
    keep = random_keep(graph)
    small = jp.nnx.resize(model, graph, keep)
    expected, _ = graph.fn(jp.mask(graph, jp.nnx.variables(model), keep), SEQUENCE)
    assert_close(small(SEQUENCE), expected)


def test_transforms_inside_of_the_model_are_followed():
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first, self.other = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(3, 8, rngs=rngs)
            self.norm, self.last = nnx.BatchNorm(8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return nnx.jit(Net.run)(self, x)

        def run(self, x: Any) -> Any:
            x = nnx.cond(x.sum() > 0, lambda m, x: m.first(x), lambda m, x: m.other(x), self, x)
            return self.last(nnx.relu(self.norm(x)))

    model = networks.model_of(Net)
    graph = jp.nnx.trace(model, SEQUENCE)
    keep = random_keep(graph)
    small = jp.nnx.resize(model, graph, keep)
    expected, _ = graph.fn(jp.mask(graph, jp.nnx.variables(model), keep), SEQUENCE)
    assert_close(small(SEQUENCE), expected)


def test_metadata_of_variables_survives():
    model = networks.model_of(networks.Residual)
    model.first.kernel.set_metadata(out_sharding=(None, None, None, "model"), note="first")
    graph = jp.nnx.trace(model, IMAGES)
    small = jp.nnx.resize(model, graph, random_keep(graph))
    metadata = small.first.kernel.get_metadata()
    assert (metadata["out_sharding"], metadata["note"]) == ((None, None, None, "model"), "first")


def test_scores_gates_and_selection_take_the_function_and_the_variables():
    model = networks.model_of(networks.Residual)
    graph, variables = jp.nnx.trace(model, IMAGES), jp.nnx.variables(model)
    gates = {name: jnp.ones(group.size) for name, group in graph.groups.items()}
    outputs, _ = jp.gated(graph.fn, graph)(variables, gates, IMAGES)
    assert_close(outputs, model(IMAGES))
    keep = jp.select.budget(graph, jp.scores.l2(graph, variables), keep_macs=0.5)
    small = jp.nnx.resize(model, graph, keep)
    verified = jp.verify(graph, graph.fn, keep, variables, IMAGES, resized=jp.nnx.function(small))
    assert verified.resized == "exact"


class LinenTwin(nn.Module):
    """`networks.Residual` in Linen."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        norm = partial(nn.BatchNorm, use_running_average=True)
        x = nn.relu(norm(name="norm")(nn.Conv(6, (3, 3), name="stem")(x)))
        y = nn.relu(norm(name="inner_norm")(nn.Conv(5, (3, 3), use_bias=False, name="first")(x)))
        x = nn.relu(x + nn.Conv(6, (3, 3), name="second")(y))
        return nn.Dense(2, name="head")(x.mean((1, 2)))


def test_a_linen_twin_has_the_same_groups_and_macs():
    variables = jax.eval_shape(LinenTwin().init, jax.random.key(0), IMAGES)
    linen = jp.trace(LinenTwin().apply, variables, IMAGES)
    model = networks.model_of(networks.Residual)
    model.eval()
    graph = jp.nnx.trace(model, IMAGES)

    def groups(graph: jp.ChannelGraph) -> set[Any]:
        return {
            frozenset((*slot.path.split("/")[-2:], slot.axis, slot.role) for slot in group.slots)
            for group in graph.groups.values()
        }

    assert groups(graph) == groups(linen)
    assert jp.cost.macs(graph) == jp.cost.macs(linen)
    assert jp.cost.params(graph) == jp.cost.params(linen)
    assert jp.cost.weights(graph) == jp.cost.weights(linen)
