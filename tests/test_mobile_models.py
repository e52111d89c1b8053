"""The networks of the slimmable experiments: their channel groups, and their published widths."""

import re
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import by_hand
import jaxprune as jp
from experiments import models
from experiments.models import shufflenet
from experiments.models.mobilenet import Stage
from jaxprune import slimmable
from test_models import IMAGENET, shapes, traced

V2 = {"protect": ["Conv_1/kernel"], "expansion": {"Inverted_*/Conv_0/kernel": 6}}
"""How the authors slim MobileNet v2: the last convolution stays, blocks keep their expansion."""


@cache
def graph(name: str, **fields) -> jp.ChannelGraph:
    return traced(models.build(name, **fields), IMAGENET)


def sizes(graph: jp.ChannelGraph) -> dict[str, int]:
    return {name: group.size for name, group in graph.groups.items()}


def run(name: str, keep, **fields):
    """Returns the shape of the logits of the resized network, of variables cut by `keep`."""
    channels = graph(name, **fields)
    model = jp.linen.resize(models.build(name, **fields), channels, keep)
    small = jax.eval_shape(lambda v: jp.slice(channels, v, keep), channels.abstract)
    x = jax.ShapeDtypeStruct(IMAGENET, jnp.float32)
    return jax.eval_shape(partial(model.apply, train=False), small, x).shape


# The authors' table: MobileNet v1 325, 150 and 41M MACs, v2 209, 97 and 59M; ResNet-50 2.3G, 1.1G
# and 278M.
@pytest.mark.parametrize(
    ("name", "width", "rounding", "macs"),
    [
        ("mobilenet_v1", 0.75, {}, 325_400_448),
        ("mobilenet_v1", 0.5, {}, 149_497_088),
        ("mobilenet_v1", 0.25, {}, 41_030_272),
        ("mobilenet_v2", 0.75, V2, 209_069_792),
        ("mobilenet_v2", 0.5, V2, 97_131_840),
        ("mobilenet_v2", 0.35, V2, 59_285_808),
        ("resnet50", 0.75, {"divisor": 1}, 2_322_677_760),
        ("resnet50", 0.5, {"divisor": 1}, 1_052_311_552),
        ("resnet50", 0.25, {"divisor": 1}, 278_085_632),
    ],
)
def test_widths_cost_what_their_authors_say(name, width, rounding, macs):
    keep = slimmable.prefix(graph(name), width, **rounding)
    assert jp.cost.macs(graph(name), keep) == macs


@pytest.mark.parametrize("name", models.MOBILE)
def test_a_supernet_of_one_and_a_half_widths_holds_the_network(name):
    wide, plain = graph(f"{name}_wide"), graph(name)
    keep = slimmable.prefix(wide, 1.0, supernet=1.5)
    assert jp.widths(wide, keep) == jp.widths(plain)
    assert jp.cost.macs(wide, keep) == jp.cost.macs(plain)


@pytest.mark.parametrize(
    ("widths", "macs"),
    [((12, 120, 240, 480), 37_589_856), ((48, 480, 960, 1920), 524_045_184)],
    ids=["0.5x", "2x"],
)
def test_shufflenets_of_other_widths_cost_what_their_authors_say(widths, macs):
    by_trace = jp.cost.macs(graph("shufflenet", widths=widths))
    assert by_trace == by_hand.shufflenet(*widths)[2] == macs


@pytest.mark.parametrize(
    ("name", "rounding"),
    [
        ("mobilenet_v1", {}),
        ("mobilenet_v2", V2),
        ("mnasnet", {}),
        ("resnet50", {}),
        ("shufflenet", {"divisor": 1}),
    ],
)
def test_the_network_of_half_the_width_runs(name, rounding):
    keep = slimmable.prefix(graph(name), 0.5, **rounding)
    assert run(name, keep) == (1, 1000)


def test_every_convolution_of_mobilenet_v1_that_reads_all_channels_is_a_group():
    widths = [32, 64, 128, 128, 256, 256, *6 * [512], 1024, 1024]
    assert sorted(sizes(graph("mobilenet_v1")).values()) == widths


@pytest.mark.parametrize("name", ["mobilenet_v2", "mnasnet"])
def test_every_expansion_is_a_group_and_every_stage_a_stream(name):
    model: Any = models.build(name)
    inner, streams, before = {}, [], model.widths[0]
    for stage, width in zip(model.stages, model.widths[1:], strict=True):
        for _ in range(stage.blocks):
            if stage.expansion > 1:
                inner[f"Inverted_{len(inner) + 1}/Conv_0/kernel"] = stage.expansion * before
            before = width
        streams.append(width)
    found = sizes(graph(name))
    assert {key: found.pop(key) for key in inner} == inner
    assert len(inner) == 16
    assert sorted(found.values()) == sorted([model.widths[0], *streams, 1280])


def test_the_depthwise_convolution_follows_the_expansion():
    slots = graph("mobilenet_v2").groups["Inverted_1/Conv_0/kernel"].slots
    block = "Inverted_1"
    norms = {
        f"{collection}/{block}/BatchNorm_{i}/{leaf}"
        for i in (0, 1)
        for collection, leaves in (("params", ("scale", "bias")), ("batch_stats", ("mean", "var")))
        for leaf in leaves
    }
    kernels = {f"params/{block}/Conv_{i}/kernel" for i in (0, 1, 2)}
    assert {slot.path for slot in slots} == kernels | norms


def test_streams_and_bottlenecks_of_a_resnet_are_groups():
    found = sizes(graph("resnet50"))
    inner = {key for key in found if "Conv_0/" in key or "Conv_1/" in key} - {"Conv_0/kernel"}
    assert len(inner) == 2 * (3 + 4 + 6 + 3)
    assert [found[key] for key in sorted(found.keys() - inner)] == [256, 1024, 2048, 512, 64]


@pytest.mark.parametrize(
    ("name", "stream"),
    [("mobilenet_v2", "Inverted_10/Conv_2/kernel"), ("resnet50", "Bottleneck_0/Conv_2/kernel")],
)
def test_shortcuts_stay_where_they_are_when_the_widths_of_two_streams_agree(name, stream):
    """The stream before has 64 channels as well; a first block adds, or projects, as it did."""
    keep = slimmable.prefix(graph(name), {stream: 64})
    assert run(name, keep) == (1, 1000)


def test_of_a_shufflenet_of_the_paper_only_the_first_convolution_can_go():
    channels = graph("shufflenet")
    assert sizes(channels) == {"Conv_0/kernel": 8}  # in each of three groups
    reasons = {item.reason for item in channels.frozen}
    assert "reshape of (20 * 3) to 3 x 20" in reasons


def test_joined_in_groups_the_streams_of_a_shufflenet_can_go():
    found = sizes(graph("shufflenet", join=models.appended_in_groups))
    assert sorted(found.values()) == [8, 72, 80, 160]


def test_an_aligned_shufflenet_slims_inside_every_group():
    keep = slimmable.prefix(graph("shufflenet_aligned"), 1.0)
    inner = [7] * 4 + [14] * 8 + [28] * 4
    joined = [(252 - 24) // 3, (504 - 252) // 3, (1008 - 504) // 3]
    assert sorted(kept.size for kept in keep.values()) == sorted([8, *inner, *joined])


def test_half_of_a_doubled_shufflenet_is_the_single_one():
    double = {"widths": (48, 504, 1008, 2016)}
    channels = graph("shufflenet_aligned", **double)
    keep = slimmable.prefix(channels, 0.5, divisor=1)
    for cost in (jp.cost.macs, jp.cost.params):
        assert cost(channels, keep) == cost(graph("shufflenet_aligned"))
    assert run("shufflenet_aligned", keep, **double) == (1, 1000)


def test_a_shuffle_deals_the_channels_of_every_group_out():
    np.testing.assert_array_equal(shufflenet.shuffle(jnp.arange(6), 3), [0, 2, 4, 1, 3, 5])


def test_pooled_channels_come_after_all_groups_or_after_each():
    y, short = jnp.arange(6), jnp.arange(10, 13)
    after_all = models.appended(y, short, 3)
    np.testing.assert_array_equal(after_all, [0, 1, 2, 3, 4, 5, 10, 11, 12])
    after_each = models.appended_in_groups(y, short, 3)
    np.testing.assert_array_equal(after_each, [0, 1, 10, 2, 3, 11, 4, 5, 12])


def test_initial_weights_are_those_of_the_authors():
    stages = (Stage(1), Stage(1, 2))
    model = models.build("mobilenet_v1", stages=stages, widths=(64, 64, 32), strides=(2, 1, 1))
    init = jax.jit(partial(model.init, train=False))
    params = init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)))["params"]
    head = params.pop("Dense_0")
    assert abs(head["kernel"].std() / 0.01 - 1) < 5 / np.sqrt(2 * head["kernel"].size)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("kernel"):
            height, width, _, features = leaf.shape
            std = np.sqrt(2 / (height * width * features))
            assert abs(leaf.std() / std - 1) < 5 / np.sqrt(2 * leaf.size)
        else:
            np.testing.assert_array_equal(leaf, 1.0 if name.endswith("scale") else 0.0)


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        (
            "mobilenet_v2_cifar",
            {"widths": (8, 16)},
            "7 stages, but widths (8, 16) and strides (1, 1, 1, 2, 2, 1, 2, 1).\nFix: 8 of each",
        ),
        (
            "mobilenet_v1",
            {"widths": (8,) * 6, "strides": (2, 2)},
            "5 stages, but widths (8, 8, 8, 8, 8, 8) and strides (2, 2).\nFix: 6 of each",
        ),
        (
            "resnet50",
            {"widths": (8, 16)},
            "blocks (3, 4, 6, 3) has 4 stages, widths (8, 16) has 2.\nFix: one entry",
        ),
        (
            "shufflenet",
            {"widths": (25, 12)},
            "blocks (4, 8, 4) has 3 stages, widths (25, 12)\n"
            "widths (25, 12) do not divide into 3 groups\n"
            "widths (25, 12) do not rise, so no channels are left to join\n"
            "Fix: rising widths, the first a multiple of 3, then one of 12 for each stage.",
        ),
    ],
)
def test_fields_that_do_not_fit_each_other_are_an_error(name, fields, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        shapes(models.build(name, **fields), IMAGENET)
