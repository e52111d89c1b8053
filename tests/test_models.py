"""The networks of the experiments: sizes counted by hand, initial values, one step of training."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp
from by_hand import REFERENCES, densenet, mlp
from experiments import models
from experiments.models.mobilenet import Stage

CIFAR = (1, 32, 32, 3)
MNIST = (1, 28, 28, 1)
IMAGENET = (1, 224, 224, 3)
FOR_IMAGENET = {
    *("alexnet", "vgga", "mobilenet_v1", "mobilenet_v2", "mnasnet"),
    *("resnet50", "shufflenet", "shufflenet_aligned"),
}

ON_MNIST = {"lenet5", "mlp"}

TINY = {
    "convnet": {"widths": (4, 6)},
    "mlp": {"widths": (6, 5)},
    "lenet5": {"widths": (4, 5), "hidden": (6,)},
    "preactsenet18": {"blocks": (1, 1), "widths": (16, 32)},
    "vgg11": {"widths": (4, 5, 6, 7, 8)},
    "vgga": {"layers": (1, 2), "widths": (3, 4), "hidden": (6, 5)},
    "resnet20": {"depth": 8, "widths": (4, 6, 8)},
    "resnet20_padded": {"depth": 8, "widths": (4, 6, 8)},
    "preresnet164": {"depth": 11, "widths": (2, 3, 4)},
    "densenet40": {"depth": 7, "growth": 3, "stem": 5},
    "mobilenet_v1": {"stages": (Stage(2),), "widths": (4, 5), "strides": (2, 2)},
    "mobilenet_v2": {
        "stages": (Stage(1, 1), Stage(2, 3, 5)),
        "widths": (4, 3, 5),
        "strides": (2, 1, 2),
        "last": 7,
    },
    "resnet50": {"blocks": (2, 1), "widths": (4, 5)},
    "shufflenet_aligned": {"blocks": (2,), "widths": (6, 36)},
}


def shapes(model: nn.Module, image=CIFAR):
    init = partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct(image, jnp.float32))


@cache
def traced(model: nn.Module, image=CIFAR) -> jp.ChannelGraph:
    x = jax.ShapeDtypeStruct(image, jnp.float32)
    return jp.trace(partial(model.apply, train=False), shapes(model, image), x)


def size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("counted", "params", "macs"), REFERENCES.values(), ids=REFERENCES)
def test_sizes_are_those_counted_by_hand(request, counted, params, macs):
    name = request.node.callspec.id
    weights, norms, by_hand = counted
    large = name in FOR_IMAGENET
    model = models.build(name, classes=1000) if large else models.build(name)
    graph = traced(model, MNIST if name in ON_MNIST else IMAGENET if large else CIFAR)
    assert jp.cost.params(graph) == weights + norms == params
    assert jp.cost.macs(graph) == by_hand == macs


def test_every_model_is_pinned():
    wide = {f"{name}_wide" for name in models.MOBILE}
    assert set(models.MODELS) == {*REFERENCES, *wide, "convnet", "decoder"}  # test_language.py


def test_the_densenet_of_table_1_has_a_stem_of_16():
    params = size(shapes(models.build("densenet40", stem=16))["params"])
    weights, norms, macs = densenet(40, 12, 16)
    assert params == weights + norms == 1_019_722
    assert 2 * macs == 529_625_856


def test_80_percent_of_every_layer_are_84_percent_of_the_parameters():
    dense, pruned = mlp(500, 300), mlp(100, 60)
    for part in (slice(0, 1), slice(0, 2), slice(2, 3)):  # with biases, with BatchNorm, the weights
        assert round(100 * (1 - sum(pruned[part]) / sum(dense[part])), 1) == 84.4
    small = models.build("mlp", widths=(100, 60))
    assert size(shapes(small, MNIST)["params"]) == sum(pruned[:2])


def test_vgg_19_has_a_group_for_every_convolution():
    groups = traced(models.build("vgg19")).groups
    assert set(groups) == {f"Conv_{i}/kernel" for i in range(16)}
    assert sum(group.size for group in groups.values()) == 5504


def test_vgg_a_has_a_group_for_every_convolution_and_every_hidden_layer():
    groups = traced(models.build("vgga", classes=1000), IMAGENET).groups
    convolutions = {f"Conv_{i}/kernel" for i in range(8)}
    assert set(groups) == convolutions | {"Mlp_0/Dense_0/kernel", "Mlp_0/Dense_1/kernel"}
    assert sum(group.size for group in groups.values()) == 2752 + 2 * 4096


@pytest.mark.parametrize(
    ("name", "streams"),
    [("resnet56", [16, 32, 64]), ("resnet56_padded", [16, 16, 32])],
    ids=["projection", "zero-padding"],
)
def test_streams_of_a_resnet_are_prunable(name, streams):
    """Zero-padded channels make a group of their own; the channels before them stay one group."""
    groups = traced(models.build(name)).groups
    inner = {f"Block_{i}/Conv_0/kernel" for i in range(27)}
    assert inner < set(groups)
    assert [group.size for key, group in groups.items() if key not in inner] == streams


def test_the_shortcut_of_a_pre_activation_block_reads_the_stream():
    model = models.build("preresnet164", **TINY["preresnet164"])
    graph = traced(model)
    before = {slot.path for slot in graph.groups["Conv_0/kernel"].slots}
    read = {path for path in before if path.endswith("kernel")}
    assert read == {
        "params/Conv_0/kernel",
        "params/Bottleneck_0/Conv_0/kernel",
        "params/Bottleneck_0/Conv_3/kernel",
    }


def drawn(variables):
    """Returns values for the shapes of `variables`; compiles nothing."""
    random = np.random.default_rng(0)

    def draw(leaf):
        if leaf.ndim == 1:
            return random.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        return random.normal(size=leaf.shape).astype(leaf.dtype) / np.sqrt(
            leaf.size / leaf.shape[-1]
        )

    return jax.tree.map(draw, variables)


@pytest.mark.parametrize("name", TINY)
def test_one_step_of_training_is_finite(name):
    model = models.build(name, **TINY[name], classes=7)
    x = np.random.default_rng(1).normal(size=(4, 16, 16, 3)).astype(np.float32)
    labels = np.arange(4)
    variables = drawn(shapes(model, x.shape))

    @partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        logits, updates = model.apply(
            variables | {"params": params}, x, train=True, mutable=["batch_stats"]
        )
        return -jax.nn.log_softmax(logits)[labels, labels].mean(), (logits, updates)

    step = jax.jit(loss)
    (value, (logits, updates)), gradients = step(variables["params"])
    assert logits.shape == (4, 7)
    assert jnp.isfinite(value)
    for gradient in map(np.asarray, jax.tree.leaves(gradients)):
        assert np.isfinite(gradient).all()
        assert gradient.any()
    assert set(updates) == {"batch_stats"}
    old, new = jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(updates["batch_stats"])
    assert len(old) == len(new) > 0
    for before, after in zip(old, map(np.asarray, new), strict=True):
        assert (before != after).all()


def test_initial_weights_are_those_of_the_authors():
    model = models.build("vgg11", layers=(1, 1), widths=(64, 128))
    init = jax.jit(partial(model.init, train=False))
    params = init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)))["params"]
    assert set(params) == {"Conv_0", "BatchNorm_0", "Conv_1", "BatchNorm_1", "Dense_0"}
    for name, layer in params.items():
        if name.startswith("Conv"):
            height, width, _, features = layer["kernel"].shape
            std = np.sqrt(2 / (height * width * features))
            samples = layer["kernel"].size
            assert abs(layer["kernel"].std() / std - 1) < 5 / np.sqrt(2 * samples)
            assert abs(layer["kernel"]).max() > 2 * std / 0.88  # a truncated one ends here
            assert "bias" not in layer
        if name.startswith("BatchNorm"):
            np.testing.assert_array_equal(layer["scale"], 0.5)
            np.testing.assert_array_equal(layer["bias"], 0)
    head = params["Dense_0"]
    assert abs(head["kernel"].std() / 0.01 - 1) < 5 / np.sqrt(2 * head["kernel"].size)
    assert not head["bias"].any()


def test_zero_padding_takes_every_second_pixel():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    y = models.zero_padding(x, jnp.zeros((2, 3, 3, 5)), True)
    np.testing.assert_array_equal(y[..., :3], x[:, ::2, ::2])
    np.testing.assert_array_equal(y[..., 3:], np.zeros((2, 3, 3, 2)))


def test_a_norm_is_what_a_model_without_batch_norm_needs():
    without = shapes(models.build("mlp", norm=None), MNIST)
    assert set(without) == {"params"}
    assert size(without["params"]) == mlp(500, 300)[0] + 500 + 300
    assert not jp.batch_norms(without)
    normed = shapes(models.build("mlp"), MNIST)
    assert list(jp.batch_norms(normed)) == ["BatchNorm_0", "BatchNorm_1"]


@pytest.mark.parametrize(
    ("name", "image", "params"),
    [("lenet5", MNIST, 431_080), ("alexnet", IMAGENET, 61_100_840)],
)
def test_without_a_norm_the_sizes_are_the_published_ones(name, image, params):
    variables = shapes(models.build(name, norm=None), image)
    assert set(variables) == {"params"}
    assert size(variables["params"]) == params


@pytest.mark.parametrize(("name", "image"), [("lenet5", MNIST), ("cifarnet", CIFAR)])
def test_every_layer_but_the_last_is_prunable(name, image):
    groups = traced(models.build(name), image).groups
    dense = {"lenet5": 1, "cifarnet": 2}[name]
    expected = {f"Conv_{i}/kernel" for i in range(2)}
    assert set(groups) == expected | {f"Mlp_0/Dense_{i}/kernel" for i in range(dense)}


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("resnet20", "21 is not 6 n + 2 for any n from 1.\nFix: a depth of 8, 14, 20"),
        ("preresnet164", "21 is not 9 n + 2 for any n from 1.\nFix: a depth of 11, 20, 29"),
        ("densenet40", "21 is not 3 n + 4 for any n from 1.\nFix: a depth of 7, 10, 13"),
    ],
)
def test_a_depth_that_gives_no_whole_blocks_is_an_error(name, depths):
    with pytest.raises(ValueError, match=re.escape(f"depth {depths}, ...")):
        shapes(models.build(name, depth=21))


def test_vgg_needs_a_width_for_every_stage():
    message = r"layers \(1, 1, 2, 2, 2\) has 5 stages, widths \(4, 8\) has 2.\nFix: one entry"
    with pytest.raises(ValueError, match=message):
        shapes(models.build("vgg11", widths=(4, 8)))


def test_unknown_names_and_fields_are_errors():
    with pytest.raises(ValueError, match=r"no model 'vgg'.\nFix: one of \['alexnet', 'cif"):
        models.build("vgg")
    message = r"model 'mlp' has no field \['depth', 'parent'\].\nFix: one of \['classes', 'norm', "
    with pytest.raises(ValueError, match=message):
        models.build("mlp", depth=3, parent=None)
