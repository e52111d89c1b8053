"""A detector on a slimmable backbone: the view of a width, what is frozen, and its measure."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

import jaxprune as jp
from experiments.data import shapes
from experiments.models.detector import Backbone, Classifier, Detector, Head, Neck, centers
from experiments.procedures import joint
from experiments.runner import checkpoints, directory, presets
from experiments.runner.task import Network
from experiments.tasks import detection
from experiments.tasks.detection import boxes, parts, training
from experiments.tasks.detection.boxes import Found, average_precision, overlaps, suppressed
from experiments.tasks.detection.config import Config
from jaxprune import slimmable
from jaxprune.arguments import paths

WIDTHS, NECK = (4, 6, 8), 5
MODEL = Detector(WIDTHS, NECK, 3)
IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


@cache
def variables():
    """Variables of the detector, all of them random: variances above 0, kernels of either sign."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), IMAGES)

    def drawn(leaf):
        kernel = leaf.ndim > 1
        values = rng.uniform(0.5, 1, leaf.shape) * (0.2 * rng.choice([-1, 1], leaf.shape))
        return np.asarray(values if kernel else rng.uniform(0.5, 1, leaf.shape), np.float32)

    return jax.tree.map(drawn, shapes)


@cache
def network() -> parts.Part:
    config = Config(widths=WIDTHS, neck=NECK, image_size=16, divisor=2, grid=(1.0, 0.5))
    return parts.part(config, MODEL, parts.image(16), protect=parts.WHOLE)


def padded_detector(keep, variables, small, images):
    """The authors' detector: the stages of a narrow backbone, zeros, neck and head, all whole."""
    model = Backbone(WIDTHS)
    own = {of: variables[of]["backbone"] for of in variables}
    run = partial(model.apply, train=False)
    graph = jp.trace(run, own, images[:1], free_outputs=["*"])
    own_keep = {name.removeprefix("backbone/"): kept for name, kept in keep.items()}
    found = jp.linen.resize(model, graph, own_keep).apply(small, images, train=False)
    *_, fine, coarse = (
        jnp.pad(stage, ((0, 0), (0, 0), (0, 0), (0, width - stage.shape[-1])))
        for stage, width in zip(found, WIDTHS, strict=True)
    )
    params = variables["params"]
    x = Neck(NECK).apply({"params": params["neck"]}, fine, coarse)
    return Head(NECK, 3, MODEL.stride).apply({"params": params["head"]}, x)


def backbone_of(small):
    return {of: small[of]["backbone"] for of in small}


def test_only_the_backbone_slims() -> None:
    graph, keep = network().graph, network().widths["0.5"]
    assert set(keep) == {name for name in graph.groups if name.startswith("backbone/")}
    assert {name: int(kept.sum()) for name, kept in keep.items()} == {
        f"backbone/Conv_{i}/kernel": count for i, count in enumerate((2, 2, 4, 4, 4, 4))
    }


def test_a_width_is_a_narrow_backbone_zeros_and_the_whole_neck() -> None:
    """And the masked backbone with that neck, whose biases of BatchNorm are masked too."""
    graph, keep, v = network().graph, network().widths["0.5"], variables()
    small = jp.slice(graph, v, keep)
    got = jax.jit(jp.linen.resize(MODEL, graph, keep).apply)(small, IMAGES)
    padded = jax.jit(partial(padded_detector, keep))(v, backbone_of(small), IMAGES)
    masked = jax.jit(MODEL.apply)(jp.mask(graph, v, keep), IMAGES)
    whole = jax.jit(MODEL.apply)(v, IMAGES)
    for one, two, three, four in zip(got, padded, masked, whole, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(one, three, rtol=1e-5, atol=1e-5)
        assert np.abs(one - four).max() > 1e-3


def test_the_gradients_are_those_of_the_padded_detector() -> None:
    graph, keep, v = network().graph, network().widths["0.5"], variables()
    model = jp.linen.resize(MODEL, graph, keep)

    def loss(outputs):
        return sum(jnp.sum(jnp.sin(each)) for each in outputs)

    def sliced(v):
        return loss(model.apply(jp.slice(graph, v, keep), IMAGES))

    def padded(v):
        return loss(padded_detector(keep, v, backbone_of(jp.slice(graph, v, keep)), IMAGES))

    one, two = (paths.flatten(jax.jit(jax.grad(f))(v))[0] for f in (sliced, padded))
    for path, gradient in one.items():
        close = 1e-4 * np.abs(gradient).max()
        np.testing.assert_allclose(gradient, two[path], atol=close, err_msg=path)
    assert np.abs(one["params/backbone/Conv_5/kernel"]).max() > 1e-3


def test_overlaps_by_hand() -> None:
    a = np.array([[0, 0, 2, 2], [0, 0, 4, 4.0]])
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6.0]])
    np.testing.assert_allclose(overlaps(a, b), [[1 / 7, 1, 0], [4 / 16, 4 / 16, 0]])
    hull = 9
    got = boxes.generalized_overlap(jnp.array(a[:1]), jnp.array(b[:1]))
    np.testing.assert_allclose(got, [1 / 7 - (hull - 7) / hull], rtol=1e-6)
    apart = boxes.generalized_overlap(jnp.array(a[:1]), jnp.array(b[2:]))
    np.testing.assert_allclose(apart, [0 - (36 - 5) / 36], rtol=1e-6)


def test_what_overlaps_a_better_box_is_suppressed() -> None:
    found = Found(
        np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [20, 20, 30, 30.0]]),
        np.array([0.5, 0.9, 0.7, 0.1]),
    )
    left = suppressed(found, overlap=0.6)
    np.testing.assert_array_equal(left.scores, [0.9, 0.7, 0.1])
    np.testing.assert_array_equal(left.boxes, found.boxes[[1, 2, 3]])


BOX, OTHER, FAR = [0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]


def test_average_precision_by_hand() -> None:
    """Right, wrong, again (wrong), right, of three: precision 1, 1/2, 1/3, 2/4 at those places."""
    found = [
        Found(np.array([BOX, BOX, FAR], float), np.array([0.9, 0.7, 0.8])),
        Found(np.array([OTHER], float), np.array([0.6])),
    ]
    true = [np.array([BOX], float), np.array([OTHER, FAR], float)]
    np.testing.assert_allclose(average_precision(found, true), (1 + 2 / 4) / 3)


@pytest.mark.parametrize(("top", "expected"), [(5.0, 1.0), (5.01, 0.0)])
def test_half_an_overlap_is_enough(top: float, expected: float) -> None:
    found = [Found(np.array([[top, 0, 10, 10]]), np.ones(1))]
    assert average_precision(found, [np.array([BOX], float)]) == expected


def test_a_low_precision_counts_as_the_best_behind_it() -> None:
    """Wrong, right, right of two: precision 0, 1/2, 2/3, so 2/3 at both."""
    found = [Found(np.array([FAR, BOX, OTHER], float), np.array([3.0, 2, 1]))]
    np.testing.assert_allclose(average_precision(found, [np.array([BOX, OTHER], float)]), 2 / 3)


def test_average_precision_of_nothing() -> None:
    none = Found(np.zeros((0, 4)), np.zeros(0))
    assert average_precision([none], [np.array([BOX], float)]) == 0
    assert np.isnan(average_precision([none], [np.zeros((0, 4))]))


def test_places_near_the_center_answer_for_the_smallest_object() -> None:
    """Stride 4, places at 2, 6, ...: 1.5 strides around the center, within the box."""
    true = np.array([[[0, 0, 16, 16], [0, 4, 8, 12], [0, 0, 4, 4], [8, 8, 16, 16]]], np.float32)
    classes = np.array([[1, 2, 0, 3]])
    label, wanted = jax.jit(partial(boxes.assigned, stride=4))(centers(4, 4, 4), true, classes)
    assert label[0].tolist() == [[0, 2, 2, 0], [0, 2, 2, 0], [0, 1, 3, 3], [0, 0, 3, 3]]
    np.testing.assert_array_equal(wanted[0, 0, 1], true[0, 1])
    np.testing.assert_array_equal(wanted[0, 2, 1], true[0, 0])


def test_the_loss_by_hand() -> None:
    """One place with an object of a box that is right, one without: the focal loss of both."""
    logits = jnp.array([[[[0.0, -2], [1, -1]]]])
    reach = jnp.array([[[[0.0, 0, 4, 4], [0, 0, 1, 1]]]])
    label = jnp.array([[[1, 0]]])
    p = 1 / (1 + np.exp([0.0, 2, -1, 1]))
    focal = -0.25 * (1 - p[0]) ** 2 * np.log(p[0])
    focal -= 0.75 * sum(q**2 * np.log(1 - q) for q in p[1:])
    np.testing.assert_allclose(boxes.loss((logits, reach), (label, reach)), focal, rtol=1e-5)
    none = boxes.loss((logits, reach), (jnp.zeros_like(label), reach))
    assert np.isfinite(none)


def test_boxes_are_those_of_the_forms() -> None:
    """Of single forms they are where the labels of the pixels are; and they are always the same."""
    one = shapes.objects(6, size=16, seed=0, each=1)
    again = shapes.objects(6, size=16, seed=0, each=1)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert one.boxes.shape == (6, 1, 4)
    assert one.classes.min() > 0
    labels, two = shapes.generate(40, size=16, seed=3)[1], shapes.objects(40, size=16, seed=3)
    for label, (first, last), classes in zip(labels, two.boxes, two.classes, strict=True):
        rows, columns = np.nonzero(label == classes[1])
        assert classes[1] > 0, "nothing covers the last"
        same = {int(classes[1])} == set(np.unique(label)) - {0}
        if not same and classes[0] != classes[1]:
            top, left, bottom, right = last
            assert (rows.min(), columns.min()) == (top, left)
            assert (rows.max() + 1, columns.max() + 1) == (bottom, right)
        assert (first[:2] < first[2:]).all()
    hidden = two.classes[:, 0] == 0
    assert 0 < hidden.sum() < 20


def tiny(root, **fields) -> Config:
    small = {"image_size": 16, "widths": (4, 4), "neck": 4, "divisor": 2, "grid": (1.0, 0.5)}
    short = {"batch_size": 4, "epochs": 1, "pretrain_epochs": 1}
    return replace(Config(root=root), **(small | short | fields))


@pytest.fixture
def few(monkeypatch) -> None:
    monkeypatch.setattr(parts, "PARTS", {"single": 8, "train": 8, "test": 4})
    monkeypatch.setattr(parts, "SINGLE", 16)


@pytest.mark.usefixtures("few")
def test_the_detector_takes_each_widths_batch_norm_and_freezes_it(tmp_path) -> None:
    """Params have neither BatchNorm nor the first convolutions; a step leaves these as they are."""
    task = detection.task(tiny(tmp_path))
    _, graph, grid = parts.classifier(task)
    _, whole, widths = parts.detector(task.config)
    model = Classifier((4, 4), 3)
    init = jax.jit(partial(model.init, train=False))
    params, rest = slimmable.split(graph, init(jax.random.key(0), IMAGES), grid)
    rng = np.random.default_rng(0)
    params, rest = jax.tree.map(lambda leaf: rng.uniform(size=leaf.shape), (params, rest))
    backbone = Network(model, joint.whole(params, rest), {})
    fresh = jax.jit(task.model.init)(jax.random.key(1), IMAGES)
    found, still = training.adopted(task, fresh, widths, backbone)
    trained = paths.flatten(found)[0]
    assert not any("BatchNorm" in path for path in trained)
    assert sorted(path.rsplit("params/")[1] for path in trained if "backbone" in path) == [
        f"backbone/Conv_{i}/kernel" for i in (2, 3)
    ]
    for width, keep in widths.items():
        here = slimmable.variables(whole, found, still, width, keep)
        there = slimmable.variables(graph, params, rest, width, grid[width])
        jax.tree.map(np.testing.assert_array_equal, backbone_of(here), backbone_of(there))


@pytest.mark.usefixtures("few")
def test_a_run_trains_and_reports(tmp_path, capsys) -> None:
    run = detection.main(tiny(tmp_path))
    assert "triangle" in capsys.readouterr().out
    found = directory.read_json(run / "summary.json")
    assert list(found["precision"]) == ["1.0", "0.5"]
    assert list(found["alone"]) == ["0.5"]
    assert found["macs"]["1.0"] > found["macs"]["0.5"]
    assert (run / "precision.png").exists()
    phases = [record["phase"] for record in directory.read_metrics(run)]
    assert phases == ["classifier", "detector", "classifier-alone", "detector-alone"]
    assert checkpoints.finished(run) == sorted(phases)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"grid": (0.5, 1.0)}, r"grid=\(0.5, 1.0\) must fall"),
        ({"image_size": 18}, r"image_size=18 must be a multiple of 2 \*\* stages"),
        ({"widths": (4,)}, "2 or more"),
        ({"clip": 0.0}, "clip=0.0 must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_an_error(tmp_path, fields, text: str) -> None:
    with pytest.raises(ValueError, match=f"{text}(.|\n)*\nFix: "):
        tiny(tmp_path, **fields)


def test_presets_name_settings_of_the_configuration() -> None:
    for name in detection.PRESETS:
        assert presets.config(name, detection.PRESETS, Config()).preset == name
