"""Scores: values computed by hand, under jit as on the host, and errors."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from chains import chain
from jaxprune import scores
from jaxprune.errors import ScoreError, TreeError

A, B = "layer_0/kernel", "layer_1/kernel"


class Residual(nn.Module):
    """A stem, a block that adds to it and a head that flattens; two BatchNorms share a group."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits of images [n, 2, 2, 3]."""

        def norm(x: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=True)(x)

        x = nn.relu(norm(nn.Conv(4, (1, 1))(x)))
        y = nn.relu(norm(nn.Conv(6, (3, 3))(x)))
        x = x + norm(nn.Conv(4, (1, 1))(y))
        x = nn.relu(nn.Dense(5)(x.reshape(len(x), -1)))
        return nn.Dense(2)(x)


STEM, MIDDLE, HEAD = "Conv_0/kernel", "Conv_1/kernel", "Dense_0/kernel"


@pytest.fixture(scope="module")
def residual() -> tuple[jp.ChannelGraph, Any]:
    """Returns the graph of `Residual` and random variables."""
    module, image = Residual(), jax.ShapeDtypeStruct((1, 2, 2, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: random.normal(size=s.shape).astype(s.dtype), shapes)
    return jp.trace(module.apply, variables, image), variables


def close(got, expected):
    assert list(got) == list(expected)
    for name, values in expected.items():
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], values, rtol=1e-5, err_msg=name)


def test_bn_scale_is_the_size_of_gamma_summed_over_coupled_layers(residual):
    channels, variables = residual
    gamma = [np.abs(variables["params"][f"BatchNorm_{i}"]["scale"]) for i in range(3)]
    # Dense_0 has no BatchNorm, so it has no score.
    close(scores.bn_scale(channels, variables), {STEM: gamma[0] + gamma[2], MIDDLE: gamma[1]})
    close(
        scores.bn_scale(channels, variables, reduce=jnp.max),
        {STEM: np.maximum(gamma[0], gamma[2]), MIDDLE: gamma[1]},
    )


def test_norms_of_the_filters(residual):
    channels, variables = residual
    params = variables["params"]
    filters = [params[f"Conv_{i}"]["kernel"].reshape(-1, n) for i, n in enumerate((4, 6, 4))]
    dense = params["Dense_0"]["kernel"]
    one = [np.abs(f).sum(0) for f in filters]
    two = [np.linalg.norm(f, axis=0) for f in filters]
    close(
        scores.l1(channels, variables),
        {STEM: one[0] + one[2], MIDDLE: one[1], HEAD: np.abs(dense).sum(0)},
    )
    close(
        scores.l2(channels, variables, reduce=jnp.mean),
        {STEM: (two[0] + two[2]) / 2, MIDDLE: two[1], HEAD: np.linalg.norm(dense, axis=0)},
    )


def test_norms_of_the_readers_gather_every_position_of_a_flattened_channel(residual):
    channels, variables = residual
    middle = np.abs(variables["params"]["Conv_1"]["kernel"]).sum((0, 1, 3))
    # Channel c of the stem is at rows c, 4 + c, 8 + c and 12 + c of the flattened input.
    head = np.abs(variables["params"]["Dense_0"]["kernel"]).reshape(4, 4, 5).sum((0, 2))
    got = scores.l1(channels, variables, roles=["in"])
    np.testing.assert_allclose(got[STEM], middle + head, rtol=1e-5)


def test_roles_add_up():
    channels, variables = chain(4, 5)
    out, inside, vector, everything = (
        scores.l1(channels, variables, roles=roles)
        for roles in (["out"], ["in"], ["vector"], ["out", "in", "vector"])
    )
    close(everything, {name: out[name] + inside[name] + vector[name] for name in (A, B)})


@pytest.mark.parametrize(
    "score",
    [
        lambda graph, v: scores.l1(graph, v, roles=("out", "in", "vector")),
        lambda graph, v: scores.l2(graph, v, roles=("out", "in", "vector")),
        scores.bn_scale,
        scores.channel_energy,
    ],
    ids=["l1", "l2", "bn_scale", "channel_energy"],
)
def test_scores_of_parts_of_the_variables_add_up(score: Any, residual: Any) -> None:
    """Each leaf stands in one part; zeros that take no memory stand for the others."""
    channels, variables = residual
    leaves, treedef = jax.tree.flatten(variables)

    def scored(part: int) -> Any:
        zeros = [np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for leaf in leaves]
        own = [
            leaf if number % 3 == part else zero
            for number, (leaf, zero) in enumerate(zip(leaves, zeros, strict=True))
        ]
        return score(channels, jax.tree.unflatten(treedef, own))

    parts = [scored(part) for part in range(3)]
    whole = score(channels, variables)
    close({name: sum(part[name] for part in parts) for name in whole}, whole)


def test_jit_gives_what_the_host_gives(residual):
    channels, variables = residual

    @jax.jit
    def compiled(variables, key):
        return (
            scores.bn_scale(channels, variables),
            scores.l1(channels, variables, roles=["out", "in"]),
            scores.l2(channels, variables, reduce=jnp.max),
            scores.random(channels, key),
        )

    key = jax.random.key(3)
    expected = (
        scores.bn_scale(channels, variables),
        scores.l1(channels, variables, roles=["out", "in"]),
        scores.l2(channels, jax.tree.map(jnp.asarray, variables), reduce=jnp.max),
        scores.random(channels, key),
    )
    for got, host in zip(compiled(variables, key), expected, strict=True):
        close(got, host)


def test_half_precision_is_summed_in_full():
    channels, variables = chain(4)
    halves = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, jnp.bfloat16), variables)
    halves["params"]["layer_1"]["kernel"] *= 1.0078125  # 1 + 2**-7
    close(scores.l1(channels, halves, roles=["in"]), {A: np.full(4, 3.0234375)})


def test_random_covers_every_group_and_follows_the_key():
    channels, _ = chain(4, 5)
    one, same, other = (scores.random(channels, jax.random.key(i)) for i in (0, 0, 1))
    assert {name: score.shape for name, score in one.items()} == {A: (4,), B: (5,)}
    assert all((one[name] == same[name]).all() for name in one)
    assert not any((one[name] == other[name]).any() for name in one)
    assert np.unique(np.concatenate(list(one.values()))).size == 9


def test_variables_that_do_not_mirror_the_graph():
    channels, variables = chain(4, 5)
    params = dict(variables["params"])
    params["layer_0"] = {"bias": params["layer_0"]["bias"]}
    params["layer_1"] = params["layer_1"] | {"kernel": np.ones((4, 7), np.float32)}
    with pytest.raises(TreeError) as caught:
        scores.l1(channels, {"params": params})
    assert str(caught.value) == (
        "variables do not mirror the graph.\n"
        "params/layer_0/kernel: the graph has shape (2, 4), the variables have no such leaf\n"
        "params/layer_1/kernel: the graph has shape (4, 5), the variables have (4, 7)\n"
        "Fix: pass the variables that the graph was traced from, or trace it again."
    )


@pytest.mark.parametrize("roles", [["filter"], "out", []])
def test_unknown_roles(roles):
    channels, variables = chain(4)
    with pytest.raises(ScoreError, match=r"words among \('out', 'in', 'vector'\), got .*\nFix: "):
        scores.l2(channels, variables, roles=roles)


def test_the_energy_of_a_channel_is_that_of_the_weights_that_make_it_and_read_it():
    random = np.random.default_rng(0)
    v = {"a": random.normal(size=(2, 4)), "b": random.normal(size=(4, 3))}
    graph = jp.trace(lambda v, x: jax.nn.relu(x @ v["a"]) @ v["b"], v, np.ones((1, 2)))
    energy = scores.channel_energy(graph, v)["a"]
    np.testing.assert_allclose(energy, (v["a"] ** 2).sum(0) + (v["b"] ** 2).sum(1), rtol=1e-6)


def test_a_graph_without_groups_has_no_random_scores():
    graph = jp.trace(lambda v, x: x * v["a"], {"a": np.ones(3)}, np.ones(3))
    with pytest.raises(ScoreError, match="the graph has no group"):
        scores.random(graph, jax.random.key(0))
