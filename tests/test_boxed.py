"""Boxes of photographs in their published layouts, and average precision against COCO's code."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")
pytest.importorskip("cv2", reason="needs the extra [experiments]")

import published
from experiments.data import boxed, coco, objects
from experiments.data.voc import CLASSES
from experiments.runner import directory
from experiments.tasks import detection
from experiments.tasks.detection import boxes, parts
from experiments.tasks.detection.boxes import Found, average_precision

DOG, CAT = (CLASSES.index(name) + 1 for name in ("dog", "cat"))
load = partial(boxed.load, size=40, single=16)


def test_voc_is_read_as_it_is_published(tmp_path) -> None:
    """Pixels count from 1 to the last there; a box shrinks with its image; difficult is below 0."""
    published.voc_boxes(tmp_path)
    found = load("voc2012", data_dir=tmp_path)
    assert found.train.images.shape == (2, 40, 40, 3)
    assert found.test.images.shape == (1, 40, 40, 3)
    expected = [[10, 0, 40, 10], [0, 20, 20, 40]]
    np.testing.assert_array_equal(found.test.boxes, [expected])
    np.testing.assert_array_equal(found.train.boxes, [expected, np.zeros((2, 4))])
    assert found.train.classes.tolist() == [[DOG, -CAT], [0, 0]]


def test_coco_is_read_as_it_is_published(tmp_path) -> None:
    published.coco(tmp_path)
    found = load("coco", data_dir=tmp_path).test
    np.testing.assert_array_equal(found.boxes, [[[10, 0, 40, 10], [0, 20, 20, 40]]])
    assert found.classes.tolist() == [[1, -coco.CLASSES.index("zebra") - 1]]
    assert len(set(coco.CLASSES)) == 80


@pytest.mark.parametrize("xml", [True, False], ids=["xml", "json"])
def test_raccoons_have_the_same_parts_every_time(tmp_path, xml: bool) -> None:
    published.raccoons(tmp_path, 21, xml=xml)
    found = load("raccoon", data_dir=tmp_path)
    lefts = [part.boxes[:, 0, 1] * 2 - 10 for part in (found.train, found.test)]
    assert sorted(np.concatenate(lefts).tolist()) == list(range(21))
    assert sorted(lefts[1].tolist()) == [14, 18, 20], "by a hash of the names"
    assert (found.train.classes == 1).all()
    assert len(load("raccoon", data_dir=tmp_path, limit=4).train.images) == 4


def test_pieces_are_the_objects_and_ground_without_them() -> None:
    """Objects are white on black: a piece of one is white, one of ground mostly black."""
    images = np.zeros((6, 32, 32, 3), np.uint8)
    images[:, 4:12, 8:24] = 255
    places = np.tile(np.float32([[[4, 8, 12, 24], [20, 20, 30, 30]]]), (6, 1, 1))
    given = objects.Objects(images, places, np.tile(np.int32([[2, -1]]), (6, 1)))
    found = objects.pieces(given, 8, ground=3)
    assert found.images.shape[1:] == (8, 8, 3)
    assert sorted(set(found.classes[:, 0].tolist())) == [2, 3]
    assert (found.images[found.classes[:, 0] == 2] == 255).all()
    assert found.images[found.classes[:, 0] == 3].mean() < 255 * 0.3


def test_an_image_in_the_mirror_has_its_boxes_there() -> None:
    images = np.zeros((2, 8, 10, 3), np.uint8)
    images[:, 1:3, 2:7] = 255
    places = np.tile(np.float32([[[1, 2, 3, 7]]]), (2, 1, 1))
    flipped, where = objects.mirrored(np.array([True, False]), images, places)
    np.testing.assert_array_equal(flipped[1], images[1])
    np.testing.assert_array_equal(where, [[[1, 3, 3, 8]], [[1, 2, 3, 7]]])
    assert (flipped[0, 1:3, 3:8] == 255).all()
    assert flipped[0].sum() == images[0].sum()


XML = "VOCdevkit/VOC2012/Annotations/2008_000001.xml"
JSON = "coco/annotations/instances_train2017.json"


def changed(old: str, new: str):
    return lambda path: path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("name", "place", "damage", "text"),
    [
        ("voc2012", XML, lambda p: p.unlink(), "is not there, expected the objects of an image"),
        ("voc2012", XML, lambda p: p.write_text("<a>"), "is not the XML of PASCAL VOC: "),
        ("voc2012", XML, changed("xmax", "x"), r"an object has no bndbox/xmax"),
        ("voc2012", XML, changed(">20<", ">wide<"), r"could not convert .*'wide'"),
        ("voc2012", XML, changed(">20<", ">0<"), r"a box of \[\[10.* is empty"),
        ("voc2012", XML, changed("dog", "yeti"), r"an object is 'yeti', none of aeroplane"),
        ("coco", JSON, lambda p: p.unlink(), "is not there, expected boxes"),
        ("coco", JSON, lambda p: p.write_text('{"images'), "is not JSON: "),
        ("coco", JSON, lambda p: p.write_text("[]"), "is not a JSON object: it is a list"),
        ("coco", JSON, changed("categories", "kinds"), r"instances of COCO: KeyError\('cat"),
        ("coco", JSON, changed("person", "yeti"), "an object is 'yeti'"),
        ("coco", "coco/train2017/000000000009.jpg", lambda p: p.write_bytes(b""), "not an image"),
        ("raccoon", "raccoon/boxes.json", changed("labels", "x"), r"KeyError\('labels'\)"),
        ("raccoon", "raccoon/boxes.json", lambda p: p.write_text("{}"), "has 0 images to train"),
    ],
)
def test_what_is_missing_or_damaged_is_named(tmp_path, name, place, damage, text: str) -> None:
    published.voc_boxes(tmp_path)
    published.coco(tmp_path)
    published.raccoons(tmp_path, 21, xml=False)
    damage(tmp_path / place)
    with pytest.raises(ValueError, match=rf"{tmp_path}(.|\n)*{text}(.|\n)*\nFix: "):
        load(name, data_dir=tmp_path)


def test_a_data_set_that_is_none_is_an_error(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"no data set 'pets'.\nFix: one of \['coco', 'raccoon'"):
        detection.task(detection.Config(dataset="pets"))
    with pytest.raises(ValueError, match=r"raccoon is not there, expected the raccoons.\nFix: "):
        load("raccoon", data_dir=tmp_path)


def scenes(seed: int) -> tuple[list[Found], list[np.ndarray]]:
    """Objects that are apart, as a grid, and detections near them and elsewhere."""
    rng, found, true = np.random.default_rng(seed), [], []
    for _ in range(12):
        places = 40 * np.argwhere(rng.random((4, 4)) < 0.3).astype(float)
        boxes = np.concatenate([places, places + rng.uniform(15, 30, places.shape)], axis=1)
        near = boxes.repeat(3, axis=0) + rng.normal(0, 3, (3 * len(boxes), 4))
        low = rng.uniform(0, 120, (5, 2))
        near = np.concatenate([near, np.concatenate([low, low + 20], axis=1)])
        found.append(Found(near, rng.permutation(len(near)) + rng.random(len(near))))
        true.append(boxes)
    return found, true


def by_coco(found: list[Found], true: list[np.ndarray], overlap: float) -> np.ndarray:
    """Precision at the 101 recalls, as COCO's code has it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def coco_box(box):
        top, left, bottom, right = box.tolist()
        return {"bbox": [left, top, right - left, bottom - top], "area": (right - left) ** 2}

    def entries(each, scores):
        pairs = [zip(*both, strict=True) for both in zip(each, scores, strict=True)]
        rows = [(i, *pair) for i, both in enumerate(pairs) for pair in both]
        same = {"category_id": 1, "iscrowd": 0}
        return [
            {"id": n, "image_id": i, "score": float(score), **same, **coco_box(box)}
            for n, (i, box, score) in enumerate(rows, 1)
        ]

    def dataset(annotations):
        made = COCO()
        made.dataset = {
            "images": [{"id": i} for i in range(len(true))],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "one"}],
        }
        made.createIndex()
        return made

    ones = [np.ones(len(each)) for each in true]
    scores = [each.scores for each in found]
    judge = COCOeval(
        dataset(entries(true, ones)), dataset(entries([f.boxes for f in found], scores)), "bbox"
    )
    judge.params.iouThrs = np.array([overlap])
    judge.evaluate()
    judge.accumulate()
    return judge.eval["precision"][0, :, 0, 0, -1]


@pytest.mark.parametrize("overlap", [0.5, 0.75])
def test_the_curve_is_that_of_the_code_of_coco(overlap: float) -> None:
    """Where objects are apart, so that each detection has one box to find."""
    pytest.importorskip("pycocotools", reason="needs the extra [dev]")
    for seed in range(5):
        found, true = scenes(seed)
        recall, precision = boxes.curve(found, true, overlap=overlap)
        at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        got = np.append(precision, 0.0)[at]
        expected = by_coco(found, true, overlap)
        np.testing.assert_allclose(got, expected, atol=1e-12)
        assert 0.05 < expected.mean() < 0.95
        area = average_precision(found, true, overlap=overlap)
        assert area == pytest.approx(expected.mean(), abs=0.02)


def test_what_is_difficult_is_neither_found_nor_missed() -> None:
    """Best score at the difficult box, a second there too, then the easy one: all precise."""
    box, hard = np.float32([[0, 0, 10, 10]]), np.float32([[20, 20, 30, 30]])
    found = [Found(np.concatenate([hard, hard, box]), np.array([0.9, 0.8, 0.7]))]
    assert average_precision(found, [box], [hard]) == 1
    assert average_precision(found, [box]) == pytest.approx(1 / 3)
    assert np.isnan(average_precision(found, [box[:0]], [hard]))


def test_a_run_on_photographs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(parts, "SINGLE", 16)
    published.raccoons(tmp_path, 21, xml=True)
    small = {"image_size": 16, "widths": (4, 4), "neck": 4, "divisor": 2, "grid": (1.0, 0.5)}
    short = {"batch_size": 4, "epochs": 1, "pretrain_epochs": 1, "flip": True}
    config = detection.Config(dataset="raccoon", data_dir=tmp_path, root=tmp_path)
    run = detection.main(replace(config, **small, **short))
    found = directory.read_json(run / "summary.json")
    assert list(found["precision"]["1.0"]) == ["raccoon"]
    assert "raccoon" in capsys.readouterr().out
