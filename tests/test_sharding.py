"""Slicing arrays on eight devices: shardings stay, on auto and explicit mesh axes."""

import logging
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType

import jaxprune as jp

RANDOM = np.random.default_rng(0)
SHAPES = {"a": (4, 8), "bias": (8,), "b": (8, 12), "c": (12, 4)}
TREE = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
X = np.ones((2, 4), np.float32)
KEEP = {
    "a": np.array([0, 1, 1, 0, 0, 1, 0, 1], bool),
    "b": np.array([1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1], bool),
}
SPECS = {
    "a": jax.P("data", "model"),
    "bias": jax.P("model"),
    "b": jax.P(("model",), "data"),
    "c": jax.P(("data",)),
}


def network(v: Any, x: Any) -> Any:
    h = jnp.tanh(x @ v["a"] + v["bias"][None])
    return jnp.tanh(h @ v["b"]) @ v["c"]


GRAPH = jp.trace(network, TREE, X)


def mesh_of(*types: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=types)


MESHES = {
    "auto": mesh_of(AxisType.Auto, AxisType.Auto),
    "explicit": mesh_of(AxisType.Explicit, AxisType.Explicit),
    "both": mesh_of(AxisType.Explicit, AxisType.Auto),
}


def put(mesh: str, tree: Any = TREE) -> Any:
    return {
        name: jax.device_put(leaf, jax.NamedSharding(MESHES[mesh], SPECS[name]))
        for name, leaf in tree.items()
    }


def shapes_of(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def small_tree() -> Any:
    a, b = KEEP.values()
    return {
        "a": TREE["a"][:, a],
        "bias": TREE["bias"][a],
        "b": TREE["b"][a][:, b],
        "c": TREE["c"][b],
    }


def same(actual: Any, expected: Any, like: Any) -> None:
    """The values of one tree, the shardings of another."""
    assert actual.keys() == expected.keys()
    for name, leaf in actual.items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)
        assert leaf.sharding.is_equivalent_to(like[name].sharding, leaf.ndim), name


class Compiled(logging.Handler):
    """Counts the programs that XLA compiles."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Finished XLA compilation"):
            self.names.append(record.getMessage())


@pytest.fixture
def compiled() -> Any:
    handler, logger = Compiled(), logging.getLogger("jax")
    logger.addHandler(handler)
    jax.config.update("jax_log_compiles", True)  # in every thread
    yield handler
    jax.config.update("jax_log_compiles", False)
    logger.removeHandler(handler)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("context", [False, True], ids=["bare", "in set_mesh"])
def test_slice_keeps_shardings(mesh: str, context: bool) -> None:
    full = put(mesh)
    if context:
        with jax.set_mesh(MESHES[mesh]):
            same(jp.slice(GRAPH, full, KEEP), small_tree(), full)
    else:
        same(jp.slice(GRAPH, full, KEEP), small_tree(), full)


@pytest.mark.parametrize("mesh", MESHES)
def test_mask_and_unslice_keep_shardings(mesh: str) -> None:
    full = put(mesh)
    masked = jp.mask(GRAPH, TREE, KEEP)
    small = jp.slice(GRAPH, full, KEEP)
    same(jp.mask(GRAPH, full, KEEP), masked, full)
    same(jp.unslice(GRAPH, small, KEEP), masked, full)
    same(jp.unslice(GRAPH, small, KEEP, into=full), TREE, full)
    same(jp.unslice(GRAPH, small, KEEP, into=TREE), TREE, full)


def test_slice_compiles_one_program_for_the_whole_tree(compiled: Compiled) -> None:
    full = put("auto")
    compiled.names.clear()
    for shift in range(2):  # the same widths need no other program
        keep = {"a": np.roll(np.arange(8) < 6, shift), "b": np.roll(np.arange(12) < 4, shift)}
        jp.slice(GRAPH, full, keep)
        assert len(compiled.names) == 1, compiled.names


def test_arrays_of_one_cpu_need_no_program(compiled: Compiled) -> None:
    full = jax.tree.map(jnp.asarray, TREE)
    compiled.names.clear()
    jp.slice(GRAPH, full, KEEP)
    assert compiled.names == []


def test_arrays_of_several_meshes_are_cut_on_their_own(compiled: Compiled) -> None:
    devices = np.array(jax.devices())
    meshes = [jax.sharding.Mesh(part, ("x",)) for part in (devices[:4], devices[4:])]
    shardings = [jax.NamedSharding(mesh, jax.P("x")) for mesh in meshes]
    full = {
        name: jax.device_put(leaf, shardings[name in "bc"] if leaf.ndim > 1 else jax.devices()[3])
        for name, leaf in TREE.items()
    }
    compiled.names.clear()
    same(jp.slice(GRAPH, full, KEEP), small_tree(), full)
    assert len(compiled.names) == len(meshes)


@pytest.mark.parametrize("mesh", MESHES)
def test_shapes_keep_their_shardings(mesh: str) -> None:
    full = put(mesh)
    shapes = shapes_of(full)
    small = jp.slice(GRAPH, shapes, KEEP)
    assert {name: leaf.shape for name, leaf in small.items()} == {
        name: leaf.shape for name, leaf in small_tree().items()
    }
    assert all(leaf.sharding == full[name].sharding for name, leaf in small.items())
    assert jp.mask(GRAPH, shapes, KEEP) == shapes
    assert jp.unslice(GRAPH, small, KEEP) == shapes


def test_random_keys_on_an_explicit_mesh() -> None:
    tree = {"keys": jax.random.split(jax.random.key(0), 8), "out": np.ones((8, 2), np.float32)}
    graph = jp.trace(
        lambda v, x: (x * jax.vmap(jax.random.uniform)(v["keys"])) @ v["out"], tree, 1.0
    )
    (name,) = graph.groups
    sharding = jax.NamedSharding(MESHES["explicit"], jax.P("model"))
    small = jp.slice(graph, jax.device_put(tree, sharding), {name: KEEP["a"]})
    assert small["keys"].sharding.is_equivalent_to(sharding, 1)
    data = [jax.random.key_data(keys) for keys in (small["keys"], tree["keys"])]
    np.testing.assert_array_equal(data[0], np.asarray(data[1])[KEEP["a"]])


@pytest.mark.parametrize("mesh", ["auto", "explicit"])
def test_slice_and_unslice_inside_jit_and_their_gradients(mesh: str) -> None:
    full = put(mesh)

    def loss(tree: Any) -> Any:
        small = jp.slice(GRAPH, tree, KEEP)
        back = jp.unslice(GRAPH, small, KEEP)
        return sum(jnp.sum(leaf**3) for leaf in [*small.values(), *back.values()])

    with jax.set_mesh(MESHES[mesh]):
        found = jax.jit(jax.grad(loss))(full)
    masked = jp.mask(GRAPH, TREE, KEEP)
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, 6 * masked[name] ** 2, rtol=1e-5)
        assert mesh == "auto" or leaf.sharding.is_equivalent_to(full[name].sharding, leaf.ndim)


UNEVEN = {"b": np.array([1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 0], bool)}
TEXT = (
    "'b' would have width 6 along axis 1, which does not fit the sharding: mesh axis 'data' has "
    "size 4\n"
    "'c' would have width 6 along axis 0, which does not fit the sharding: mesh axis 'data' has "
    "size 4\n"
    "Fix: select with multiple_of=4, or slice with shardings='fit', which divides such an axis "
    "less, or not at all."
)


@pytest.mark.parametrize("mesh", MESHES)
def test_a_width_that_the_mesh_does_not_divide(mesh: str) -> None:
    full = put(mesh)
    shapes = shapes_of(full)
    for tree in (full, shapes):
        with pytest.raises(jp.errors.TreeError) as caught:
            jp.slice(GRAPH, tree, UNEVEN)
        assert str(caught.value) == TEXT


def test_a_full_width_that_the_mesh_does_not_divide() -> None:
    graph = jp.trace(
        lambda v, x: (x * v["a"]) @ v["b"], {"a": np.ones(6), "b": np.ones((6, 2))}, 1.0
    )
    (name,) = graph.groups
    small = {"a": jax.device_put(np.ones(4), jax.NamedSharding(MESHES["auto"], jax.P("data")))}
    with pytest.raises(
        jp.errors.TreeError, match="'a' would have width 6 along axis 0, which does"
    ):
        jp.unslice(graph, small, {name: np.arange(6) < 4})


def test_what_the_error_advises_helps() -> None:
    full = put("explicit")
    scores = jp.scores.l2(GRAPH, TREE)
    keep = jp.select.global_ratio(GRAPH, scores, prune_ratio=0.4, multiple_of=4)
    small = jp.slice(GRAPH, full, keep)
    assert {leaf.shape for leaf in small.values()} != {leaf.shape for leaf in full.values()}
    np.testing.assert_array_equal(small["c"], TREE["c"][keep["b"]])


def sharded_network(v: Any, x: Any) -> Any:
    """On explicit axes a contraction over a split axis must say where its result goes."""
    h = jnp.tanh(jnp.einsum("nc,cd->nd", x, v["a"], out_sharding=jax.P(None, "model")))
    return jnp.einsum("nc,cd->nd", h, v["b"], out_sharding=jax.P(None, None))


def test_networks_on_an_explicit_mesh_are_traced_and_narrowed() -> None:
    mesh = MESHES["explicit"]
    full = {
        "a": jax.device_put(TREE["a"], jax.NamedSharding(mesh, jax.P(None, "model"))),
        "b": jax.device_put(TREE["b"], jax.NamedSharding(mesh, jax.P("model", None))),
    }
    with jax.set_mesh(mesh):
        graph = jp.trace(sharded_network, full, X)
        assert {name: group.inexact for name, group in graph.groups.items()} == {"a": None}
        keep = {"a": KEEP["a"]}
        small = jp.slice(graph, full, keep)
        narrowed = jax.jit(jp.narrow(sharded_network, graph, keep))(small, X)
        masked = jax.jit(sharded_network)(jp.mask(graph, full, keep), X)
    np.testing.assert_allclose(narrowed, masked, rtol=1e-5)


class Sharded(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(8, use_bias=False)(x))
        return nn.Dense(2)(jax.sharding.reshard(x, jax.P(None, None)))


def test_modules_on_an_explicit_mesh_are_resized() -> None:
    mesh, module = MESHES["explicit"], Sharded()
    with jax.set_mesh(mesh):
        params = module.init(jax.random.key(0), X)["params"]
        split = jax.NamedSharding(mesh, jax.P(None, "model"))
        params["Dense_0"] = jax.device_put(params["Dense_0"], split)
        full = {"params": params}
        graph = jp.trace(module.apply, full, X)
        keep = {"Dense_0/kernel": KEEP["a"]}
        small = jp.slice(graph, full, keep)
        found = jp.linen.resize(module, graph, keep).apply(small, X)
        masked = module.apply(jp.mask(graph, full, keep), X)
    assert small["params"]["Dense_0"]["kernel"].sharding == split
    np.testing.assert_allclose(found, masked, rtol=1e-5)


def drops(h: Any) -> Any:
    return jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, h.shape), h, 0.0)


@jax.custom_vjp
def sign(h: Any) -> Any:
    return jnp.sign(h)


sign.defvjp(lambda h: (sign(h), h), lambda h, g: (jnp.where(jnp.abs(h) < 1, g, 0.0),))
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "silu in remat": jax.checkpoint(jax.nn.silu),
    "dropout": drops,
    "gamma": lambda h: jax.random.gamma(jax.random.key(0), 1 + jnp.abs(h)),
    "a custom derivative": sign,
    "a scan": lambda h: jax.lax.scan(lambda h, _: (jnp.sin(h), None), h, length=2)[0],
}


@pytest.mark.parametrize("spec", [jax.P(None, None), jax.P(None, "model")], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_narrow_on_explicit_axes(name: str, spec: jax.P) -> None:
    mesh = MESHES["explicit"]
    specs = {"a": spec, "c": jax.P(spec[1], None)}

    def fn(v: Any, x: Any) -> Any:
        h = ACTIVATIONS[name](x @ v["a"])
        return jnp.einsum("bi,io->bo", h, v["c"], out_sharding=jax.P("data", None))

    def put(tree: Any) -> Any:
        return {k: jax.device_put(x, jax.NamedSharding(mesh, specs[k])) for k, x in tree.items()}

    def loss(run: Any) -> Any:
        return jax.value_and_grad(lambda v: (run(v, x) ** 2).sum())

    v = {"a": TREE["a"], "c": TREE["b"][:, :4]}
    with jax.set_mesh(mesh):
        v, x = put(v), jax.device_put(np.ones((8, 4)), jax.NamedSharding(mesh, jax.P("data", None)))
        graph, keep = jp.trace(fn, v, x), {"a": KEEP["a"]}
        small, narrowed = jp.slice(graph, v, keep), jp.narrow(fn, graph, keep)
        wanted, gradient = jax.jit(loss(fn))(put(jp.mask(graph, v, keep)))
        for found, own in (jax.jit(loss(narrowed))(small), loss(narrowed)(small)):
            np.testing.assert_allclose(found, wanted, rtol=1e-5)
            close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
            jax.tree.map(close, own, jp.slice(graph, gradient, keep))
