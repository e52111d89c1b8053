"""Networks that segment: their groups, their metric, their data, and a pruning of gates."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")
pytest.importorskip("tensorflow_datasets", reason="needs the extra [experiments]")

import cv2
import tensorflow_datasets as tfds

import jaxprune as jp
from experiments.data import scenes, shapes
from experiments.methods import gate_decorator
from experiments.models.fcn import Fcn
from experiments.runner import checkpoints, directory, presets, training
from experiments.tasks import segmentation
from experiments.tasks.segmentation import Config, confusion, intersection_over_union
from jaxprune.schedule import Training, constant

SIZE = 8
MODEL = Fcn(layers=(1, 2, 1), widths=(5, 6, 7), classes=3, hidden=(6, 5), stride=2)
COARSE = MODEL.clone(stride=8)
SKIPPED = {"Conv_0/kernel", "Conv_2/kernel"}
"""What the two pooling layers before the last one read."""
PETS = {"train": 9, "test": 4}
WIDTHS = {"train": 10, "test": 7}


def apply(model: nn.Module, variables, x) -> np.ndarray:
    run = jax.jit(partial(model.apply, train=False))
    return np.asarray(run(variables, x))


def images(count: int = 2, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, size, size, 3)).astype(np.float32)


def spread(model: nn.Module, size: int = SIZE):
    """Variables of the model, all of them random."""
    rng = np.random.default_rng(1)
    init = partial(model.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), images(1, size))
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)


def channels(graph: jp.ChannelGraph) -> dict[str, int]:
    return {name: group.size for name, group in graph.groups.items()}


def readers(graph: jp.ChannelGraph, name: str) -> list[str]:
    return [slot.path for slot in graph.groups[name].slots if slot.role == "in"]


@pytest.mark.parametrize("model", [MODEL, COARSE], ids=["skips", "none"])
def test_every_convolution_is_a_group_and_the_scores_are_none(model: Fcn) -> None:
    """The skips add scores, so no two layers are coupled; a skipped layer has two readers."""
    graph = training.channel_graph(model, (SIZE, SIZE, 3))
    expected = [5, 6, 6, 7, 6, 5]
    assert list(channels(graph).values()) == expected
    assert not any(group.inexact for group in graph.groups.values())
    two = {name for name in graph.groups if len(readers(graph, name)) == 2}
    assert two == (SKIPPED if model is MODEL else set())
    scored = {frozen.path for frozen in graph.frozen if frozen.reason == "output"}
    last = range(6, 9 if model is MODEL else 7)
    assert scored == {f"params/Conv_{i}/{leaf}" for i in last for leaf in ("bias", "kernel")}


def test_the_fcn_32s_and_8s_of_vgg_16() -> None:
    """At 224x224: the MACs of the convolutions of VGG-16, and those of its head at 49 places."""
    for stride, skips in ((32, 0), (16, 1), (8, 2)):
        graph = training.channel_graph(Fcn((2, 2, 3, 3, 3), stride=stride), (224, 224, 3))
        assert [graph.groups[f"Conv_{i}/kernel"].size for i in (13, 14)] == [4096, 4096]
        shapes = [slot.shape for name, slot in graph.variables.items() if name.endswith("kernel")]
        assert sum(shape[-1] == 21 for shape in shapes) == 1 + skips
    convolutions = 15_346_630_656
    hidden = 49 * (49 * 512 * 4096 + 4096 * 4096 + 4096 * 21)
    coarse = training.channel_graph(Fcn((2, 2, 3, 3, 3)), (224, 224, 3))
    rest = jp.cost.macs(coarse) - convolutions - hidden
    assert rest == 21 * (224 * 7 * 7 + 224 * 224 * 7), "bilinear: rows, then columns"


def test_scores_start_at_zero_and_have_the_size_of_the_images() -> None:
    variables = jax.jit(partial(MODEL.init, train=False))(jax.random.key(0), images())
    logits = apply(MODEL, variables, np.ones((2, 8, 16, 3), np.float32))
    assert logits.shape == (2, 8, 16, 3)
    assert not logits.any()


def test_a_skip_brings_detail() -> None:
    """Of scores at stride 8 of 8 pixels every place is alike, of those at stride 2 not."""
    flat, fine = (apply(m, spread(m), images()) for m in (COARSE, MODEL))
    assert np.ptp(flat, axis=(1, 2)).max() < 1e-4
    assert np.ptp(fine, axis=(1, 2)).min() > 1e-2


@pytest.mark.parametrize(
    ("model", "size", "text"),
    [
        (MODEL, 12, "images of 12x12 are not multiples of 8 pixels"),
        (MODEL.clone(stride=16), 8, r"stride 16 is none of \[2, 4, 8\], those of 3 stages"),
        (MODEL.clone(layers=(1, 1)), 8, r"layers \(1, 1\) has 2 stages, widths 3"),
    ],
)
def test_what_does_not_fit_is_an_error(model: Fcn, size: int, text: str) -> None:
    with pytest.raises(ValueError, match=rf"{text}\nFix: one entry for each stage"):
        training.channel_graph(model, (size, size, 3))


@pytest.mark.parametrize("model", [MODEL, COARSE], ids=["skips", "none"])
def test_masked_and_sliced_are_one_network(model: Fcn) -> None:
    variables = spread(model)
    graph = training.channel_graph(model, (SIZE, SIZE, 3))
    rng = np.random.default_rng(2)
    keep = {name: rng.permutation(n) >= n // 2 for name, n in channels(graph).items()}
    expected = apply(model, jp.mask(graph, variables, keep), images())
    small = jp.linen.resize(model, graph, keep)
    got = apply(small, jp.slice(graph, variables, keep), images())
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - apply(model, variables, images())).max() > 1e-2


def test_intersection_over_union_by_hand() -> None:
    """Of class 0: 5 right, 1 missed, 2 too many; class 3 is nowhere."""
    found = intersection_over_union(
        np.array([[5, 1, 0, 0], [2, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    )
    assert found[:2].tolist() == [5 / 8, 3 / 6]
    assert np.isnan(found[2:]).all()
    wrong = intersection_over_union(np.array([[2, 0, 1], [0, 0, 0], [0, 0, 0]]))
    assert wrong[[0, 2]].tolist() == [2 / 3, 0.0], "a class that is only predicted counts"


class Brightest(nn.Module):
    """Takes the brightest of three colors for the class."""

    @nn.compact
    def __call__(self, x, *, train: bool):
        del train
        return x


def painted(count: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Images whose brightest color is the class in all pixels but the first of each image."""
    labels = np.random.default_rng(3).integers(0, 3, (count, 4, 4)).astype(np.uint8)
    pixels = 255 * np.eye(3, dtype=np.uint8)[labels]
    labels[:, 0, 0] = (labels[:, 0, 0] + 1) % 3
    return pixels, labels


def dataset(pixels: np.ndarray, labels: np.ndarray) -> scenes.Dataset:
    split = scenes.Split(pixels, labels)
    parts = dict.fromkeys(("train", "validation", "test"), split)
    same = {"mean": (100.0,) * 3, "std": (50.0,) * 3, "augment": scenes.Augment()}
    return scenes.Dataset(name="painted", classes=3, **parts, **same)


def test_pixels_are_counted_in_batches_of_any_size() -> None:
    data = dataset(*painted())
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (data.test.labels, data.test.images.argmax(-1)), 1)
    for batch_size in (3, 7, 100):
        found = confusion(Brightest(), {}, data, data.test, batch_size=batch_size)
        np.testing.assert_array_equal(found, expected)
        accuracy = training.evaluate(Brightest(), {}, data, data.test, batch_size=batch_size)
        assert accuracy.accuracy == pytest.approx(15 / 16)
        assert np.trace(found) / found.sum() == 15 / 16


def test_shapes_are_the_same_for_the_same_seed() -> None:
    one, again, other = (shapes.generate(12, size=16, seed=seed) for seed in (0, 0, 1))
    for first, second, third in zip(one, again, other, strict=True):
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, third)
    pixels, labels = one
    assert (pixels.shape, pixels.dtype) == ((12, 16, 16, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((12, 16, 16), np.uint8)
    assert set(np.unique(labels)) == set(range(len(shapes.CLASSES)))
    with pytest.raises(ValueError, match=r"in 8 pixels are all alike.\nFix: size=16"):
        shapes.generate(1, size=8, seed=0)


def test_shapes_more_than_a_chunk(monkeypatch) -> None:
    monkeypatch.setattr(shapes, "CHUNK", 3)
    pixels, labels = shapes.generate(7, size=16, seed=0)
    assert (len(pixels), len(labels)) == (7, 7)
    assert len({image.tobytes() for image in pixels}) == 7


@pytest.mark.parametrize("sides", shapes.SIDES)
def test_all_forms_of_one_size_have_one_area(sides: float) -> None:
    line = np.arange(-40, 40, dtype=np.float32)
    angle = np.full((1, 1, 1), 0.3, np.float32)
    out = shapes._distance(sides, line[None, :, None], line[None, None], angle)
    assert np.sum(out < 20) == pytest.approx(np.pi * 20**2, rel=0.01)
    corner = {3: 2 * 0.7776, 4: 2**0.5 * 0.8862}.get(sides, 1.0)
    rows, columns = np.meshgrid(line, line, indexing="ij")
    assert np.hypot(rows, columns)[(out < 20)[0]].max() == pytest.approx(20 * corner, rel=0.05)


def test_the_colors_of_the_shapes_say_nothing_about_their_class() -> None:
    pixels, labels = shapes.generate(300, size=16, seed=0)
    means = [pixels[labels == label].mean() for label in range(len(shapes.CLASSES))]
    assert np.ptp(means) < 15


def test_the_parts_of_the_shapes(monkeypatch) -> None:
    monkeypatch.setattr(scenes, "SHAPES", {"train": 9, "validation": 4, "test": 5})
    data, limited = (scenes.load("shapes", size=16, limit=limit) for limit in (None, 6))
    parts = (data.train, data.validation, data.test)
    assert [part.size for part in parts] == [9, 4, 5]
    assert len({image.tobytes() for part in parts for image in part.images}) == 18
    np.testing.assert_array_equal(limited.train.images, data.train.images[:6])
    assert (limited.mean, limited.std) == (data.mean, data.std)
    with pytest.raises(ValueError, match=r"no data set 'voc'.\nFix: one of \['camvid', '"):
        scenes.load("voc", size=16)
    with pytest.raises(ValueError, match=r"limit=0 leaves no training images.\nFix: "):
        scenes.load("shapes", size=16, limit=0)


with tfds.core.registered.skip_registration():

    class OxfordIiitPet(tfds.core.GeneratorBasedBuilder):
        """A small set in the form of the real one; encoded bytes need no TensorFlow."""

        VERSION = tfds.core.Version("4.0.0")

        def _info(self):
            features = tfds.builder_cls("oxford_iiit_pet")(data_dir="/nowhere").info.features
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            del dl_manager
            return {name: self._generate_examples(name) for name in PETS}

        def _generate_examples(self, split):
            for i in range(PETS[split]):
                image = np.full((6 + i, 8, 3), (10 * i, 100, 200), np.uint8)
                mask = np.full((6 + i, 8, 1), 2, np.uint8)
                mask[:, 4:] = 1 + 2 * (i % 2)
                yield (
                    i,
                    {
                        "image": cv2.imencode(".png", image[..., ::-1])[1].tobytes(),
                        "segmentation_mask": cv2.imencode(".png", mask)[1].tobytes(),
                        "label": 0,
                        "species": 0,
                        "file_name": str(i),
                        "head_bbox": tfds.features.BBox(0.0, 0.0, 0.0, 0.0),
                    },
                )


@pytest.fixture(scope="module")
def pets(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data")
    OxfordIiitPet(data_dir=path, file_format="array_record").download_and_prepare()
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def few(monkeypatch) -> None:
    recipe = scenes.PREPARED["oxford_iiit_pet"]._replace(validation=3)
    monkeypatch.setattr(scenes, "PREPARED", {"oxford_iiit_pet": recipe})


@pytest.mark.usefixtures("few")
def test_pets_are_scaled_to_one_size_and_numbered_from_zero(pets, tmp_path) -> None:
    data = scenes.load("oxford_iiit_pet", size=4, data_dir=pets)
    parts = (data.train, data.validation, data.test)
    assert [part.size for part in parts] == [6, 3, 4]
    assert data.classes == len(scenes.classes("oxford_iiit_pet")) == 3
    numbers = [int(image[0, 0, 0]) // 10 for image in data.test.images]
    assert sorted(numbers) == [0, 1, 2, 3]
    for i, image, mask in zip(numbers, *data.test, strict=True):
        assert (image == (10 * i, 100, 200)).all()
        assert mask.tolist() == [[1, 1, 2 * (i % 2), 2 * (i % 2)]] * 4
    names = sorted(path.name for path in (tmp_path / "cache" / "jaxprune").iterdir())
    assert [name.rsplit("-", 1)[0] for name in names] == [
        "oxford_iiit_pet-4-pixels-test",
        "oxford_iiit_pet-4-pixels-train",
    ]
    again = scenes.load("oxford_iiit_pet", size=4, data_dir=pets)
    np.testing.assert_array_equal(again.train.images, data.train.images)


@pytest.mark.usefixtures("few")
def test_masks_of_other_classes_are_an_error(pets, monkeypatch) -> None:
    recipe = scenes.PREPARED["oxford_iiit_pet"]._replace(first=2)
    monkeypatch.setattr(scenes, "PREPARED", {"oxford_iiit_pet": recipe})
    with pytest.raises(ValueError, match=r"values \[1, 2, 3\], expected 2 to 4.\nFix: enter in"):
        scenes.load("oxford_iiit_pet", size=4, data_dir=pets)


def test_pets_that_are_not_prepared_are_an_error(tmp_path) -> None:
    command = "python -m experiments.data prepare oxford_iiit_pet --data-dir"
    with pytest.raises(ValueError, match=rf"oxford_iiit_pet is not prepared .*\nFix: {command}"):
        scenes.load("oxford_iiit_pet", size=4, data_dir=tmp_path)


def test_presets_name_settings_of_the_configuration() -> None:
    for name in segmentation.PRESETS:
        config = presets.config(name, segmentation.PRESETS, Config())
        assert config.preset == name
        gate_decorator.method(config)


def tiny(root: Path) -> Config:
    once = Training(epochs=1, rates=constant(0.05))
    return replace(
        presets.config("shapes", segmentation.PRESETS, Config()),
        **{"root": root, "framework": "one-shot", "image_size": 16, "batch_size": 8},
        **{"widths": (6, 8), "hidden": (), "dense": once, "finetune": (once,)},
    )


def test_a_run_prunes_and_reports(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(scenes, "SHAPES", {"train": 16, "validation": 6, "test": 6})
    monkeypatch.setattr(segmentation, "BACKBONES", {"vgg11": (1, 1)})
    config = tiny(tmp_path)
    run = segmentation.main(config)
    printed = capsys.readouterr().out
    assert all(f"IoU of {name}" in printed for name in shapes.CLASSES)
    found = directory.read_json(run / "summary.json")["networks"]
    assert list(found) == ["dense", "commit-1", "finetune-1"]
    task = segmentation.task(config)
    assert found["dense"]["macs"] == jp.cost.macs(task.graph)
    assert found["finetune-1"]["macs"] == found["commit-1"]["macs"] <= found["dense"]["macs"] / 2
    dense, cut, last = (checkpoints.load(run, task, name) for name in found)
    assert segmentation.measured(task, last) == found["finetune-1"]
    # Nothing trains between these two: scores alone are gathered.
    x = images(2, 16)
    expected = apply(dense.model, jp.mask(task.graph, dense.variables, cut.keep), x)
    np.testing.assert_allclose(apply(cut.model, cut.variables, x), expected, atol=1e-5)
    assert np.ptp(expected) > 1e-3
