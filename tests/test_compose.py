"""`compose`: pruning again and again is pruning once, and the graph of what is left is restricted.

The networks have a shortcut, a concatenation and a split whose halves are cut apart: after the cut
they are uneven, so that no module can say `jnp.split`, and the pruned network is the narrowed one.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
import networks
from jaxprune.arguments.paths import flatten
from jaxprune.errors import KeepError
from jaxprune.inspecting.compose import compose
from jaxprune.program import spaces as ax

Keep = Mapping[str, np.ndarray]
IMAGES = np.random.default_rng(0).normal(size=(2, 4, 4, 3))


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


class Shortcut(nn.Module):
    """A residual block, then one that projects, with BatchNorm."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(12, (3, 3), name="stem")(x))
        y = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(9, (3, 3), name="a")(x)))
        x = x + nn.Conv(12, (3, 3), name="b")(y)
        x = nn.Conv(14, (1, 1), name="project")(x) + nn.Conv(14, (3, 3), name="c")(nn.relu(x))
        return nn.Dense(5, name="head")(nn.relu(x).mean(axis=(1, 2)))


class Concatenation(nn.Module):
    """A dense block: every layer reads all before it; the maps are flattened before the head."""

    @nn.compact
    def __call__(self, x):
        for features in (8, 6, 10):
            x = jnp.concatenate([x, nn.relu(nn.Conv(features, (3, 3))(x))], axis=-1)
        return nn.Dense(5, name="head")(x.reshape(x.shape[0], -1))


class Split(nn.Module):
    """Halves that go different ways and meet in a concatenation, then halves that gate."""

    @nn.compact
    def __call__(self, x):
        left, right = jnp.split(nn.Conv(16, (3, 3), name="stem")(x), 2, axis=-1)
        x = jnp.concatenate([nn.relu(left), nn.Conv(9, (1, 1), name="side")(right)], axis=-1)
        value, gate = jnp.split(nn.Conv(20, (1, 1), name="gated")(x), 2, axis=-1)
        return nn.Dense(5, name="head")((value * nn.sigmoid(gate)).mean(axis=(1, 2)))


class Network(NamedTuple):
    """A module, traced, with its variables and how it is pruned."""

    module: nn.Module
    variables: Any
    graph: jp.ChannelGraph
    prune: Callable[[nn.Module, jp.ChannelGraph, Keep], Callable[..., Any]]


def resized(module: nn.Module, graph: jp.ChannelGraph, keep: Keep) -> Callable[..., Any]:
    """Returns the function of the resized module."""
    return jp.linen.resize(module, graph, keep).apply


def narrowed(_: nn.Module, graph: jp.ChannelGraph, keep: Keep) -> Callable[..., Any]:
    """Returns the function at the kept sizes."""
    return jp.narrow(graph.fn, graph, keep)


PRUNED = {Shortcut: resized, Concatenation: resized, Split: narrowed}


@functools.lru_cache
def network_of(kind: type[nn.Module]) -> Network:
    """Returns the network with random variables in double precision."""
    module = kind()
    variables = jax.tree.map(np.float64, networks.weights(module, 0, IMAGES))
    return Network(module, variables, jp.trace(module.apply, variables, IMAGES), PRUNED[kind])


@pytest.fixture(params=PRUNED, ids=lambda kind: kind.__name__)
def network(request: pytest.FixtureRequest) -> Network:
    return network_of(request.param)


def random_keep(graph: jp.ChannelGraph, seed: int, least: float = 0.5) -> Keep:
    """Returns `least` to all channels of each group, two or more, in no order."""
    random = np.random.default_rng(seed)
    return {
        name: random.permutation(group.size)
        < random.integers(max(2, int(least * group.size)), group.size + 1)
        for name, group in graph.groups.items()
    }


def pruned_graph(network: Network, keep: Keep) -> jp.ChannelGraph:
    """Returns the graph of the network pruned by `keep`, traced anew."""
    fn = network.prune(network.module, network.graph, keep)
    return jp.trace(fn, jp.slice(network.graph, network.variables, keep), IMAGES)


def restricted(graph: jp.ChannelGraph, keep: Keep) -> dict[str, Any]:
    """Returns what the slots of `graph` are in the kept indices."""
    found = {}
    for name, group in graph.groups.items():
        kept = keep.get(name, np.ones(group.size, bool))
        slots = []
        for slot in group.slots:
            axis = ax.select(slot.space, keep)
            renumbered = np.cumsum(axis) - 1
            positions = [renumbered[row[axis[row]]].tolist() for row in slot.positions[kept]]
            slots.append((slot.path, slot.axis, slot.role, positions))
        found[name] = (int(kept.sum()), slots, group.inexact is None)
    return found


def run(fn: Callable[..., Any], variables: Any) -> Any:
    """Returns the outputs for the images."""
    return jax.jit(fn)(variables, IMAGES)


def check_equal(a: Any, b: Any) -> None:
    """Checks two trees bit for bit."""
    a, b = flatten(a)[0], flatten(b)[0]
    assert list(a) == list(b)
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


# Names and slots.


def test_the_graph_of_the_pruned_network_is_the_graph_restricted_to_the_keep(network):
    keep = random_keep(network.graph, 1)
    assert restricted(pruned_graph(network, keep), {}) == restricted(network.graph, keep)


def test_pruning_changes_neither_what_is_frozen_nor_why(network):
    keep = random_keep(network.graph, 1)
    expected, found = network.graph.frozen, pruned_graph(network, keep).frozen
    assert [(f.path, f.axis) for f in found] == [(f.path, f.axis) for f in expected]


def test_a_group_of_one_channel_is_no_group_and_the_others_keep_their_names():
    variables = {"first": np.ones((3, 4, 5)), "head": np.ones((4, 5, 2))}
    x = np.ones(3)

    def fn(v, x):
        return jnp.tensordot(jax.nn.relu(jnp.tensordot(x, v["first"], 1)), v["head"], 2)

    graph = jp.trace(fn, variables, x)
    first = {"first[1]": np.arange(4) == 2}
    small = jp.trace(fn, jp.slice(graph, variables, first), x)
    assert [list(graph.groups), list(small.groups)] == [["first[1]", "first[2]"], ["first[2]"]]
    twice = jp.slice(graph, variables, compose(first, {"first[2]": np.arange(5) < 3}))
    assert twice["first"].shape == (3, 1, 3)


# Slices.


def test_slicing_twice_is_slicing_by_the_composition(network):
    graph, variables = network.graph, network.variables
    first = random_keep(graph, 2)
    small = pruned_graph(network, first)
    second = random_keep(small, 3)
    twice = jp.slice(small, jp.slice(graph, variables, first), second)
    check_equal(twice, jp.slice(graph, variables, compose(first, second)))


def test_five_steps_are_one_step_to_the_same_kept_set(network):
    graph, variables, keep = network.graph, network.variables, {}
    for seed in range(5):
        step = random_keep(graph, seed, least=0.75)
        variables, keep = jp.slice(graph, variables, step), compose(keep, step)
        graph = pruned_graph(network, keep)
    widths = jp.widths(network.graph, keep)
    assert all(2 <= widths[name] < group.size for name, group in network.graph.groups.items())
    check_equal(variables, jp.slice(network.graph, network.variables, keep))
    masked = run(network.graph.fn, jp.mask(network.graph, network.variables, keep))
    np.testing.assert_allclose(run(graph.fn, variables), masked, rtol=1e-9, atol=1e-9)


def test_the_spec_of_the_composition_rebuilds_the_network_from_the_original():
    network = network_of(Concatenation)
    first = random_keep(network.graph, 4)
    small = pruned_graph(network, first)
    second = random_keep(small, 5)
    again = jp.keep_from_spec(jp.spec(network.graph, compose(first, second)))
    expected = jp.slice(network.graph, network.variables, compose(first, second))
    check_equal(jp.slice(network.graph, network.variables, again), expected)
    assert jp.widths(network.graph, again) == jp.widths(small, second)


# The algebra.


def bits(text: str) -> np.ndarray:
    """Returns the mask that `text` spells in 0 and 1."""
    return np.array([letter == "1" for letter in text])


def test_indices_are_those_of_the_original():
    assert compose({"a": bits("101101")}, {"a": bits("0110")})["a"].tolist() == [
        *(False, False, True, True, False, False)
    ]


def test_a_group_that_one_keep_lacks_is_whole_there():
    keep = compose({"a": bits("101")}, {"b": bits("01")})
    assert {name: kept.tolist() for name, kept in keep.items()} == {
        "a": [True, False, True],
        "b": [False, True],
    }


def test_composing_is_associative_and_leaves_its_arguments_alone():
    a, b, c = ({"g": bits(text)} for text in ("11011101", "101101", "0111"))
    left, right = compose(compose(a, b), c)["g"], compose(a, compose(b, c))["g"]
    np.testing.assert_array_equal(left, right)
    assert a["g"].sum() == 6
    keep = compose(a, {})
    keep["g"][:] = False
    assert a["g"].sum() == 6


@pytest.mark.parametrize("length", [3, 5], ids=["short", "indexed in the original"])
def test_a_second_keep_of_another_length_is_refused(length):
    with pytest.raises(
        KeepError,
        match=r"^second keep for group 'g' has shape \(\d,\), the first kee"
        r"ps 4 of 5 channels\. Fix: select on the graph of the pruned network",
    ):
        compose({"g": bits("11011")}, {"g": np.ones(length, bool)})


def rows(*texts: str) -> np.ndarray:
    """Returns the masks of stacked layers."""
    return np.stack([bits(text) for text in texts])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (bits("11010"), rows("101", "011"), rows("10010", "01010")),
        (rows("11010", "01011"), bits("101"), rows("10010", "01001")),
        (rows("11010", "01011"), rows("101", "011"), rows("10010", "00011")),
    ],
    ids=["then by layer", "at first by layer", "both by layer"],
)
def test_layers_keep_their_own_channels(first, second, expected):
    np.testing.assert_array_equal(compose({"g": first}, {"g": second})["g"], expected)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (rows("11010", "01011"), rows("101", "011", "110")),  # other layers
        (rows("11010", "01001"), bits("101")),  # the first is uneven: it keeps 3 and 2 channels
    ],
    ids=["three of two layers", "uneven"],
)
def test_a_second_keep_of_other_layers_is_refused(first, second):
    with pytest.raises(KeepError, match=r"the first keeps |keeps 2 to 3 channels"):
        compose({"g": first}, {"g": second})


def test_every_failure_is_listed():
    first = {"a": np.array([0, 2]), "b": bits("11"), "c": np.True_}
    second = {"b": np.ones((1, 1, 2), bool), "c": bits("1")}
    with pytest.raises(KeepError) as caught:
        compose(first, second)
    text = str(caught.value)
    assert "first keep for group 'a' is int64[2], not bool: a keep is {group: bool[n]}" in text
    assert "first keep for group 'c' is bool[], not a vector" in text
    assert "second keep for group 'b' is bool[1, 1, 2], not a vector" in text


def test_a_name_that_the_graph_lacks_is_found_where_the_keep_is_used():
    network = network_of(Shortcut)
    keep = compose({"stem/kernel": np.arange(12) < 5}, {"stm/kernel": np.arange(12) < 3})
    with pytest.raises(KeepError, match="keep names group 'stm/kernel', which the graph does not"):
        jp.slice(network.graph, network.variables, keep)
