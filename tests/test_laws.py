"""The laws of pruning on random networks, and on each block alone."""

import jax
import numpy as np
import pytest

import jaxprune as jp
import laws
import networks
import random_networks
from blocks import Blocks
from fixed_networks import GROUP_NORMS
from narrowed import Narrowed, narrowed

NETWORKS = [random_networks.network(index) for index in range(60)]
EVERY_TIME = 10
"""So many of them are in the normal run, the others under the marker."""
LISTED = {
    "Conv",
    "Depthwise",
    "Dropout",
    "Grouped",
    "Dense",
    "Norm",
    "LayerNorm",
    "RMSNorm",
    "GroupNorm",
    "Identity",
    "Projected",
    "Stacked",
    "Shared",
    "Concatenate",
    "UNet",
    "Split",
    "Shuffle",
    "Flatten",
    "Pool",
    "SqueezeExcite",
    "SwiGLU",
    "SpatialGate",
    "Attention",
    "GroupedQuery",
    "FusedAttention",
}


@pytest.mark.parametrize(
    "spec",
    [
        *NETWORKS[:EVERY_TIME],
        *(pytest.param(spec, marks=pytest.mark.slow) for spec in NETWORKS[EVERY_TIME:]),
    ],
    ids=range(len(NETWORKS)),
)
def test_laws_hold_on_random_networks(spec):
    laws.check_laws(spec)


@pytest.mark.parametrize("spec", networks.FIXED.values(), ids=networks.FIXED)
def test_laws_hold_on_each_block_alone(spec):
    laws.check_laws(spec)


@pytest.mark.parametrize("cut", GROUP_NORMS.values(), ids=GROUP_NORMS)
def test_group_norm_resized_is_the_network_written_by_hand(cut):
    with jax.enable_x64(True):
        network = laws.traced(cut.spec, train=True)
        sizes = {name: network.graph.groups[name].size for name in cut.keep}
        keep = {name: np.isin(np.arange(sizes[name]), kept) for name, kept in cut.keep.items()}
        laws.check_written(network, keep, cut.written, train=True)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(500))
def test_laws_hold_on_many_random_networks(index):
    spec = random_networks.network(len(NETWORKS) + index)
    laws.check_laws(spec, strict=False)
    with jax.enable_x64(True):
        assert may_be_uneven(spec) or prunable_share(laws.traced(spec, train=False)) == 1


def test_each_block_is_in_a_tenth_of_the_networks():
    found = [networks.blocks(spec) for spec in NETWORKS]
    shares = {name: np.mean([name in blocks for blocks in found]) for name in LISTED}
    assert min(shares.values()) >= 0.1, shares


def prunable_share(network: laws.Traced) -> float:
    """Returns the share of channels that belong to a group.

    Counted are the positions of the axes of all variables that hold channels: all but those
    of layers and windows, the input channels of the first layer, and the classes.
    """
    held = total = 0
    owned = {
        (slot.path, slot.axis, position)
        for group in network.graph.groups.values()
        for slot in group.slots
        for position in slot.positions.ravel().tolist()
    }
    for path, leaf in network.graph.variables.items():
        for axis in channel_axes(path, leaf.shape):
            total += leaf.shape[axis]
            held += sum((path, axis, position) in owned for position in range(leaf.shape[axis]))
    return held / total


def may_be_uneven(spec: Blocks) -> bool:
    """True where single channels may be cut off, which stay, or groups lie across each other.

    As in 1 + 5 channels, in 6 + 8 channels divided by two, and in 2 x 3 channels as 3 x 2.
    """
    found = networks.blocks(spec)
    halved = found & {"GroupNorm", "Grouped", "Split"}
    joined = found & {"Concatenate", "Split", "UNet"}
    return bool(found & {"Parallel", "Shuffle"} or (halved and joined))


def channel_axes(path: str, shape: tuple[int, ...]) -> list[int]:
    """Returns the axes of a variable that hold channels, see `prunable_share`."""
    axes = list(range(len(shape)))
    if "ScanLayer" in path:
        axes = axes[1:]
    if path.endswith("kernel") and "Conv_" in path:
        axes = axes[-2:]
    if path == "params/Conv_0/kernel":
        axes = axes[-1:]
    if path.startswith("params/head/"):
        axes = axes[:-1]
    return [axis for axis in axes if shape[axis] > 1]


def test_all_channels_of_the_random_networks_are_prunable():
    """Two sides of a concatenation may have one channel, or not divide by two groups, as 6 by 4."""
    with jax.enable_x64(True):
        shares = {spec: prunable_share(laws.traced(spec, train=False)) for spec in NETWORKS}
    assert np.mean(list(shares.values())) >= 0.95
    for spec, share in shares.items():
        uneven = networks.blocks(spec) & {"Parallel", "Shuffle"}
        assert share >= 0.3 if uneven else share == 1, spec


def written(spec: Blocks) -> Narrowed:
    """Returns the network written for the keep that the laws draw for the train mode."""
    network = laws.traced(spec, train=False)
    keep = laws.even_keep(network.graph, seed=2)
    small = jp.slice(network.graph, network.variables, keep)
    return narrowed(spec, small, laws.entries(network.graph, keep))


def test_most_networks_with_a_norm_are_compared_with_one_written_by_hand():
    normed = [spec for spec in NETWORKS if networks.blocks(spec) & laws.NORMS]
    with jax.enable_x64(True):
        found = [written(spec) for spec in normed]
    compared = [item for item in found if item.spec is not None and not item.hard_coded]
    assert len(compared) >= 0.8 * len(normed) >= 15, (len(compared), len(normed))


def test_hard_coded_numbers_are_met_and_spared():
    hard = [s for s in NETWORKS if networks.blocks(s) & {"GroupedQuery", "FusedAttention"}]
    with jax.enable_x64(True):
        met = [bool(written(spec).hard_coded) for spec in hard]
    assert 0.25 <= np.mean(met) <= 0.75, np.mean(met)
