"""Pixels that count nowhere, in loss, accuracy and mean IoU; and the folders that have them."""

from functools import partial

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")
pytest.importorskip("tensorflow_datasets", reason="needs the extra [experiments]")

from sklearn.metrics import jaccard_score

import published
from experiments.data import scenes
from experiments.runner import training
from experiments.runner.losses import cross_entropy
from experiments.tasks import segmentation
from experiments.tasks.segmentation import confusion, intersection_over_union
from test_segmentation import Brightest, dataset


def voided(count: int = 7):
    """Images, whose color says the class at most pixels, and labels of which many are void."""
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, (count, 4, 4)).astype(np.int8)
    labels[0] = -1
    return rng.integers(0, 256, (count, 4, 4, 3), np.uint8), labels


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_loss_is_the_mean_over_pixels_that_count() -> None:
    """And its gradient is zero at the others, whatever their logits are."""
    logits = np.random.default_rng(1).normal(size=(7, 4, 4, 3))
    _, labels = voided()
    known = labels >= 0
    expected = -np.mean(
        [log_softmax(x)[y] for x, y in zip(logits[known], labels[known], strict=True)]
    )
    np.testing.assert_allclose(cross_entropy(logits, labels), expected, rtol=1e-6)
    slopes = np.asarray(jax.grad(cross_entropy)(logits.astype(np.float32), labels))
    assert not slopes[~known].any()
    assert np.abs(slopes[known]).min() > 0
    assert cross_entropy(logits[:1], labels[:1]) == 0, "nothing counts"


def test_evaluation_counts_what_counts_alike_in_batches_of_any_size() -> None:
    data = dataset(*voided())
    known = data.test.labels >= 0
    right = (data.test.images.argmax(-1) == data.test.labels)[known]
    logits = ((data.test.images.astype(float) - 100) / 50)[known]
    labels = data.test.labels[known]
    loss = -np.mean([log_softmax(x)[y] for x, y in zip(logits, labels, strict=True)])
    for size in (2, 3, 7):
        found = training.evaluate(Brightest(), {}, data, data.test, batch_size=size)
        assert found.accuracy == pytest.approx(right.mean())
        assert found.loss == pytest.approx(loss, rel=1e-5)


def test_mean_iou_is_that_of_numpy_and_of_scikit_learn() -> None:
    data = dataset(*voided())
    known, taken = data.test.labels >= 0, data.test.images.argmax(-1)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (data.test.labels[known], taken[known]), 1)
    assert expected.sum() < data.test.labels.size
    for size in (3, 100):
        found = confusion(Brightest(), {}, data, data.test, batch_size=size)
        np.testing.assert_array_equal(found, expected)
    scores = jaccard_score(data.test.labels[known], taken[known], average=None)
    np.testing.assert_allclose(intersection_over_union(expected), scores)


@pytest.mark.parametrize("apart", [True, False], ids=["annot", "beside"])
def test_camvid_is_read_as_it_is_published(tmp_path, apart: bool) -> None:
    made = published.camvid(tmp_path, {"train": 5, "val": 2, "test": 3}, apart=apart)
    data = scenes.load("camvid", size=32, width=64, data_dir=tmp_path)
    assert (data.classes, data.image_shape) == (11, (32, 64, 3))
    for split, part in ((data.train, "train"), (data.validation, "val"), (data.test, "test")):
        assert split.size == len(made[part])
        for image, labels, (pixels, true) in zip(*split, made[part], strict=True):
            assert np.abs(image.astype(int) - pixels).mean() < (1e-9 if apart else 5)
            np.testing.assert_array_equal(labels, np.where(true == 11, -1, true))
    small = scenes.load("camvid", size=16, width=16, data_dir=tmp_path, limit=4)
    assert small.train.images.shape == (4, 16, 16, 3)
    assert (small.train.labels[:, :2] == -1).all()
    assert set(np.unique(small.train.labels)) <= set(range(-1, 11)), "no label between two"


def test_voc_is_read_as_it_is_published(tmp_path, monkeypatch) -> None:
    folders = {name: each._replace(validation=2) for name, each in scenes.FOLDERS.items()}
    monkeypatch.setattr(scenes, "FOLDERS", folders)
    made = published.voc_masks(tmp_path, {"train": 6, "val": 3})
    data = scenes.load("voc2012", size=32, width=40, data_dir=tmp_path)
    assert [part.size for part in (data.train, data.validation, data.test)] == [4, 2, 3]
    assert data.classes == 21
    for image, labels, (pixels, true) in zip(*data.test, made["val"], strict=True):
        assert np.abs(image.astype(int) - pixels).mean() < 5
        np.testing.assert_array_equal(labels, np.where(true == 255, -1, true))
    with pytest.raises(ValueError, match=r"VOC2011 is not there, expected PASCAL VOC 2011.\nFix: "):
        scenes.load("voc2011", size=32, data_dir=tmp_path)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def other(path, change) -> None:
    labels = published.numbers((32, 64), 11, 11, 0)
    published.mask(path, change(labels))


LABELS = "camvid/trainannot/train_001.png"


@pytest.mark.parametrize(
    ("place", "damage", "text"),
    [
        (LABELS, lambda p: p.unlink(), r"train_001.png is not there, expected an image of labels"),
        (LABELS, cut, r"train_001.png is not an image of labels: "),
        (LABELS, lambda p: p.write_text("PNG"), r"train_001.png is not an image of labels: "),
        (
            LABELS,
            partial(other, change=lambda x: x + 1),
            r"labels from 0 to 10, or 11: it has \[.*12\]",
        ),
        (
            LABELS,
            partial(other, change=lambda x: x[:8]),
            r"labels of 32 x 64 pixels: it has 8 x 64",
        ),
        (LABELS, lambda p: published.picture(p, (32, 64), 0), r"of one channel .*: RGB"),
        ("camvid/train/train_001.png", cut, r"train_001.png is not an image: OpenCV cannot"),
        (
            "camvid/val/val_000.png",
            lambda p: p.unlink(),
            r"val is not a folder of images: it has none",
        ),
    ],
    ids=["gone", "cut", "text", "range", "shape", "colors", "image", "empty"],
)
def test_what_is_missing_or_damaged_is_named(tmp_path, place, damage, text: str) -> None:
    published.camvid(tmp_path, {"train": 2, "val": 1, "test": 1})
    damage(tmp_path / place)
    with pytest.raises(ValueError, match=rf"{tmp_path}(.|\n)*{text}(.|\n)*\nFix: "):
        scenes.load("camvid", size=32, width=64, data_dir=tmp_path)


def test_lists_that_are_missing_or_empty_are_named(tmp_path) -> None:
    folder = published.voc_folder(tmp_path, 2012)
    folder.mkdir(parents=True)
    load = partial(scenes.load, "voc2012", size=32, data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"Segmentation/train.txt is not there, expected a list"):
        load()
    published.listed(folder, "Segmentation", "train", [])
    with pytest.raises(ValueError, match=r"train.txt is not a list of images: it is empty.\nFix: "):
        load()
    published.voc_masks(tmp_path, {"train": 3, "val": 1})
    with pytest.raises(ValueError, match=r"voc2012 has 3 images .* more than the 100 .*\nFix: "):
        load()


def test_shapes_are_square() -> None:
    with pytest.raises(ValueError, match=r"shapes of 16x32 are not square.\nFix: "):
        scenes.load("shapes", size=16, width=32)


def test_nothing_is_left_of_a_run_whose_data_are_not_there(tmp_path) -> None:
    config = segmentation.Config(dataset="camvid", data_dir=tmp_path, root=tmp_path / "runs")
    with pytest.raises(ValueError, match=r"camvid/train is not there, expected the images of"):
        segmentation.main(config)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
