"""Widths and costs of pruned ResNets and DenseNets, against those counted by hand.

The reference is the authors' procedure: one threshold over the |gamma| of all BatchNorms in order
of depth; a BatchNorm on the stream chooses what its convolution reads, every other BatchNorm what
the convolution before it gives; streams, stem and shortcuts stay whole.

Source: Liu et al., Network Slimming, ICCV 2017, and its code (resprune.py, denseprune.py).
"""

import json
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

pytest.importorskip("tyro", reason="needs the extra [experiments]")

from experiments import models


class Traced(NamedTuple):
    model: Any
    graph: jp.ChannelGraph
    variables: Any


@cache
def traced(name: str, depth: int | None = None) -> Traced:
    """Returns a network with random values, traced on one CIFAR image."""
    model = models.build(name, **({} if depth is None else {"depth": depth}))
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: np.float32(random.uniform(0.1, 1, x.shape)), shapes)
    graph = jp.trace(jp.linen.mark_readers(partial(model.apply, train=False)), shapes, image)
    return Traced(model, graph, variables)


def scales(variables: Any, norms: list[str]) -> list[np.ndarray]:
    """Returns gamma of the BatchNorms at those paths."""
    found = []
    for path in norms:
        node = variables["params"]
        for name in path.split("/"):
            node = node[name]
        found.append(np.abs(node["scale"]))
    return found


def widths_of(gammas: list[np.ndarray], ratio: float) -> list[int]:
    """Returns how many of every layer are above the global threshold that removes `ratio`."""
    ranked = np.sort(np.concatenate(gammas))
    threshold = ranked[int(len(ranked) * ratio) - 1]
    return [int(np.sum(gamma > threshold)) for gamma in gammas]


def resnet_macs(cfg: list[int], blocks: int) -> int:
    """Returns the MACs of a pre-activation ResNet: three widths a block, and the last."""
    total = 32 * 32 * 9 * 3 * 16
    stream, size = 16, 32
    for i in range(3 * blocks):
        stage, first = divmod(i, blocks)
        planes = 16 * 2**stage
        inside = size // 2 if stage and not first else size
        a, b, c = cfg[3 * i : 3 * i + 3]
        total += size * size * a * b + inside * inside * (9 * b * c + c * 4 * planes)
        if not first:
            total += inside * inside * stream * 4 * planes
        stream, size = 4 * planes, inside
    return total + cfg[-1] * 10


def densenet_macs(cfg: list[int], layers: int) -> int:
    """Returns the MACs of a DenseNet: the width that every BatchNorm passes on, in order."""
    stem, growth, size = 24, 12, 32
    total = size * size * 9 * 3 * stem
    read = iter(cfg)
    full = stem
    for block in range(3):
        if block:
            total += size * size * next(read) * full
            size //= 2
        total += sum(size * size * 9 * next(read) * growth for _ in range(layers))
        full += layers * growth
    return total + next(read) * 10


def resnet_norms(blocks: int) -> list[str]:
    inside = [f"Bottleneck_{i}/BatchNorm_{j}" for i in range(3 * blocks) for j in range(3)]
    return [*inside, "BatchNorm_0"]


def densenet_norms(layers: int) -> list[str]:
    found = []
    for block in range(3):
        if block:
            found.append(f"Transition_{block - 1}/BatchNorm_0")
        found += [f"DenseLayer_{block * layers + i}/BatchNorm_0" for i in range(layers)]
    return [*found, "BatchNorm_0"]


NETWORKS = {
    "ResNet-164": ("preresnet164", None, resnet_norms(18), partial(resnet_macs, blocks=18)),
    "ResNet-20": ("preresnet164", 20, resnet_norms(2), partial(resnet_macs, blocks=2)),
    "DenseNet-40": ("densenet40", None, densenet_norms(12), partial(densenet_macs, layers=12)),
    "DenseNet-10": ("densenet40", 10, densenet_norms(2), partial(densenet_macs, layers=2)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ratio", [0.4, 0.6])
def test_widths_and_macs_are_those_of_the_paper(name, ratio):
    model, depth, norms, macs = NETWORKS[name]
    network = traced(model, depth)
    gammas = scales(network.variables, norms)
    keep = jp.select.global_ratio(
        network.graph,
        jp.scores.bn_scale(network.graph, network.variables),
        prune_ratio=ratio,
    )
    cfg = widths_of(gammas, ratio)
    small = jp.slice(network.graph, network.variables, keep)
    assert [gamma.size for gamma in scales(small, norms)] == cfg
    assert jp.cost.macs(network.graph, jp.widths(network.graph, keep)) == macs(cfg)
    assert jp.cost.macs(network.graph) == macs([gamma.size for gamma in gammas])


@pytest.mark.parametrize("name", ["ResNet-20", "DenseNet-10"])
def test_the_pruned_network_is_the_masked_one(name):
    network = traced(*NETWORKS[name][:2])
    graph, variables = network.graph, network.variables
    keep = jp.select.global_ratio(graph, jp.scores.bn_scale(graph, variables), prune_ratio=0.5)
    model, small = jp.linen.resize(network.model, graph, keep), jp.slice(graph, variables, keep)
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    run = jax.jit(partial(network.model.apply, train=False))
    resized = jax.jit(partial(model.apply, train=False))
    np.testing.assert_allclose(
        resized(small, images), run(jp.mask(graph, variables, keep), images), rtol=1e-4
    )
    head = small["params"]["Dense_0"]["kernel"]
    assert head.shape[0] == small["params"]["BatchNorm_0"]["scale"].size < 256


def test_every_convolution_keeps_the_outputs_that_join_a_stream():
    network = traced("preresnet164", 20)
    graph, variables = network.graph, network.variables
    keep = jp.select.global_ratio(graph, jp.scores.bn_scale(graph, variables), prune_ratio=0.5)
    small = jp.slice(graph, variables, keep)["params"]
    for i in range(6):
        block = small[f"Bottleneck_{i}"]
        assert block["Conv_2"]["kernel"].shape[-1] == 4 * 16 * 2 ** (i // 2)
        assert block["Conv_0"]["kernel"].shape[2] == block["BatchNorm_0"]["scale"].size
    assert small["Conv_0"]["kernel"].shape == (3, 3, 3, 16)


def test_a_network_with_zero_padding_shortcuts_is_resized():
    network = traced("resnet20_padded", 8)
    graph, variables = network.graph, network.variables
    sizes = jp.widths(graph)
    assert json.loads(json.dumps(sizes)) == sizes
    random = np.random.default_rng(2)
    keep = {name: random.permutation(size) < size // 2 for name, size in sizes.items()}
    model, small = jp.linen.resize(network.model, graph, keep), jp.slice(graph, variables, keep)
    images = random.normal(size=(2, 32, 32, 3)).astype(np.float32)
    run = jax.jit(partial(network.model.apply, train=False))
    resized = jax.jit(partial(model.apply, train=False))
    np.testing.assert_allclose(
        resized(small, images), run(jp.mask(graph, variables, keep), images), rtol=1e-4
    )
