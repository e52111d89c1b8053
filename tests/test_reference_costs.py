"""Costs of networks of the literature, to the digit, and closed forms against fresh traces."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp
import models
from jaxprune import cost, linen
from jaxprune.keep import check

IMAGE = jax.ShapeDtypeStruct(models.CIFAR, jnp.float32)

RESNETS = {
    "resnet20": (models.RESNET_20, 40_813_184, 270_896),
    "resnet56": (models.RESNET_56, 125_747_840, 851_504),
}
VGGS = {
    "vgg16": (models.VGG_16, 313_196_544),
    "vgg19": (models.VGG_19, 398_131_200),
}
SMALL_VGG = models.CifarVgg(((8, 12), (16,), (20, 24)))


def traced(module: nn.Module, *, train: bool = False) -> jp.ChannelGraph:
    """Returns the graph of `module` on one CIFAR image."""
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(models.CIFAR))
    mutable = ["batch_stats"] if train else []
    return jp.trace(lambda v, x: module.apply(v, x, train=train, mutable=mutable), variables, IMAGE)


def random_keep(channels: jp.ChannelGraph, seed: int) -> dict[str, np.ndarray]:
    """Returns between one and all channels of every group, in no order."""
    random = np.random.default_rng(seed)
    keep = {}
    for name, group in channels.groups.items():
        keep[name] = np.zeros(group.size, bool)
        keep[name][random.permutation(group.size)[: random.integers(1, group.size + 1)]] = True
    return keep


@pytest.mark.parametrize(("module", "macs", "weights"), RESNETS.values(), ids=RESNETS)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_resnets_cost_what_the_literature_says(module, macs, weights, train):
    channels = traced(module, train=train)
    assert cost.macs(channels) == macs
    assert cost.weights(channels) == weights


@pytest.mark.parametrize(("module", "macs"), VGGS.values(), ids=VGGS)
def test_convolutions_of_vgg_cost_what_the_literature_says(module, macs):
    channels = traced(module)
    convolutions = sum(9 * a * b for a, b in _neighbors(module.stages))
    dense = 512 * 10
    assert cost.macs(channels) == macs + dense
    assert cost.weights(channels) == convolutions + dense


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("module", [models.RESNET_20, SMALL_VGG], ids=["resnet20", "small-vgg"])
def test_closed_form_equals_a_fresh_trace_of_the_resized_network(module, seed):
    channels = traced(module)
    keep = random_keep(channels, seed)
    small = traced(linen.resize(module, channels, keep))
    costs = (cost.macs, cost.weights, cost.params, cost.activation_bytes, cost.peak_memory)
    for closed_form in costs:
        assert closed_form(channels, keep) == closed_form(small)
    assert cost.macs(small) < cost.macs(channels)


def test_closed_form_of_a_chain_is_the_sum_of_products():
    channels = traced(SMALL_VGG)
    keep = random_keep(channels, seed=0)
    first, second, third, fourth, fifth = check.widths(channels, keep).values()
    expected = (
        1024 * 9 * (3 * first + first * second)
        + 256 * 9 * second * third
        + 64 * 9 * (third * fourth + fourth * fifth)
        + 10 * fifth
    )
    assert cost.macs(channels, keep) == expected


def _neighbors(stages):
    widths = [3, *(width for stage in stages for width in stage)]
    return itertools.pairwise(widths)
