"""CUB-200-2011 as it is published and prepared, and the transfer of a network to its classes."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra [experiments]")
pytest.importorskip("grain", reason="needs the extra [experiments]")

import tensorflow_datasets as tfds

import published
from experiments import data
from experiments.data import birds, imagenet
from experiments.methods import dense, gate_decorator
from experiments.procedures import starting
from experiments.runner import checkpoints, directory, presets
from experiments.runner import task as tasks
from experiments.runner.experiment import execute
from experiments.tasks import classification
from jaxprune.schedule import Training, constant
from same_runs import Interrupted, check_bits, interrupt

NAME = "caltech_birds2011"
COUNTS = {"train": 14, "test": 5}
HELD_OUT = 4
SIZE = 32


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(birds, "HELD_OUT", HELD_OUT)
    monkeypatch.setattr(imagenet, "SIZE", SIZE)


def names(images) -> dict[str, int]:
    return {
        "/".join(Path(images[i]["path"]).parts[-2:]): images[i]["label"] for i in range(len(images))
    }


def test_birds_are_read_as_they_are_published(tmp_path) -> None:
    """By the split and the classes of the lists, from 0; held out are the same of all classes."""
    made = published.birds(tmp_path, COUNTS)
    source = partial(birds.source, data_dir=tmp_path)
    assert names(source("test")) == made["test"]
    train, validation = names(source("train")), names(source("validation"))
    assert (len(train), len(validation)) == (10, HELD_OUT)
    assert train | validation == made["train"]
    assert names(source("train")) == train
    assert list(names(source("train", limit=3))) == list(train)[:3]
    assert names(source("train", limit=99)) == train


def test_a_stream_of_birds_is_as_one_of_imagenet(tmp_path) -> None:
    made = published.birds(tmp_path, COUNTS)
    dataset = data.load(NAME, data_dir=tmp_path, limit=8)
    assert (dataset.classes, dataset.image_shape, dataset.mean) == (
        200,
        (SIZE, SIZE, 3),
        imagenet.MEAN,
    )
    parts = [dataset.train, dataset.validation, dataset.test]
    assert [part.size for part in parts] == [8, HELD_OUT, 5]
    assert isinstance(dataset.test, data.Stream)
    (batch,) = dataset.test.batches(5, None)
    assert batch.images.shape == (5, SIZE, SIZE, 3)
    assert batch.labels.tolist() == [label for _, label in sorted(made["test"].items())]


def test_birds_are_read_as_tfds_has_prepared_them(tmp_path) -> None:
    made = published.birds(tmp_path / "folder", COUNTS)
    root = tmp_path / "folder" / "CUB_200_2011" / "images"
    pairs = {
        part: {((root / name).read_bytes(), label) for name, label in found.items()}
        for part, found in made.items()
    }
    features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(num_classes=200),
        "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
    }
    mask = {"segmentation_mask": b"is never decoded"}
    rows = {
        part: [{"image": image, "label": label, **mask} for image, label in sorted(found)]
        for part, found in pairs.items()
    }
    published.prepared(tmp_path, "CaltechBirds2011", "0.2.0", features, rows)
    train, validation, test = (
        [(images[i]["image"], images[i]["label"]) for i in range(len(images))]
        for images in (
            birds.source(part, data_dir=tmp_path) for part in ("train", "validation", "test")
        )
    )
    assert set(test) == pairs["test"]
    assert set(train + validation) == pairs["train"]
    assert [len(part) for part in (train, validation, test)] == [10, HELD_OUT, 5]
    for limit, size in ((3, 3), (99, 10)):
        assert data.load(NAME, data_dir=tmp_path, limit=limit).train.size == size


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("train_test_split", None, "split.txt is not there, expected a list of CUB"),
        ("train_test_split", lambda rows: rows[:-1], "split.txt is not about .*: of image 19 only"),
        ("train_test_split", lambda rows: ["1 2", *rows[1:]], "from 0 to 1: image 1 has '2'"),
        (
            "train_test_split",
            lambda rows: [f"{row.split()[0]} 0" for row in rows],
            "none for trai",
        ),
        ("image_class_labels", lambda rows: ["1 0", *rows[1:]], "from 1 to 200: image 1 has '0'"),
        ("images", lambda rows: ["1", *rows[1:]], "images.txt is not a list, the number .*: 1.\n"),
        ("images", lambda rows: [*rows, rows[0]], "line for each image: an image has two"),
        ("images", lambda rows: ["1 a/b.jpg", *rows[1:]], "images/a/b.jpg is not there, expected"),
    ],
)
def test_what_is_missing_or_damaged_is_an_error_with_its_path(tmp_path, name, change, text) -> None:
    published.birds(tmp_path, COUNTS)
    file = tmp_path / "CUB_200_2011" / f"{name}.txt"
    rows = file.read_text().splitlines()
    file.unlink()
    if change:
        file.write_text("\n".join(change(rows)))
    with pytest.raises(ValueError, match=rf"CUB_200_2011.*{text}(.|\n)*Fix: "):
        data.load(NAME, data_dir=tmp_path)


@pytest.mark.parametrize("content", [b"", b"GIF"])
def test_a_file_that_is_no_image_is_named(tmp_path, content) -> None:
    published.birds(tmp_path, COUNTS)
    (path,) = (tmp_path / "CUB_200_2011" / "images").glob("*/Bird_0018.jpg")
    path.write_bytes(content)
    images = birds.source("test", data_dir=tmp_path)
    with pytest.raises(ValueError, match=rf"{path} is not an image: .* its {len(content)} bytes"):
        list(imagenet.batches(images, train=False, batch_size=5))


def test_birds_that_are_nowhere_are_an_error(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"\nFix: python .* or lay CUB_200_2011 there, as it is p"):
        birds.source("train", data_dir=tmp_path)


ONCE = Training(epochs=1, rates=constant(0.01))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on CIFAR-10's form: ten classes, color."""
    rng = np.random.default_rng(0)
    split = data.Split(rng.integers(0, 256, (16, SIZE, SIZE, 3), np.uint8), np.arange(16) % 10)
    made = data.load("digits")
    made = replace(
        made, train=split, validation=split, test=split, mean=(127.0,) * 3, std=(60.0,) * 3
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda *_, **__: made)
        return execute(dense.EXPERIMENT, config(dense, root=tmp_path_factory.mktemp("runs")))


def config(experiment, preset: str = "digits", **fields):
    found = presets.config(preset, experiment.PRESETS, experiment.Config())
    short = {"model": "convnet", "widths": (3,), "batch_size": 8, "dense": ONCE}
    return replace(found, **(short | fields))


def variables(task, run: Path) -> dict:
    return starting.network(task, run).variables


def test_a_new_classifier_is_all_that_is_new(first: Path, tmp_path, capsys) -> None:
    published.birds(tmp_path, COUNTS)
    task = classification.task(config(dense, "resnet50-birds", data_dir=tmp_path, seed=3))
    found, anew = variables(task, first), tasks.initial(task).variables
    ten = checkpoints.load(first, task, "dense").variables
    head = ("params", "Dense_0")
    assert found["params"]["Dense_0"]["kernel"].shape == (3, 200)
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        keys = tuple(part.key for part in path)
        source = anew if keys[:2] == head else ten
        for name in keys:
            source = source[name]
        np.testing.assert_array_equal(leaf, source)
    printed = capsys.readouterr().out
    assert f"{len(jax.tree.leaves(ten)) - 2} variables of {first}; new: " in printed
    assert "params/Dense_0/kernel (3, 200), there (3, 10)" in printed
    assert "params/Dense_0/bias (200,), there (10,)" in printed


def test_of_another_network_nothing_is_taken(first: Path, tmp_path) -> None:
    published.birds(tmp_path, COUNTS)
    made = partial(config, dense, "resnet50-birds", data_dir=tmp_path)
    for fields, text in (
        ({"widths": (4,)}, r"BatchNorm_0/mean \(4,\), there \(3,\)"),
        ({"widths": (3, 4)}, r"BatchNorm_3/mean \(4,\), there none"),
    ):
        task = classification.task(made(**fields))
        with pytest.raises(ValueError, match=rf"other shapes than 'convnet' (.|\n)*{text}"):
            variables(task, first)


def test_a_run_that_is_not_dense_is_refused(first: Path, tmp_path) -> None:
    summary = directory.read_json(first / directory.SUMMARY)
    del summary["epochs"]
    directory.write_json(tmp_path / directory.SUMMARY, summary)
    with pytest.raises(ValueError, match=r"no run of `experiments dense`: .* has no epochs.\nFix"):
        starting.made(tmp_path)


@pytest.mark.parametrize("experiment", [dense, gate_decorator], ids=["dense", "gate_decorator"])
def test_a_transfer_goes_on_to_the_bit(first: Path, tmp_path, monkeypatch, experiment) -> None:
    """From a run with ten classes to birds, killed after its training."""
    published.birds(tmp_path / "data", COUNTS)
    fields = {"data_dir": tmp_path / "data", "root": tmp_path, "start": first}
    fields["dense"] = replace(ONCE, epochs=3)
    if experiment is gate_decorator:
        fields |= {"ticks": 1, "share": 0.4, "tick": replace(experiment.Config().tick, epochs=1)}
        fields |= {"tock": ONCE, "finetune": (ONCE,), "widths": (3,), "finetune_batch_size": 8}
    made = partial(config, experiment, "resnet50-birds", **fields)
    whole = execute(experiment.EXPERIMENT, made(name="whole"))
    with monkeypatch.context() as patch:
        interrupt(patch, directory, "append_metrics", 2, before=True)
        with pytest.raises(Interrupted):
            execute(experiment.EXPERIMENT, made(name="killed", resume=True))
    again = execute(experiment.EXPERIMENT, made(name="killed", resume=True))
    records = check_bits(whole, again, ["accuracy", "final"])
    assert [record["phase"] for record in records][:3] == ["dense"] * len(records[:3])
    summary = directory.read_json(whole / directory.SUMMARY)
    if experiment is dense:
        assert (summary["start"], summary["epochs"]) == (starting.made(first), 4)
    else:
        assert summary["channels"]["pruned"] < summary["channels"]["dense"]
