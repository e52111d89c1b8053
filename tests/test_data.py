"""Data sets, their cache, their errors, and what training images go through."""

import importlib.util
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")
pytest.importorskip("tensorflow_datasets", reason="needs the extra [experiments]")

import cv2
import tensorflow_datasets as tfds

from experiments import data
from experiments.data import prepared
from experiments.data.__main__ import show
from experiments.data.augment import Augment, augmented, normalized

COUNTS = {"train": 60, "extra": 41, "test": 30}
PARTS = ("train", "validation", "test")

with tfds.core.registered.skip_registration():

    class SvhnCropped(tfds.core.GeneratorBasedBuilder):
        """A small set in the form of the real one; PNG bytes need no TensorFlow."""

        VERSION = tfds.core.Version("3.1.0")

        def _info(self):
            image = tfds.features.Image(shape=(32, 32, 3))
            label = tfds.features.ClassLabel(num_classes=10)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            del dl_manager
            return {name: self._generate_examples(name) for name in COUNTS}

        def _generate_examples(self, split):
            rng = np.random.default_rng(COUNTS[split])
            for i in range(COUNTS[split]):
                image = rng.integers(0, 256, (32, 32, 3), np.uint8)
                yield i, {"image": cv2.imencode(".png", image)[1].tobytes(), "label": i % 10}


def prepare(path: Path, file_format: str) -> Path:
    SvhnCropped(data_dir=path, file_format=file_format).download_and_prepare()
    return path


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return prepare(tmp_path_factory.mktemp("data"), "array_record")


@pytest.fixture
def data_dir(pristine, tmp_path) -> Path:
    return shutil.copytree(pristine, tmp_path / "a data dir")


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipes = {name: recipe._replace(validation=20) for name, recipe in data.PREPARED.items()}
    monkeypatch.setattr(data, "PREPARED", recipes)


def load(data_dir: Path, **options) -> data.Dataset:
    return data.load("svhn_cropped", data_dir=data_dir, **options)


def same(one: data.Dataset, other: data.Dataset) -> bool:
    pairs = [
        (x, y)
        for part in PARTS
        for x, y in zip(getattr(one, part), getattr(other, part), strict=True)
    ]
    return all(np.array_equal(x, y) for x, y in pairs) and one.mean == other.mean


def images(*splits: data.Split) -> set[bytes]:
    return {image.tobytes() for split in splits for image in split.images}


@pytest.fixture
def digits() -> data.Dataset:
    return data.load("digits")


def test_digits_are_split_alike_every_time(digits):
    assert same(digits, data.load("digits"))
    assert [len(getattr(digits, part).labels) for part in PARTS] == [1197, 200, 400]
    assert digits.image_shape == (8, 8, 1)
    assert (digits.train.images.dtype, digits.train.labels.dtype) == (np.uint8, np.int32)
    assert digits.train.images.max() == 16
    assert set(digits.test.labels) == set(range(digits.classes)) == set(range(10))
    # The split of the first release: accuracies stay comparable.
    assert digits.test.labels[:8].tolist() == [5, 1, 8, 2, 5, 7, 4, 5]
    assert digits.validation.labels[:8].tolist() == [9, 9, 6, 4, 4, 8, 2, 7]


def test_digits_parts_are_disjoint(digits):
    assert len(images(digits.train, digits.validation, digits.test)) == 1797


def test_prepared_sets_have_three_disjoint_parts(data_dir):
    dataset = load(data_dir)
    assert [len(getattr(dataset, part).labels) for part in PARTS] == [81, 20, 30]
    assert len(images(dataset.train, dataset.validation, dataset.test)) == 131
    assert (dataset.classes, dataset.image_shape) == (10, (32, 32, 3))
    assert (dataset.train.images.dtype, dataset.train.labels.dtype) == (np.uint8, np.int32)


def test_pixels_and_labels_are_those_of_tfds(data_dir):
    dataset = load(data_dir)
    builder = tfds.builder("svhn_cropped", data_dir=data_dir)
    source = builder.as_data_source("test")
    for i, example in enumerate(source):
        np.testing.assert_array_equal(dataset.test.images[i], example["image"])
        assert dataset.test.labels[i] == example["label"]
    both = {example["image"].tobytes() for example in builder.as_data_source("train+extra")}
    assert both == images(dataset.train, dataset.validation)


def test_mean_and_deviation_are_those_of_the_training_images(data_dir):
    for dataset in (load(data_dir), data.load("digits")):
        pixels = dataset.train.images.astype(np.float64)
        np.testing.assert_allclose(dataset.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(dataset.std, pixels.std((0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "validation", "augment"),
    [
        ("cifar10", 5000, Augment(pad=4, flip=True)),
        ("cifar100", 5000, Augment(pad=4, flip=True)),
        ("mnist", 5000, Augment()),
        ("svhn_cropped", 6000, Augment()),
    ],
)
def test_the_recipes_are_those_of_the_paper(name, validation, augment, monkeypatch):
    monkeypatch.undo()
    assert data.PREPARED[name][1:] == (validation, augment)


@pytest.mark.parametrize("limit", [10, 25, 100])
def test_a_limit_takes_classes_alike(digits, limit):
    limited = data.load("digits", limit=limit)
    counts = np.bincount(limited.train.labels, minlength=10)
    assert counts.sum() == limit
    assert np.ptp(counts) <= 1
    assert images(limited.train) <= images(data.load("digits", limit=limit + 7).train)
    assert images(limited.train) < images(digits.train)
    assert same(limited, replace(digits, train=limited.train))
    assert same(limited, data.load("digits", limit=limit))


def test_a_limit_above_the_size_takes_all(digits):
    assert same(data.load("digits", limit=5000), digits)


def test_a_scarce_class_gives_what_it_has():
    split = data.Split(np.arange(9), np.array([0, 0, 0, 0, 0, 0, 1, 1, 2]))
    assert data._balanced(split, 6).labels.tolist() == [0, 0, 0, 1, 1, 2]


def test_a_limit_of_none_is_an_error():
    with pytest.raises(ValueError, match=r"limit=0 leaves no training images.\nFix: 1 or more"):
        data.load("digits", limit=0)


def test_unknown_names_are_errors(data_dir):
    names = r"\['caltech_birds2011', 'cifar10', 'cifar100', .*, 'svhn_cropped', 'text'\]"
    with pytest.raises(ValueError, match=rf"no data set 'nist'.\nFix: one of {names}"):
        data.load("nist")
    with pytest.raises(ValueError, match=r"TFDS has no data set 'nist'.\nFix: "):
        prepared.prepare("nist", data_dir=data_dir)


COMMAND = "python -m experiments.data prepare svhn_cropped --data-dir "


def damage_nothing_prepared(path: Path) -> str:
    shutil.rmtree(path)
    path.mkdir()
    return f"svhn_cropped is not prepared in {path}/svhn_cropped/3.1.0.\nFix: {COMMAND}'{path}'"


def damage_no_directory(path: Path) -> str:
    shutil.rmtree(path)
    return f"svhn_cropped is not prepared in {path}/svhn_cropped/3.1.0.\nFix: {COMMAND}'{path}'"


def damage_other_version(path: Path) -> str:
    (path / "svhn_cropped" / "3.1.0").rename(path / "svhn_cropped" / "2.0.0")
    return f"svhn_cropped/3.1.0 (only version 2.0.0 is there).\nFix: {COMMAND}'{path}'"


def damage_no_info(path: Path) -> str:
    version = path / "svhn_cropped" / "3.1.0"
    (version / "dataset_info.json").unlink()
    return f"incomplete in {version}.\nFix: remove {version}, then {COMMAND}'{path}'"


def damage_half_an_info(path: Path) -> str:
    os.truncate(path / "svhn_cropped" / "3.1.0" / "dataset_info.json", 100)
    return f"\nFix: remove {path}/svhn_cropped, then {COMMAND}'{path}'"


def damage_half_a_file(path: Path) -> str:
    version = path / "svhn_cropped" / "3.1.0"
    file = next(version.glob("*extra*"))
    os.truncate(file, file.stat().st_size // 2)
    return f"\nFix: remove {version}, then {COMMAND}'{path}'"


def damage_no_file(path: Path) -> str:
    version = path / "svhn_cropped" / "3.1.0"
    next(version.glob("*extra*")).unlink()
    return f"\nFix: remove {version}, then {COMMAND}'{path}'"


def damage_other_format(path: Path) -> str:
    version = path / "svhn_cropped" / "3.1.0"
    info = version / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    return f"as tfrecord; expected array_record.\nFix: remove {version}, then {COMMAND}'{path}'"


DAMAGES = (
    damage_nothing_prepared,
    damage_no_directory,
    damage_other_version,
    damage_no_info,
    damage_half_an_info,
    damage_half_a_file,
    damage_no_file,
    damage_other_format,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_read_is_an_error_with_the_command(data_dir, damage):
    expected = damage(data_dir)
    with pytest.raises(ValueError, match=r"\nFix: ") as error:
        load(data_dir)
    assert expected in str(error.value)
    assert str(data_dir) in str(error.value).split("\nFix: ")[0]


def test_tfds_says_where_its_data_is_by_default(pristine, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(pristine))
    assert len(data.load("svhn_cropped").test.labels) == 30


def caches(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "jaxprune").iterdir())


def test_the_second_time_decodes_nothing_and_writes_nothing_beside_the_data(
    data_dir, tmp_path, monkeypatch
):
    files = sorted(data_dir.rglob("*"))
    first = load(data_dir)
    assert sorted(data_dir.rglob("*")) == files
    assert [path.suffix for path in caches(tmp_path)] == [".npz", ".npz"]
    monkeypatch.setattr(prepared, "_decode", lambda *_: pytest.fail("decoded again"))
    assert same(load(data_dir), first)


@pytest.mark.parametrize("damage", ["truncated", "empty", "changed", "garbage"])
def test_a_damaged_cache_is_made_again(data_dir, tmp_path, damage):
    first = load(data_dir)
    contents = {path: path.read_bytes() for path in caches(tmp_path)}
    for path, content in contents.items():
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        damaged = {"truncated": content[:middle], "empty": b"", "changed": changed}
        path.write_bytes(damaged.get(damage, b"garbage"))
    assert same(load(data_dir), first)
    assert {path: path.read_bytes() for path in caches(tmp_path)} == contents


def test_other_files_have_another_cache(data_dir, tmp_path):
    load(data_dir)
    os.utime(next((data_dir / "svhn_cropped" / "3.1.0").glob("*test*")), (1, 1))
    load(data_dir)
    assert len(caches(tmp_path)) == 3


def test_without_a_place_for_the_cache_it_is_decoded_every_time(data_dir, tmp_path, caplog):
    (tmp_path / "cache").write_text("not a directory")
    assert same(load(data_dir), load(data_dir))
    assert "cannot keep the decoded images" in caplog.text


def test_a_disk_that_is_full_leaves_no_half_cache(data_dir, tmp_path, monkeypatch):
    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(load(data_dir).test.labels) == 30
    assert caches(tmp_path) == []


def test_prepare_writes_what_load_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", str)
    with monkeypatch.context() as patch:
        patch.setattr(tfds, "builder", lambda _, data_dir: SvhnCropped(data_dir=data_dir))
        prepared.prepare("svhn_cropped", data_dir=tmp_path)
    assert f"svhn_cropped is prepared in {tmp_path}" in capsys.readouterr().out
    assert len(load(tmp_path).test.labels) == 30
    show("svhn_cropped", data_dir=tmp_path)
    assert "train 81, validation 20, test 30" in capsys.readouterr().out


def test_to_prepare_needs_tensorflow_unless_it_is_done(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    prepared.prepare("svhn_cropped", data_dir=data_dir)
    with pytest.raises(ValueError, match=r'needs TensorFlow .*\nFix: pip install -e "\.\[prepare'):
        prepared.prepare("svhn_cropped", data_dir=tmp_path / "other")


PIXELS = np.random.default_rng(0).integers(1, 256, (64, 5, 6, 3), np.uint8)


def windows(image: np.ndarray, pad: int) -> list[bytes]:
    height, width = image.shape[:2]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    corners = np.ndindex(2 * pad + 1, 2 * pad + 1)
    return [padded[y : y + height, x : x + width].tobytes() for y, x in corners]


def test_crops_are_windows_of_the_image_in_zeros_and_every_window_occurs():
    crops = np.asarray(jax.jit(partial(augmented, Augment(pad=1)))(jax.random.key(0), PIXELS))
    assert (crops.dtype, crops.shape) == (np.uint8, PIXELS.shape)
    places = [
        windows(image, 1).index(crop.tobytes()) for image, crop in zip(PIXELS, crops, strict=True)
    ]
    assert set(places) == set(range(9))


def test_flips_are_mirror_images_of_about_half():
    flips = np.asarray(jax.jit(partial(augmented, Augment(flip=True)))(jax.random.key(0), PIXELS))
    mirrored = (flips == PIXELS[:, :, ::-1]).all((1, 2, 3))
    assert np.array_equal(flips[~mirrored], PIXELS[~mirrored])
    assert 16 < mirrored.sum() < 48


def test_jitter_changes_brightness_contrast_and_saturation_of_each_image():
    """The first pixel of two, colors of one image in the order of torchvision's arithmetic."""
    image = np.array([[[[200, 100, 50], [40, 40, 40]]]], np.uint8)
    key = jax.random.split(jax.random.key(3), 4)[2]
    bright, contrast, saturation = np.asarray(
        jax.random.uniform(key, (3, 1, 1, 1, 1), minval=0.6, maxval=1.4)
    ).ravel()
    weights = np.array([0.299, 0.587, 0.114])
    pixels = np.clip(image[0, 0] * bright, 0, 255)
    pixels = np.clip(contrast * pixels + (1 - contrast) * (pixels @ weights).mean(), 0, 255)
    gray = (pixels @ weights)[:, None]
    expected = np.clip(saturation * pixels + (1 - saturation) * gray, 0, 255).round()
    found = augmented(Augment(jitter=0.4), jax.random.key(3), image)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0, 0], expected)


def test_lighting_moves_all_pixels_of_an_image_alike():
    images = np.full((500, 2, 2, 3), 128, np.uint8)
    moved = np.asarray(augmented(Augment(lighting=0.1), jax.random.key(0), images), float) - 128
    assert (moved == moved[:, :1, :1]).all()
    # 255 * 0.1 * the root of the sum over components of (deviation * entry)^2
    np.testing.assert_allclose(moved[:, 0, 0].std(axis=0), [3.17, 3.22, 3.26], atol=0.35)
    assert (np.corrcoef(moved[:, 0, 0].T) > 0.9).all()


def test_nothing_asked_nothing_done():
    assert np.array_equal(augmented(Augment(), jax.random.key(0), PIXELS), PIXELS)


def test_the_key_decides():
    both = jax.jit(partial(augmented, Augment(pad=2, flip=True)))
    one, again, other = (both(jax.random.key(seed), PIXELS) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_normalized_training_images_have_mean_0_and_deviation_1(digits):
    pixels = jax.jit(partial(normalized, digits.mean, digits.std))(digits.train.images)
    assert pixels.dtype == np.float32
    assert abs(float(pixels.mean())) < 1e-5
    assert abs(float(pixels.std()) - 1) < 1e-5
    colors = normalized((1.0, 2.0, 3.0), (2.0, 4.0, 8.0), np.full((1, 1, 1, 3), 5, np.uint8))
    assert colors.ravel().tolist() == [2, 0.75, 0.25]
