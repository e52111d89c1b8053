"""The detector with a head of parts: what its head sees, its losses, its cut, and whole runs."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")
pytest.importorskip("pycocotools", reason="needs the extra [experiments]")

import jaxprune as jp
import published
from experiments.data import coco
from experiments.models.instances import SIZE, InstanceDetector, aligned
from experiments.runner import checkpoints, directory
from experiments.tasks import instance_segmentation, keypoints
from experiments.tasks.detection import parts
from experiments.tasks.instances import masks, points, training
from experiments.tasks.instances.kinds import seen
from experiments.tasks.instances.measure import strongest
from same_runs import Interrupted, check_bits, interrupt

RNG = np.random.default_rng(0)
TASKS = {"mask": instance_segmentation, "keypoints": keypoints}


def by_loops(features, box, size, stride, samples=2):
    """RoIAlign as its authors wrote it: every place between the four nearest features."""
    height, width, channels = features.shape
    top, left, bottom, right = (edge / stride - 0.5 for edge in box)
    found = np.zeros((size, size, channels))
    for i in range(size * samples):
        for j in range(size * samples):
            y = top + (i + 0.5) * (bottom - top) / (size * samples)
            x = left + (j + 0.5) * (right - left) / (size * samples)
            if not (-1 < y < height and -1 < x < width):
                continue
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            above = features[y0, x0] * (1 - x + x0) + features[y0, x1] * (x - x0)
            below = features[y1, x0] * (1 - x + x0) + features[y1, x1] * (x - x0)
            found[i // samples, j // samples] += above * (1 - y + y0) + below * (y - y0)
    return found / samples**2


def test_what_is_in_a_box_is_that_of_the_loops() -> None:
    """Boxes within, across the edges, beyond them, of a single place, and empty."""
    features = RNG.normal(size=(2, 5, 7, 3)).astype(np.float32)
    boxes = np.array(
        [
            [[4, 4, 12, 20], [-6, -9, 9, 31], [0, 0, 20, 28]],
            [[30, 3, 44, 9], [7.5, 7.5, 8.5, 8.5], [0, 0, 0, 0]],
        ],
        np.float32,
    )
    got = jax.jit(lambda f, b: aligned(f, b, 3, stride=4))(features, boxes)
    for of_image, image, given in zip(got, features, boxes, strict=True):
        for found, box in zip(of_image, given, strict=True):
            np.testing.assert_allclose(found, by_loops(image, box, 3, 4), atol=1e-5)
    assert np.abs(got[1, 0]).max() == 0, "beyond the edge"


MODEL = InstanceDetector((4, 6, 8), 5, 3, outputs=2)
IMAGES = RNG.normal(size=(2, 16, 16, 3)).astype(np.float32)
BOXES = np.array([[[1, 2, 9, 12], [0, 0, 0, 0]], [[3, 3, 16, 16], [-2, 5, 7, 9]]], np.float32)


@cache
def variables():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), IMAGES, BOXES)
    rng = np.random.default_rng(1)

    def drawn(leaf):
        sign = rng.choice([-0.3, 0.3], leaf.shape) if leaf.ndim > 1 else 1
        return np.asarray(rng.uniform(0.5, 1, leaf.shape) * sign, np.float32)

    return jax.tree.map(drawn, shapes)


@cache
def graph():
    return jp.linen.trace(MODEL, variables(), IMAGES[:1], BOXES[:1])


def test_backbone_neck_and_heads_can_be_cut() -> None:
    found = {name.split("/")[0] for name in graph().groups}
    assert found == {"backbone", "neck", "head", "parts"}
    assert {"parts/Conv_0/kernel", "parts/Conv_1/kernel", "parts/ConvTranspose_0/kernel"} <= set(
        graph().groups
    )


def test_a_cut_network_is_the_masked_one() -> None:
    """In everything that it gives, for a random half of every group."""
    rng, v = np.random.default_rng(2), variables()
    keep = {
        name: rng.permutation(group.size) < max(1, group.size // 2)
        for name, group in graph().groups.items()
    }
    small = jp.linen.resize(MODEL, graph(), keep)
    got = jax.jit(small.apply)(jp.slice(graph(), v, keep), IMAGES, BOXES)
    masked = jax.jit(MODEL.apply)(jp.mask(graph(), v, keep), IMAGES, BOXES)
    whole = jax.jit(MODEL.apply)(v, IMAGES, BOXES)
    assert got[1].shape == (2, 2, SIZE, SIZE, 2)
    for one, two, three in zip(*map(jax.tree.leaves, (got, masked, whole)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5 * np.abs(two).max())
        assert np.abs(one - three).max() > 1e-3


def test_the_head_sees_a_box_as_it_is_elsewhere() -> None:
    """The same where object and box move together, by the coarsest stride; not in another box."""
    model = InstanceDetector((2, 2, 2), 2, 1)
    images = np.zeros((1, 64, 64, 3), np.float32)
    images[0, 22:34, 20:36] = RNG.normal(size=(12, 16, 3))
    v = jax.jit(model.init)(jax.random.key(0), images, np.zeros((1, 1, 4), np.float32))
    box = np.array([[[22, 20, 34, 36]]], np.float32)
    apply = jax.jit(model.apply)
    here = apply(v, images, box)[1]
    there = apply(v, np.roll(images, 8, axis=1), box + np.array([8, 0, 8, 0], np.float32))[1]
    np.testing.assert_allclose(here, there, atol=1e-6)
    other = apply(v, images, box + np.array([8, 0, 8, 0], np.float32))[1]
    assert np.abs(here - other).max() > 1e-4


def test_the_loss_of_masks_by_hand() -> None:
    logits = RNG.normal(size=(2, 3, SIZE, SIZE, 1)).astype(np.float32)
    inside = RNG.random((2, 3, SIZE, SIZE)) < 0.5
    there = np.array([[True, False, True], [False, False, True]])
    likely = 1 / (1 + np.exp(-logits[..., 0].astype(np.float64)))
    each = -np.log(np.where(inside, likely, 1 - likely))[there]
    np.testing.assert_allclose(masks.loss(logits, (inside, there)), np.mean(each), rtol=1e-5)
    assert masks.loss(logits, (inside, np.zeros_like(there))) == 0


def test_the_loss_of_keypoints_by_hand() -> None:
    logits = RNG.normal(size=(2, 1, SIZE, SIZE, 3)).astype(np.float32)
    place = RNG.integers(SIZE * SIZE, size=(2, 1, 3))
    counts = np.array([[[True, False, True]], [[False, True, False]]])
    each = []
    for image, box, point in np.argwhere(counts):
        heat = np.exp(logits[image, box, :, :, point].astype(np.float64))
        row, column = divmod(place[image, box, point], SIZE)
        each.append(-np.log(heat[row, column] / heat.sum()))
    np.testing.assert_allclose(points.loss(logits, (place, counts)), np.mean(each), rtol=1e-5)
    assert points.loss(logits, (place, np.zeros_like(counts))) == 0


def test_a_mask_comes_back_from_its_box() -> None:
    """What a perfect head says of a disc in a box, cut at the edge of the image, is that disc."""
    rows, columns = np.mgrid[:40, :40] + 0.5
    disc = np.hypot(rows - 10, columns - 28) < 13
    run_lengths = np.array([[coco.encoded(disc), None]], object)
    boxes = np.array([[[0, 15, 23, 40], [0, 0, 0, 0]]], np.float32)
    there, flips = np.array([[True, False]]), np.array([False])
    wanted, same = masks.targets(run_lengths, there, flips, boxes, 40)
    assert same is there
    assert not np.asarray(wanted)[0, 1].any()
    logits = np.where(np.asarray(wanted)[0, 0], 9.0, -9.0)[..., None]
    found = masks.result(logits, boxes[0, 0].astype(float), 40, 40)["segmentation"]
    found = coco.pixels(found).astype(bool)
    assert (found & disc).sum() / (found | disc).sum() > 0.93
    assert not found[24:].any()
    assert not found[:, :14].any()
    turned = boxes[..., [0, 3, 2, 1]] * [1, -1, 1, -1] + [0, 40, 0, 40] * there[..., None]
    again, _ = masks.targets(run_lengths, there, ~flips, turned.astype(np.float32), 40)
    np.testing.assert_array_equal(again[0, 0], np.asarray(wanted)[0, 0][:, ::-1])


def test_keypoints_come_back_from_their_box() -> None:
    """To half a place; those beside the box or not labeled do not count, nor those of no object."""
    given = np.array([[[[8, 20, 2], [12.4, 31, 1], [3, 20, 2], [9, 25, 0]]] * 2], np.float32)
    boxes = np.array([[[4, 16, 24, 36]] * 2], np.float32)
    there, flips = np.array([[True, False]]), np.array([False])
    mirrored = (1, 0, 2, 3)
    place, counts = points.targets(given, there, flips, boxes, 40, mirrored=mirrored)
    assert counts.tolist() == [[[True, True, False, False], [False] * 4]]
    logits = np.zeros((SIZE * SIZE, 4))
    logits[place[0, 0], range(4)] = 1
    found = points.result(logits.reshape(SIZE, SIZE, 4), boxes[0, 0].astype(float), 40, 40)
    x, y, one = np.reshape(found["keypoints"], (4, 3))[:2].T
    np.testing.assert_allclose(y + 0.5, given[0, 0, :2, 0], atol=20 / SIZE / 2 + 1e-6)
    np.testing.assert_allclose(x + 0.5, given[0, 0, :2, 1], atol=20 / SIZE / 2 + 1e-6)
    assert one.tolist() == [1, 1]
    turned = np.array([[[4, 4, 24, 24]] * 2], np.float32)
    other, _ = points.targets(given, there, ~flips, turned, 40, mirrored=mirrored)
    (row, column), (turned_row, turned_column) = (
        np.divmod(each[0, 0, :2], SIZE) for each in (place, other)
    )
    assert turned_row.tolist() == row[::-1].tolist(), "left is right"
    np.testing.assert_allclose(turned_column, SIZE - 1 - column[::-1], atol=1)


def test_objects_are_chosen_at_random_from_those_that_count() -> None:
    labeled = np.array([[True, False, True, True], [False] * 4])
    draws = [training.chosen(np.random.default_rng(i), labeled, 2) for i in range(30)]
    assert {frozenset(of[0].tolist()) for of, _ in draws} == {
        frozenset(pair) for pair in ((0, 2), (0, 3), (2, 3))
    }
    assert all(there.tolist() == [[True, True], [False, False]] for _, there in draws)
    of, there = training.chosen(np.random.default_rng(0), labeled, 6)
    assert sorted(of[0, :3].tolist()) == [0, 2, 3]
    assert there.sum(axis=1).tolist() == [3, 0]
    assert of.max() < 4


def test_edges_move_by_a_share_of_the_sides() -> None:
    box = np.tile(np.array([10, 20, 30, 60], np.float32), (500, 1))
    apart = training.moved(np.random.default_rng(0), box, 0.1) - box
    assert (np.abs(apart) <= np.array([2, 4, 2, 4]) + 1e-5).all()
    assert (np.abs(apart).max(axis=0) > np.array([1.9, 3.8, 1.9, 3.8])).all()


def test_the_head_of_keypoints_sees_a_margin() -> None:
    box = np.array([[10, 20, 30, 60.0]])
    kind = keypoints.EXPERIMENT.task.args[0]["shapes"]
    np.testing.assert_allclose(seen(kind, box), [[7, 14, 33, 66]])
    np.testing.assert_array_equal(seen(masks.KIND, box), box)


def test_every_loss_counts_the_same_in_the_scores() -> None:
    """What only the smaller one needs is not lost beside the larger one."""
    small = {"a": np.array([1.0, 2]), "b": np.array([1.0])}
    large = {"a": np.array([0.0, 0]), "b": np.array([900.0])}
    found = training.balanced([small, large])
    np.testing.assert_allclose(found["a"], [0.25, 0.5])
    np.testing.assert_allclose(found["b"], [1.25])


def test_the_strongest_boxes_of_all_classes() -> None:
    """Of two places and two classes; what reaches beyond the image is cut."""
    places = np.array([[[[-4, 0, 10, 10], [20, 20, 40, 30]]]], np.float32)
    logits = np.array([[[[0.5, -1], [2, 1]]]], np.float32)
    ((boxes, scores),) = strongest(logits, places, 32)
    assert scores.tolist() == [2, 1, 0.5, -1]
    assert boxes.classes.tolist() == [1, 2, 1, 2]
    np.testing.assert_array_equal(boxes.boxes[1:3], [[20, 20, 32, 30], [0, 0, 10, 10]])


def tiny(name: str, root, **fields):
    small = {"image_size": 16, "widths": (4, 4, 4), "neck": 4, "divisor": 2}
    short = {"batch_size": 4, "epochs": 2, "pretrain_epochs": 1, "finetune_epochs": 1}
    return replace(TASKS[name].EXPERIMENT.config, root=root, **(small | short | fields))


@pytest.fixture
def few(monkeypatch) -> None:
    monkeypatch.setattr(parts, "PARTS", {"single": 8, "train": 8, "test": 4})
    monkeypatch.setattr(parts, "SINGLE", 16)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", TASKS)
def test_a_run_cuts_to_half_and_goes_on_to_the_bit(tmp_path, monkeypatch, capsys, name) -> None:
    config = tiny(name, tmp_path / "whole", resume=True)
    whole = TASKS[name].main(config)
    assert f"{name} AP" in " ".join(capsys.readouterr().out.split())
    found = directory.read_json(whole / "summary.json")
    assert list(found["average_precision"]) == ["1.0", "pruned", "fine-tuned"]
    assert list(found["average_precision"]["pruned"]) == ["box", name]
    assert found["macs"]["fine-tuned"] == found["macs"]["pruned"] <= 0.5 * found["macs"]["1.0"]
    assert {*checkpoints.finished(whole)} == {"classifier", "detector", "pruned", "fine-tuned"}
    config = replace(config, root=tmp_path / "broken")
    for module, function, at, before in (
        (directory, "append_metrics", 2, False),  # within the detector
        (checkpoints, "save", 2, True),  # before the cut is kept
    ):
        with monkeypatch.context() as patch:
            interrupt(patch, module, function, at, before=before)
            with pytest.raises(Interrupted):
                TASKS[name].main(config)
    again = TASKS[name].main(config)
    check_bits(again, whole, ["average_precision", "macs", "widths"])


@pytest.mark.parametrize("name", TASKS)
def test_a_run_on_photographs_of_two_widths(tmp_path, monkeypatch, name) -> None:
    monkeypatch.setattr(parts, "SINGLE", 16)
    published.coco(tmp_path)
    fields = {"dataset": "coco", "data_dir": tmp_path, "flip": True, "grid": (1.0, 0.5)}
    run = TASKS[name].main(tiny(name, tmp_path, batch_size=1, epochs=1, **fields))
    found = directory.read_json(run / "summary.json")["average_precision"]
    assert list(found) == ["1.0", "0.5", "pruned", "fine-tuned"]
    assert list(found["1.0"]) == ["box", name]
