"""Masks and keypoints in the layout of COCO and of drawn shapes, and how they are measured."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")
pytest.importorskip("cv2", reason="needs the extra [experiments]")
pytest.importorskip("pycocotools", reason="needs the extra [experiments]")

import cv2

import published
from experiments.data import coco, instances, shapes
from experiments.runner import processes
from experiments.tasks import instance_segmentation, keypoints
from experiments.tasks.instances.measure import average_precision

POINTS = instances.keypoints(17)
load = partial(instances.photographs, size=40, single=16)


def test_masks_are_read_as_they_are_published(tmp_path) -> None:
    """The triangle is half as wide in the square; of the crowd no mask is read."""
    published.coco(tmp_path)
    found = load(instances.MASKS, data_dir=tmp_path)
    np.testing.assert_array_equal(found.test.boxes, [[[10, 0, 40, 10], [0, 20, 20, 40]]])
    assert found.test.classes.tolist() == [[1, -coco.CLASSES.index("zebra") - 1]]
    triangle, crowd = found.train.parts[0]
    assert crowd is None
    rows, columns = np.mgrid[:40, :40] + 0.5
    wanted = (rows > 10) & (columns / 10 + (rows - 10) / 30 < 1)
    got = coco.pixels(triangle).astype(bool)
    assert (got & wanted).sum() / (got | wanted).sum() > 0.9
    assert [item["id"] for item in found.truth["annotations"]] == [1, 2, 3], "as in the file"
    assert len(found.classes) == 80


@pytest.mark.parametrize("packed", [True, False], ids=["bytes", "numbers"])
def test_run_lengths_of_other_sizes_are_scaled(packed: bool) -> None:
    pixels = (np.random.default_rng(0).random((6, 9)) < 0.5).astype(np.uint8)
    edges = np.flatnonzero(np.diff(pixels.ravel("F"))) + 1
    counts = [*([] if pixels[0, 0] == 0 else [0]), *np.diff([0, *edges, 54]).tolist()]
    shape = coco.encoded(pixels) if packed else {"size": [6, 9], "counts": counts}
    found = coco.pixels(coco.mask({"segmentation": shape}, 6, 9, 12))
    nearest = cv2.resize(pixels, (12, 12), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(found, nearest)
    whole = (np.random.default_rng(1).random((6, 6)) < 0.5).astype(np.uint8)
    same = coco.mask({"segmentation": coco.encoded(whole)}, 6, 6, 6)
    np.testing.assert_array_equal(coco.pixels(same), whole)


def test_run_lengths_of_another_image_are_an_error() -> None:
    wrong = {"id": 7, "segmentation": coco.encoded(np.ones((6, 9)))}
    with pytest.raises(ValueError, match=r"annotation 7 has run lengths of 6 x 9, .* 9 x 6"):
        coco.mask(wrong, 9, 6, 12)


def test_keypoints_are_read_as_they_are_published(tmp_path) -> None:
    """They count pixels, whose middles are half a pixel further; x is halved in the square."""
    published.coco(tmp_path)
    found = load(POINTS, data_dir=tmp_path)
    assert found.train.parts.shape == (1, 2, 17, 3)
    np.testing.assert_array_equal(found.train.parts[0, 0, :2], [[12.5, 2.25, 2], [11.5, 7.75, 1]])
    assert not found.train.parts[0, 0, 2:, 2].any()
    assert not found.train.parts[0, 1].any(), "a crowd"
    assert found.classes == ("person",)
    assert POINTS.labeled(found.train.parts).tolist() == [[True, False]]


MASKS_FILE = "coco/annotations/instances_train2017.json"
POINTS_FILE = "coco/annotations/person_keypoints_train2017.json"


def changed(old: str, new: str, path: Path) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("reader", "place", "damage", "text"),
    [
        (instances.MASKS, MASKS_FILE, Path.unlink, "is not there, expected boxes"),
        (instances.MASKS, MASKS_FILE, partial(changed, "segmentation", "mask"), "no segmentation"),
        (instances.MASKS, MASKS_FILE, partial(changed, ", 0, 40]]", "]]"), "a polygon of less"),
        (instances.MASKS, MASKS_FILE, partial(changed, '"iscrowd": 0', '"iscrowd": 1'), "none of"),
        (POINTS, POINTS_FILE, Path.unlink, "is not there, expected boxes"),
        (POINTS, POINTS_FILE, partial(changed, "[4, 12, 2, ", "["), "48 numbers .* expected 51"),
        (POINTS, POINTS_FILE, partial(changed, '"keypoints"', '"points"'), "has 0 numbers"),
        (POINTS, POINTS_FILE, partial(changed, "12, 2, 15, 11, 1", "12, 0, 15, 11, 0"), "none of"),
        (POINTS, POINTS_FILE, partial(changed, "person", "yeti"), "an object is 'yeti'"),
    ],
)
def test_what_is_missing_or_damaged_is_named(tmp_path, reader, place, damage, text) -> None:
    published.coco(tmp_path)
    damage(tmp_path / place)
    with pytest.raises(ValueError, match=rf"{tmp_path / place}(.|\n)*{text}(.|\n)*\nFix: "):
        load(reader, data_dir=tmp_path)


@pytest.mark.parametrize("module", [instance_segmentation, keypoints])
def test_a_data_set_that_is_none_is_an_error(module) -> None:
    experiment = module.EXPERIMENT
    config = type(experiment.config)(dataset="pets")
    with pytest.raises(ValueError, match=r"no data set 'pets'.\nFix: one of \['coco', 'shapes'\]"):
        experiment.task(config)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"widths": (4, 4), "image_size": 16}, "3 or more"),
        ({"keep_macs": 1.0}, "keep_macs=1.0 must be between 0 and 1"),
        ({"jitter": 0.5}, "jitter=0.5 must be from 0 to 0.5"),
        ({"boxes": 0}, "boxes=0 must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_an_error(fields, text: str) -> None:
    with pytest.raises(ValueError, match=f"{text}(.|\n)*\nFix: "):
        type(keypoints.EXPERIMENT.config)(**fields)


def test_drawn_masks_are_what_is_seen_of_the_forms() -> None:
    """Painted over each other they are the labels of the pixels, where none is left out."""
    images, value = shapes.instances(40, size=16, seed=3)
    assert (images == shapes.objects(40, size=16, seed=3).images).all()
    labels, whole = shapes.generate(40, size=16, seed=3)[1], 0
    for row, label in enumerate(labels):
        here = [item for item in value["annotations"] if item["image_id"] == row]
        masks = [coco.pixels(item["segmentation"]) for item in here]
        painted = sum(m * item["category_id"] for m, item in zip(masks, here, strict=True))
        assert set(np.unique(painted - label * (painted > 0))) <= {0}
        if len(here) == shapes.OBJECTS:
            np.testing.assert_array_equal(painted, label)
            whole += 1
        for mask, item in zip(masks, here, strict=True):
            left, top, width, height = map(int, item["bbox"])
            assert mask.sum() == mask[top : top + height, left : left + width].sum() == item["area"]
    assert 20 < whole < 40
    assert [item["id"] for item in value["annotations"]] == [
        *range(1, len(value["annotations"]) + 1)
    ]


def test_drawn_keypoints_are_at_the_edges_of_the_boxes() -> None:
    """Seen ones are in the mask, hidden ones not; at the edge of the image there is none."""
    _, value = shapes.instances(60, size=32, seed=0)
    counts = np.zeros(3, int)
    for item in value["annotations"]:
        left, top, width, height = item["bbox"]
        edges = (top, left, top + height - 1, left + width - 1)
        ends = (0, 0, 31, 31)
        mask = coco.pixels(item["segmentation"])
        points = np.reshape(item["keypoints"], (4, 3))
        for number, (x, y, seen) in enumerate(points):
            counts[int(seen)] += 1
            assert (seen == 0) == (edges[number] == ends[number])
            if seen:
                assert (x if number % 2 else y) == edges[number]
                assert mask[round(y), round(x)] == seen - 1
        assert item["num_keypoints"] == (points[:, 2] > 0).sum()
    assert (counts > 5).all()


def perfect(value) -> list[dict]:
    return [
        {"score": 1.0, **{k: v for k, v in item.items() if k not in ("id", "iscrowd", "area")}}
        for item in value["annotations"]
    ]


@pytest.mark.parametrize("judged", ["bbox", "segm", "keypoints"])
def test_what_is_as_it_should_be_has_a_precision_of_one(judged) -> None:
    _, value = shapes.instances(10, size=32, seed=0)
    found = average_precision(value, perfect(value), judged, (0.05,) * 4)
    assert found == {"AP": 1.0, "AP50": 1.0, "AP75": 1.0}
    assert "ignore" not in value["annotations"][0], "what is given stays as it is"
    assert average_precision(value, [], judged)["AP"] == 0
    nothing = {**value, "annotations": []}
    assert np.isnan(average_precision(nothing, perfect(value), judged, (0.05,) * 4)["AP"])


def test_the_similarity_of_keypoints_has_these_sigmas() -> None:
    """exp(-d^2 / (2 area (2 sigma)^2)) is 0.77 for each: right at six of the ten thresholds."""
    _, value = shapes.instances(10, size=32, seed=0)
    results = perfect(value)
    for item, result in zip(value["annotations"], results, strict=True):
        away = np.sqrt(-np.log(0.77) * 2 * item["area"] * (2 * 0.05) ** 2)
        moved = np.reshape(item["keypoints"], (4, 3)) + np.array([away, 0, 0])
        result["keypoints"] = moved.ravel().tolist()
    found = average_precision(value, results, "keypoints", (0.05,) * 4)
    assert found == {"AP": pytest.approx(0.6), "AP50": 1.0, "AP75": 1.0}


def test_processes_compare_masks_by_what_they_are() -> None:
    """Not by where they lie in the memory of one."""
    masks = [np.array([coco.encoded(np.eye(4) * size), None], object) for size in (1, 1, 0)]
    one, same, other = (processes._digest((each, {"a": 1})) for each in masks)
    assert one == same != other
