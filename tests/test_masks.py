"""Mask, slice, unslice and spec, on values of every kind and place."""

import json
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.arguments.paths import flatten

RANDOM = np.random.default_rng(0)
TREE = {
    "params": {
        "conv": {"kernel": RANDOM.normal(size=(3, 5, 8)), "bias": RANDOM.normal(size=8)},
        "heads": {"kernel": RANDOM.normal(size=(8, 2, 4)), "bias": RANDOM.normal(size=(2, 4))},
        "out": {"kernel": RANDOM.normal(size=(16, 3))},
    },
    "batch_stats": {"norm": {"mean": RANDOM.normal(size=8), "count": RANDOM.normal(size=8)}},
}
TREE = jax.tree.map(np.float32, TREE)
X = RANDOM.normal(size=(2, 6, 5)).astype(np.float32)


def network(v: Any, x: Any) -> Any:
    """A convolution, heads beside the channels, and a concatenation of both."""
    p, norm = v["params"], v["batch_stats"]["norm"]
    h = jax.lax.conv_general_dilated(
        x,
        p["conv"]["kernel"].astype(x.dtype),
        (1,),
        "SAME",
        dimension_numbers=("NHC", "HIO", "NHC"),
    )
    h = h.sum(1) + p["conv"]["bias"][None] - norm["mean"][None] * norm["count"][None]
    heads = jnp.tanh(jnp.einsum("nc,chd->nhd", h, p["heads"]["kernel"]) + p["heads"]["bias"][None])
    return jnp.concatenate([h, heads.reshape(len(x), -1)], -1) @ p["out"]["kernel"]


GRAPH = jp.trace(network, TREE, X)
KEEP = {
    "conv/kernel": np.array([0, 1, 1, 0, 1, 0, 1, 1], bool),
    "heads/kernel[1]": np.array([0, 1], bool),
    "heads/kernel[2]": np.array([1, 0, 0, 1], bool),
}
OUT = np.concatenate([KEEP["conv/kernel"], [0, 0, 0, 0, 1, 0, 0, 1]]).astype(bool)


def by_hand(tree: Any) -> Any:
    """The sliced tree, written out."""
    c, h, d = KEEP.values()
    p, norm = tree["params"], tree["batch_stats"]["norm"]
    return {
        "params": {
            "conv": {"kernel": p["conv"]["kernel"][:, :, c], "bias": p["conv"]["bias"][c]},
            "heads": {
                "kernel": p["heads"]["kernel"][c][:, h][:, :, d],
                "bias": p["heads"]["bias"][h][:, d],
            },
            "out": {"kernel": p["out"]["kernel"][OUT]},
        },
        "batch_stats": {"norm": {"mean": norm["mean"][c], "count": norm["count"][c]}},
    }


def same(actual: Any, expected: Any) -> None:
    """Bit for bit, type for type, in the same tree."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(flatten(actual)[0].items(), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype, path
        np.testing.assert_array_equal(a, b, err_msg=path)


def test_the_groups_are_those_that_the_tests_below_cut() -> None:
    assert {name: group.size for name, group in GRAPH.groups.items()} == {
        name: len(kept) for name, kept in KEEP.items()
    }


def test_slice_is_what_one_would_write_by_hand() -> None:
    same(jp.slice(GRAPH, TREE, KEEP), by_hand(TREE))


def test_mask_zeroes_what_slice_removes() -> None:
    masked = jp.mask(GRAPH, TREE, KEEP)
    same(jp.slice(GRAPH, masked, KEEP), jax.tree.map(jnp.asarray, by_hand(TREE)))
    ones = jp.mask(GRAPH, jax.tree.map(np.ones_like, TREE), KEEP)
    for path, leaf in flatten(ones)[0].items():
        assert leaf.sum() == flatten(by_hand(TREE))[0][path].size, path


def test_unslice_is_the_inverse_of_slice() -> None:
    small = jp.slice(GRAPH, TREE, KEEP)
    same(jp.unslice(GRAPH, small, KEEP), jax.tree.map(np.asarray, jp.mask(GRAPH, TREE, KEEP)))
    same(jp.unslice(GRAPH, small, KEEP, into=TREE), TREE)
    other = jax.tree.map(lambda leaf: leaf + 1, TREE)
    mixed = jp.unslice(GRAPH, small, KEEP, into=other)
    same(jp.slice(GRAPH, mixed, KEEP), small)
    hole = ~KEEP["conv/kernel"]
    np.testing.assert_array_equal(
        mixed["params"]["conv"]["bias"][hole], TREE["params"]["conv"]["bias"][hole] + 1
    )


def test_nothing_is_changed_in_place() -> None:
    before = jax.tree.map(np.copy, TREE)
    small = jp.slice(GRAPH, TREE, KEEP)
    jp.mask(GRAPH, TREE, KEEP)
    into = jax.tree.map(np.copy, TREE)
    jp.unslice(GRAPH, jax.tree.map(lambda leaf: leaf + 1, small), KEEP, into=into)
    same(into, before)
    same(TREE, before)


def test_keeping_all_returns_the_leaves_themselves() -> None:
    whole = {name: np.ones_like(kept) for name, kept in KEEP.items()}
    for keep in ({}, whole):
        for a, b in zip(*map(jax.tree.leaves, (jp.slice(GRAPH, TREE, keep), TREE)), strict=True):
            assert a is b


def test_device_arrays_become_device_arrays() -> None:
    small = jp.slice(GRAPH, jax.tree.map(jnp.asarray, TREE), KEEP)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(small))
    same(small, by_hand(TREE))
    same(jp.unslice(GRAPH, small, KEEP), jp.mask(GRAPH, TREE, KEEP))


def test_shapes_become_shapes() -> None:
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, TREE))
    small = jp.slice(GRAPH, shapes, KEEP)
    assert small == jax.eval_shape(lambda: jax.tree.map(jnp.asarray, by_hand(TREE)))


def sharded(tree: Any) -> Any:
    """On 4 x 2 devices: output channels over 2, all else whole, every leaf on all devices."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def put(path: Any, leaf: Any) -> Any:
        spec = [None] * leaf.ndim
        if "heads" in jax.tree_util.keystr(path):
            spec[-1] = "model"
        return jax.device_put(leaf, jax.NamedSharding(mesh, jax.P(*spec)))

    return jax.tree_util.tree_map_with_path(put, tree)


def test_shardings_are_kept() -> None:
    full = sharded(TREE)
    small = jp.slice(GRAPH, full, KEEP)
    same(small, by_hand(TREE))
    for a, b in zip(*map(jax.tree.leaves, (small, full)), strict=True):
        assert a.sharding == b.sharding
    same(jp.mask(GRAPH, full, KEEP), jp.mask(GRAPH, TREE, KEEP))


def test_a_width_that_the_mesh_does_not_divide_is_an_error() -> None:
    keep = {"heads/kernel[2]": np.array([1, 0, 1, 1], bool)}
    with pytest.raises(jp.errors.TreeError, match=r"(?s)does not fit the sharding.*multiple_of="):
        jp.slice(GRAPH, sharded(TREE), keep)


def test_gradients_pass_through_slice_and_unslice() -> None:
    def loss(tree: Any) -> Any:
        small = jp.slice(GRAPH, tree, KEEP)
        return sum(jnp.sum(leaf**3) for leaf in jax.tree.leaves(small))

    found = jax.jit(jax.grad(loss))(TREE)
    expected = jax.tree.map(lambda leaf: 3 * leaf**2, TREE)
    masked = jp.mask(GRAPH, expected, KEEP)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, masked)

    def total(small: Any) -> Any:
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(jp.unslice(GRAPH, small, KEEP)))

    back = jax.jit(jax.grad(total))(by_hand(TREE))
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(back))


def test_one_program_masks_at_every_width() -> None:
    runs = []

    @jax.jit
    def masked(tree: Any, keep: Any) -> Any:
        runs.append(1)
        return jp.mask(GRAPH, tree, keep)

    for shift in range(3):
        keep = {name: np.roll(kept, shift) for name, kept in KEEP.items()}
        same(masked(TREE, keep), jp.mask(GRAPH, TREE, keep))
    assert len(runs) == 1


def test_parts_of_the_tree_are_cut_alike() -> None:
    params = {"params": TREE["params"]}
    same(jp.slice(GRAPH, params, KEEP), {"params": by_hand(TREE)["params"]})
    same(jp.mask(GRAPH, params, KEEP), {"params": jp.mask(GRAPH, TREE, KEEP)["params"]})
    one = {"params": {"conv": {"bias": TREE["params"]["conv"]["bias"]}}}
    small = jp.slice(GRAPH, one, KEEP)
    assert jax.tree.map(np.shape, small) == {"params": {"conv": {"bias": (5,)}}}
    same(jp.unslice(GRAPH, small, KEEP, into=one), one)


def test_gradients_are_cut_like_variables() -> None:
    gradient = jax.tree.map(lambda leaf: np.cos(leaf), TREE["params"])
    small = jp.slice(GRAPH, {"params": gradient}, KEEP)["params"]
    np.testing.assert_array_equal(small["out"]["kernel"], gradient["out"]["kernel"][OUT])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int8, jnp.int32, jnp.bool_])
@pytest.mark.parametrize("place", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_every_type_stays(dtype: Any, place: Any) -> None:
    given = jax.tree.map(lambda leaf: place((leaf * 4).astype(dtype)), TREE)
    small = jp.slice(GRAPH, given, KEEP)
    same(small, by_hand(given))
    same(jp.mask(GRAPH, given, KEEP), jp.unslice(GRAPH, small, KEEP))


def test_random_keys_none_and_empty_trees_pass() -> None:
    tree = {"w": TREE["params"]["conv"]["bias"], "u": np.ones((8, 2), np.float32), "none": None}
    tree |= {"empty": {}, "key": jax.random.key(0), "keys": jax.random.split(jax.random.key(1), 8)}

    def fn(v: Any, x: Any) -> Any:
        noise = jax.vmap(lambda key: jax.random.uniform(key))(v["keys"])
        return (x * v["w"] * noise + jax.random.bernoulli(v["key"])) @ v["u"]

    graph = jp.trace(fn, tree, np.float32(1))
    assert [group.size for group in graph.groups.values()] == [8]
    (name,) = graph.groups
    keep = {name: KEEP["conv/kernel"]}
    small = jp.slice(graph, tree, keep)
    assert small["none"] is None
    assert small["empty"] == {}
    kept = np.flatnonzero(keep[name])
    np.testing.assert_array_equal(
        jax.random.key_data(small["keys"]), jax.random.key_data(tree["keys"])[kept]
    )
    np.testing.assert_array_equal(
        jax.random.key_data(small["key"]), jax.random.key_data(tree["key"])
    )
    np.testing.assert_allclose(
        jp.narrow(fn, graph, keep)(small, np.float32(1)),
        fn({**tree, "u": np.where(keep[name][:, None], tree["u"], 0)}, np.float32(1)),
        rtol=1e-5,
    )


def test_frozen_dicts_stay_frozen_dicts() -> None:
    small = jp.slice(GRAPH, flax.core.freeze(TREE), KEEP)
    assert isinstance(small, flax.core.FrozenDict)
    same(flax.core.unfreeze(small), by_hand(TREE))


def test_spec_is_json_and_comes_back() -> None:
    spec = jp.spec(GRAPH, {"heads/kernel[2]": KEEP["heads/kernel[2]"]})
    assert spec["groups"]["heads/kernel[2]"] == {"size": 4, "kept": [0, 3]}
    assert spec["groups"]["heads/kernel[1]"] == {"size": 2, "kept": [0, 1]}
    assert spec["versions"] == {
        "jax": jax.__version__,
        "flax": flax.__version__,
        "jaxprune": jp.__version__,
    }
    found = jp.keep_from_spec(json.loads(json.dumps(jp.spec(GRAPH, KEEP))))
    assert found.keys() == KEEP.keys()
    for name, kept in KEEP.items():
        np.testing.assert_array_equal(found[name], kept, strict=True)


def test_widths_of_masks_counts_and_nothing() -> None:
    full = {"conv/kernel": 8, "heads/kernel[1]": 2, "heads/kernel[2]": 4}
    assert jp.widths(GRAPH) == full
    assert jp.widths(GRAPH, {"heads/kernel[2]": 3}) == {**full, "heads/kernel[2]": 3}
    assert list(jp.widths(GRAPH, KEEP).values()) == [5, 1, 2]


BAD_KEEPS = {
    "length": (
        {"conv/kernel": np.ones(7, bool)},
        "keep for group 'conv/kernel' has shape (7,), the group has 8 channels. Fix: recompute the "
        "scores on the variables that this graph was traced from.",
    ),
    "type": (
        {"conv/kernel": np.ones(8, np.float32)},
        "keep for group 'conv/kernel' is float32[8], not bool: a keep is {group: bool[n]}, a bool "
        "for each channel that says whether it stays. Fix: select with jp.select, or compare the "
        "scores with a threshold.",
    ),
    "empty": (
        {"heads/kernel[1]": np.zeros(2, bool)},
        "keep for group 'heads/kernel[1]' keeps none of 2 channels. Fix: keep at least one "
        "(min_channels=1 in jp.select).",
    ),
    "unknown": (
        {"conv/bias": np.ones(8, bool)},
        "keep names group 'conv/bias', which the graph does not have; near: ['conv/kernel']. "
        "Fix: list the groups with print(graph).",
    ),
}


@pytest.mark.parametrize("name", BAD_KEEPS)
def test_bad_keeps(name: str) -> None:
    keep, text = BAD_KEEPS[name]
    for act in (jp.slice, jp.mask, jp.unslice):
        with pytest.raises(jp.errors.KeepError) as caught:
            act(GRAPH, TREE, keep)
        assert str(caught.value) == text
    with pytest.raises(jp.errors.KeepError):
        jp.spec(GRAPH, keep)


def test_all_failures_of_a_keep_are_reported_at_once() -> None:
    keep = {name: value for bad, _ in BAD_KEEPS.values() for name, value in bad.items()}
    with pytest.raises(jp.errors.KeepError) as caught:
        jp.slice(GRAPH, TREE, keep)
    assert len(str(caught.value).splitlines()) == len(keep)


def test_trees_that_do_not_mirror_the_variables() -> None:
    bias = TREE["params"]["conv"]["bias"]
    bad = {"params": {"conv": {"bias": bias[:4], "gain": bias}}, "conv": {"bias": bias}}
    for act in (jp.slice, jp.mask):
        with pytest.raises(jp.errors.TreeError) as caught:
            act(GRAPH, bad, KEEP)
        assert str(caught.value) == (
            "the tree does not mirror the variables of the graph:\n"
            "'conv/bias' is not a variable of the graph\n"
            "'params/conv/bias' has shape (4,), the graph has (8,)\n"
            "'params/conv/gain' is not a variable of the graph\n"
            "Fix: pass the variables that were traced, whole ({'params': ...}, not the params "
            "alone), or trace again."
        )
    with pytest.raises(jp.errors.TreeError, match=r"has shape \(8,\), the graph has \(5,\)"):
        jp.unslice(GRAPH, TREE, KEEP)
    small = jp.slice(GRAPH, TREE, KEEP)
    with pytest.raises(jp.errors.TreeError, match=r"has shape \(5,\), the graph has \(8,\)"):
        jp.unslice(GRAPH, small, KEEP, into=small)
