"""The law of stacked layers, of what chooses channels: a scan as the layers one after the other."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.recover import dcp, lasso
from test_reconstruction_layers import NETWORKS, WIDTH, Twins, X, close, twins


@pytest.fixture(autouse=True)
def _wide() -> Iterator[None]:
    """What channels are chosen must not hang on rounding."""
    with jax.enable_x64(True):
        yield


def widths_of(pair: Twins, count: int) -> tuple[dict[str, int], dict[str, int]]:
    """So many channels of every group; of nested scans of the stream, which both have alike."""
    alone = len(pair.net.depths) > 1
    ours = {n: count for n in pair.keep if not alone or pair.graph.groups[n].layers is None}
    groups = pair.other.groups
    return ours, {n: count for n in pair.other_keep if not alone or groups[n].size == WIDTH}


def in_order(pair: Twins) -> jp.ChannelGraph:
    """The graph of the layers one by one, its groups in the order of those of the scan."""
    order = list(pair.graph.groups)

    def place(name: str) -> int:
        first, *rest = name.split("/")
        return order.index("/".join([first, *rest[-1:]]))

    groups = pair.other.groups
    return replace(pair.other, groups={name: groups[name] for name in sorted(groups, key=place)})


def check(pair: Twins, ours: Any, theirs: Any) -> None:
    """The same kernels, and as many channels in every layer."""
    jax.tree.map(close, pair.net.apart(ours.variables), theirs.variables)
    for name, kept in ours.keep.items():
        assert kept.shape == pair.graph.groups[name].shape
    chosen = [sorted(map(tuple, rows(found.keep))) for found in (ours, theirs)]
    assert chosen[0] == chosen[1]


def rows(keep: dict[str, np.ndarray]) -> list[Any]:
    return [row for kept in keep.values() for row in np.atleast_2d(kept).tolist()]


@pytest.mark.parametrize("name", ["mlp", "backward", "layers last", "nested", "gated"])
def test_dcp(name: str) -> None:
    pair = twins(NETWORKS[name])
    ours, theirs = widths_of(pair, 2)

    def loss(outputs: Any, batch: Any) -> Any:
        return ((outputs - batch[..., :3]) ** 2).mean()

    first = dcp(pair.graph, pair.v, ours, X, loss=loss, rate=0.5)
    second = dcp(in_order(pair), pair.net.apart(pair.v), theirs, X, loss=loss, rate=0.5)
    check(pair, first, second)
    orders = [order for each in first.chosen.values() for order in np.atleast_2d(each).tolist()]
    assert sorted(orders) == sorted(map(list, second.chosen.values()))
    assert not np.array_equal(first.variables["out"], pair.v["out"])


@pytest.mark.parametrize("name", ["mlp", "layers last", "convolution"])
def test_lasso(name: str) -> None:
    pair = twins(NETWORKS[name])
    ours, theirs = widths_of(pair, 3)
    found = []
    for graph, v, widths in (
        (pair.graph, pair.v, ours),
        (pair.other, pair.net.apart(pair.v), theirs),
    ):
        added = jp.stats.collect(graph, v, X, {"z": jp.stats.contributions()})["z"]
        found.append(lasso(graph, v, widths, added))
    check(pair, *found)
    strengths = [np.sort(np.hstack(list(each.penalties.values()))) for each in found]
    np.testing.assert_allclose(*strengths, rtol=1e-6)
