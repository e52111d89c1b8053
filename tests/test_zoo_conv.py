"""Every kind of convolutional and recurrent network is pruned as it says, see zoo/zoo.py."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

import jaxprune as jp
import networks
from zoo import branches, mobile, plain, residual, sequences
from zoo.mobile import ShuffleNetV1, ShuffleNetV2
from zoo.zoo import Network, check

NETWORKS = tuple(
    itertools.chain.from_iterable(
        family.NETWORKS for family in (residual, mobile, branches, plain, sequences)
    )
)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_the_laws_hold_on(network: Network) -> None:
    check(network)


# Channel shuffles at the widths that ShuffleNets have: 4, 8 and 4 units of 24 channels at first.


def prunable(graph: jp.ChannelGraph) -> float:
    """Returns the share of the output channels of all convolutions that belong to a group."""
    sizes = {
        path: variable.shape[3]
        for path, variable in graph.variables.items()
        if len(variable.shape) == 4
    }
    held = {
        (slot.path, position)
        for group in graph.groups.values()
        for slot in group.slots
        if slot.path in sizes and slot.axis == 3
        for position in slot.positions.ravel().tolist()
    }
    return len(held) / sum(sizes.values())


@pytest.mark.parametrize(
    ("groups", "widths", "share"),
    [
        (1, (144, 288, 576), 1.0),
        (2, (200, 400, 800), 0.96),
        (3, (240, 480, 960), 0.65),
        (4, (272, 544, 1088), 0.80),
        (8, (384, 768, 1536), 0.97),
    ],
)
def test_most_of_a_shuffle_net_v1_is_prunable(
    groups: int, widths: tuple[int, ...], share: float
) -> None:
    """In three groups 20 channels of a bottleneck are dealt out, so all bottlenecks stay whole.

    In four groups it is 17 and 34 in the first two stages, which four does not divide.
    """
    graph = traced(ShuffleNetV1(24, widths, groups, (4, 8, 4)))
    assert prunable(graph) == pytest.approx(share, abs=0.005)
    if groups == 3:
        assert {group.size for group in graph.groups.values()} == {8}
        assert any(f.reason == "reshape of (20 * 3) to 3 x 20" for f in graph.frozen)


def test_most_of_a_shuffle_net_v2_is_prunable() -> None:
    """What passes through all units of a stage is dealt out anew in each: fewer channels are free.

    The branches of the 13 units that halve their input have 58, 116 or 232 channels of their own.
    """
    graph = traced(ShuffleNetV2(24, (116, 232, 464), (4, 8, 4), 1024))
    assert prunable(graph) == pytest.approx(0.91, abs=0.005)
    branches = {
        name: group.size for name, group in graph.groups.items() if name.endswith("Conv_0/kernel")
    }
    assert {58, 116, 232} <= set(branches.values())
    assert len(branches) >= 13


def traced(module: nn.Module) -> jp.ChannelGraph:
    """Returns the graph of a module of small images."""
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return jp.trace(lambda v, x: module.apply(v, x), variables, x, strict=True)


@pytest.mark.parametrize(
    "module",
    [
        ShuffleNetV1(24, (240, 480), 3, (2, 1)),
        ShuffleNetV1(24, (272,), 4, (2,)),
        ShuffleNetV2(24, (116,), (4,), 32),
    ],
    ids=["v1 of 3 groups", "v1 of 4 groups", "v2"],
)
def test_shuffle_nets_at_real_widths_are_masked_as_they_are_cut(module: nn.Module) -> None:
    def apply(v: Any, x: Any) -> Any:
        return module.apply(v, x)

    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        x = random.normal(size=(2, 8, 8, 3))
        variables = jax.tree.map(np.float64, networks.weights(module, 0, x))
        graph = jp.trace(apply, variables, x)
        keep = {
            name: random.permutation(group.size) < random.integers(1, group.size + 1)
            for name, group in graph.groups.items()
        }
        found = jp.verify(graph, apply, keep, variables, x, rtol=1e-9)
    assert found.ok, found
    assert all(verdict == "exact" for verdict in found.groups.values())


# Random masks.


def test_dropout_ties_nothing_and_freezes_nothing() -> None:
    (network,) = (n for n in plain.NETWORKS if n.name == "StochasticDepth")
    module = plain.StochasticDepth(0.5)

    def dropped(v: Any, x: Any) -> Any:
        return module.apply(v, *x, train=True, rngs={"dropout": jax.random.key(0)})

    graph = jp.trace(dropped, network.variables(), network.inputs(1), strict=True)
    assert {name: group.size for name, group in graph.groups.items()} == network.groups
    keep = {name: np.arange(group.size) % 2 == 1 for name, group in graph.groups.items()}
    small = jp.slice(graph, network.variables(), keep)
    outputs = jp.narrow(dropped, graph, keep)(small, network.inputs(4))
    assert outputs.shape == (4, 5)
    assert np.isfinite(outputs).all()
