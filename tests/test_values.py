"""Variables of every kind in trace, mask, slice and unslice: types, keys, boxes, shapes, places."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp

RANDOM = np.random.default_rng(0)
TREE = {
    "a": RANDOM.normal(size=(3, 8)).astype(np.float32),
    "b": RANDOM.normal(size=(8, 2)).astype(np.float32),
    "none": None,
    "empty": {"inside": {}},
    "list": [],
}
X = RANDOM.normal(size=(4, 3)).astype(np.float32)
KEPT = np.array([0, 1, 1, 0, 0, 1, 0, 1], bool)
KEEP = {"a": KEPT}


def network(v: Any, x: Any) -> Any:
    return jnp.maximum(x.astype(v["a"].dtype) @ v["a"], 0) @ v["b"]


GRAPH = jp.trace(network, TREE, X)


def bits(leaf: Any) -> np.ndarray:
    """The bytes of an array of any type, also of random keys."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.frombuffer(np.ascontiguousarray(leaf).tobytes(), np.uint8)


def same(actual: Any, expected: Any) -> None:
    """Bit for bit, type for type, in the same tree."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(bits(a), bits(b))


def cut(tree: Any) -> Any:
    return {**tree, "a": tree["a"][:, KEPT], "b": tree["b"][KEPT]}


def zeroed(tree: Any) -> Any:
    a, b = np.array(tree["a"]), np.array(tree["b"])
    a[:, ~KEPT], b[~KEPT] = 0, 0
    return {**tree, "a": a, "b": b}


TYPES = ("bfloat16", "float16", "float64", "float8_e4m3fn", "complex64", "int4", "uint8", "int32")
PLACES: dict[str, Callable[[Any], Any]] = {
    "host": np.asarray,
    "device": jnp.asarray,
    "second device": lambda x: jax.device_put(x, jax.devices()[1]),
}


EACH = [
    (dtype, place)
    for dtype in TYPES
    for place in PLACES
    if dtype != "float64" or place == "host"  # JAX has none by default
]


@pytest.mark.parametrize(("dtype", "place"), EACH)
def test_types_stay(dtype: str, place: str) -> None:
    given = jax.tree.map(lambda x: PLACES[place]((4 * x).astype(jnp.dtype(dtype))), TREE)
    small = jp.slice(GRAPH, given, KEEP)
    same(small, cut(given))
    same(jp.mask(GRAPH, given, KEEP), zeroed(given))
    same(jp.unslice(GRAPH, small, KEEP), zeroed(given))
    same(jp.unslice(GRAPH, small, KEEP, into=given), given)
    for leaf, before in zip(jax.tree.leaves(small), jax.tree.leaves(given), strict=True):
        assert type(leaf) is type(before)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "int32"])
def test_trace_knows_the_type_of_every_variable(dtype: str) -> None:
    given = jax.tree.map(lambda x: (4 * x).astype(jnp.dtype(dtype)), TREE)
    graph = jp.trace(network, given, X)
    assert {v.dtype for v in graph.variables.values()} == {jnp.dtype(dtype)}
    assert {name: group.size for name, group in graph.groups.items()} == {"a": 8}


@pytest.mark.parametrize("committed", [False, True])
def test_uncommitted_arrays_stay_uncommitted(committed: bool) -> None:
    given = jax.device_put(TREE, jax.devices()[0] if committed else None)
    small = jp.slice(GRAPH, given, KEEP)
    for tree in (small, jp.unslice(GRAPH, small, KEEP), jp.mask(GRAPH, given, KEEP)):
        assert all(leaf.committed == committed for leaf in jax.tree.leaves(tree))


def test_uncommitted_arrays_stay_on_their_device() -> None:
    with jax.default_device(jax.devices()[1]):
        given = jax.device_put(TREE)
    for leaf in jax.tree.leaves(jp.slice(GRAPH, given, KEEP)):
        assert (leaf.devices(), leaf.committed) == ({jax.devices()[1]}, False)


def test_a_kind_for_every_leaf() -> None:
    given = {**TREE, "a": jnp.asarray(TREE["a"], jnp.bfloat16)}
    small = jp.slice(GRAPH, given, KEEP)
    assert isinstance(small["a"], jax.Array)
    assert isinstance(small["b"], np.ndarray)
    mixed = jp.unslice(GRAPH, small, KEEP, into=TREE)
    assert mixed["a"].dtype == jnp.float32, "as the tree that it goes into"
    assert isinstance(mixed["b"], np.ndarray)


def test_read_only_and_fortran_arrays() -> None:
    given = {**TREE, "a": np.asfortranarray(TREE["a"]), "b": TREE["b"].copy()}
    given["b"].flags.writeable = False
    small = jp.slice(GRAPH, given, KEEP)
    same(small, cut(TREE))
    same(jp.unslice(GRAPH, small, KEEP, into=given), TREE)


def test_nan_in_pruned_entries_does_not_survive() -> None:
    given = {**TREE, "a": np.where(KEPT, TREE["a"], np.nan).astype(np.float32)}
    same(jp.mask(GRAPH, given, KEEP), zeroed(TREE))
    same(jp.unslice(GRAPH, jp.slice(GRAPH, given, KEEP), KEEP), zeroed(TREE))


def test_shapes_take_the_place_of_arrays_everywhere() -> None:
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, TREE))
    assert str(jp.trace(network, shapes, X)) == str(GRAPH)
    small = jp.slice(GRAPH, shapes, KEEP)
    assert small == jax.eval_shape(lambda: jax.tree.map(jnp.asarray, cut(TREE)))
    assert jp.mask(GRAPH, shapes, KEEP) == shapes
    assert jp.unslice(GRAPH, small, KEEP) == shapes
    assert jp.unslice(GRAPH, small, KEEP, into=shapes) == shapes


KEYS = {
    "w": np.ones(8, np.float32),
    "out": np.ones((8, 2), np.float32),
    "key": jax.random.key(0),
    "keys": jax.random.split(jax.random.key(1), 8),
}


def noisy(v: Any, x: Any) -> Any:
    noise = jax.vmap(jax.random.uniform)(v["keys"])
    return (x * v["w"] * noise + jax.random.bernoulli(v["key"])) @ v["out"]


def test_random_keys() -> None:
    graph = jp.trace(noisy, KEYS, np.float32(1))
    (name,) = graph.groups
    keep = {name: KEPT}
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, KEYS))
    assert jp.trace(noisy, shapes, np.float32(1)).groups.keys() == {name}
    data = np.array(jax.random.key_data(KEYS["keys"]))
    small = jp.slice(graph, KEYS, keep)
    np.testing.assert_array_equal(jax.random.key_data(small["keys"]), data[KEPT])
    np.testing.assert_array_equal(*map(jax.random.key_data, (small["key"], KEYS["key"])))
    data[~KEPT] = 0
    for found in (jp.mask(graph, KEYS, keep), jp.unslice(graph, small, keep)):
        assert found["keys"].dtype == KEYS["keys"].dtype
        np.testing.assert_array_equal(jax.random.key_data(found["keys"]), data)
    same(jp.unslice(graph, small, keep, into=KEYS)["keys"], KEYS["keys"])
    assert jp.slice(graph, shapes, keep)["keys"] == jax.ShapeDtypeStruct((4,), KEYS["keys"].dtype)


BOXES: dict[str, Callable[..., Any]] = {
    "partitioned": lambda init: nn.with_partitioning(init, (None, "model")),
    "logical": lambda init: nn.with_logical_partitioning(init, ("embed", "mlp")),
}


class Boxed(nn.Module):
    box: Callable[..., Any]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = self.box(nn.initializers.lecun_normal())
        x = nn.relu(nn.Dense(8, kernel_init=init)(x))
        return nn.Dense(2, kernel_init=init)(x)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("shapes", [False, True], ids=["arrays", "shapes"])
def test_boxes_keep_their_metadata(box: str, shapes: bool) -> None:
    module = Boxed(BOXES[box])
    variables = (jax.eval_shape if shapes else lambda f, *a: f(*a))(
        module.init, jax.random.key(0), X
    )
    graph = jp.trace(module.apply, variables, X)
    (name,) = graph.groups
    small = jp.slice(graph, variables, {name: KEPT})
    masked = jp.mask(graph, variables, {name: KEPT})
    back = jp.unslice(graph, small, {name: KEPT})
    for tree in (small, masked, back):
        kernel = tree["params"]["Dense_0"]["kernel"]
        assert isinstance(kernel, nn.Partitioned)
        assert jax.tree.structure(tree) == jax.tree.structure(variables), "names and meshes too"
    assert nn.get_partition_spec(small) == nn.get_partition_spec(variables)
    assert small["params"]["Dense_0"]["kernel"].value.shape == (3, 4)
    if not shapes:
        same(back, masked)
        narrowed = jp.narrow(module.apply, graph, {name: KEPT})
        np.testing.assert_allclose(narrowed(small, X), module.apply(masked, X), rtol=1e-5)
        resized = jp.linen.resize(module, graph, {name: KEPT})
        np.testing.assert_allclose(resized.apply(small, X), module.apply(masked, X), rtol=1e-5)
        again = resized.init(jax.random.key(0), X)
        assert jax.tree.structure(again) == jax.tree.structure(variables)


def test_frozen_dicts_stay_frozen() -> None:
    frozen = flax.core.freeze(TREE)
    graph = jp.trace(network, frozen, X)
    small = jp.slice(graph, frozen, KEEP)
    for tree in (small, jp.mask(graph, frozen, KEEP), jp.unslice(graph, small, KEEP)):
        assert isinstance(tree, flax.core.FrozenDict)
        assert tree["none"] is None
    same(flax.core.unfreeze(small), cut(TREE))


def test_a_traced_keep_cannot_decide_shapes() -> None:
    for act in (jp.slice, jp.unslice):
        with pytest.raises(jp.errors.KeepError) as caught:
            jax.eval_shape(lambda kept, act=act: act(GRAPH, TREE, {"a": kept}), KEPT)
        assert str(caught.value) == (
            "keep for group 'a' is traced, but it decides shapes. Fix: slice outside of "
            "jax.jit, or jp.mask, whose masks may be traced."
        )
