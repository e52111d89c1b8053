"""Photographs of any size: their folders, their halves, whole pictures by tiles, and a run."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")
pytest.importorskip("tensorflow_datasets", reason="needs the extra [experiments]")

import cv2
import tensorflow_datasets as tfds

import published
from experiments.data import cache, photos, pictures
from experiments.data.pictures import Photos
from experiments.models.wdsr import Wdsr
from experiments.runner import directory
from experiments.tasks import super_resolution
from experiments.tasks.super_resolution import Config, measure
from same_runs import Interrupted, check_bits, interrupt
from test_super_resolution import tiny

COUNTS = {"train": 5, "valid": 2}
HELD_OUT = 2


@pytest.fixture(autouse=True)
def small(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(photos, "HELD_OUT", HELD_OUT)


def same(found: Photos, expected: list) -> bool:
    each = zip(found.low, found.high, expected, strict=True)
    return all(np.array_equal(a, low) and np.array_equal(b, high) for a, b, (low, high) in each)


def test_div2k_is_read_as_it_is_published_with_its_own_halves(tmp_path) -> None:
    made = published.div2k(tmp_path, COUNTS)
    found = photos.div2k(data_dir=tmp_path)
    assert same(found.train, made["train"][HELD_OUT:])
    assert same(found.validation, made["train"][:HELD_OUT])
    assert same(found.test, made["valid"])
    assert same(photos.div2k(data_dir=tmp_path, limit=1).train, made["train"][HELD_OUT:][:1])


def test_the_second_time_nothing_is_decoded(tmp_path, monkeypatch) -> None:
    made = published.div2k(tmp_path, COUNTS)
    photos.div2k(data_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(photos.files, "image", lambda _: pytest.fail("decoded again"))
        assert same(photos.div2k(data_dir=tmp_path).test, made["valid"])
    for file in (cache.folder() / "mapped").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    assert same(photos.div2k(data_dir=tmp_path).test, made["valid"])


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def test_div2k_is_read_as_tfds_has_prepared_it(tmp_path) -> None:
    """In the order of TFDS, but each half with its image."""
    made = published.div2k(tmp_path / "folders", {"train": 4, "validation": 1})
    image = tfds.features.Image()
    rows = {
        part: [{"lr": png(low), "hr": png(high)} for low, high in found]
        for part, found in made.items()
    }
    load = partial(photos.div2k, data_dir=tmp_path)
    published.prepared(tmp_path, "Div2k", "2.0.0", {"lr": image, "hr": image}, rows, "bicubic_x2")
    found = load()
    assert same(found.test, made["validation"])
    every = [*found.validation.low, *found.train.low]
    shapes = [low.shape for low, _ in made["train"]]
    order = [shapes.index(low.shape) for low in every]
    assert sorted(order) == list(range(4))
    both = Photos(tuple(every), (*found.validation.high, *found.train.high))
    assert same(both, [made["train"][i] for i in order])
    assert len(load(limit=1).train.low) == 1


def cubic(x: np.ndarray) -> np.ndarray:
    """The kernel of Keys, "Cubic Convolution Interpolation", 1981, with a = -1/2."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def imresize(image: np.ndarray, factor: float) -> np.ndarray:
    """MATLAB's, from its documentation: antialiased, edges mirrored; one axis at a time."""
    for axis in (0, 1):
        count, shrink = image.shape[axis], min(factor, 1)
        places = (np.arange(int(factor * count)) + 0.5) / factor - 0.5
        taps = np.floor(places)[:, None].astype(int) + np.arange(-5, 6)
        weights = cubic(shrink * (places[:, None] - taps))
        weights /= weights.sum(1, keepdims=True)
        mirrored = np.r_[np.arange(count), np.arange(count)[::-1]][taps % (2 * count)]
        taken = np.take(image.astype(float), mirrored, axis)
        image = np.einsum("ij...,ij->i..." if axis == 0 else "kij...,ij->ki...", taken, weights)
    return np.clip(np.round(image), 0, 255)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("shape", [(24, 40), (6, 8), (50, 18)])
def test_halves_and_bicubic_enlargements_are_those_of_imresize(shape, monkeypatch) -> None:
    """Whole, though the enlargement is in tiles; the edges too."""
    monkeypatch.setattr(photos, "TILE", 16)
    image = noise(*shape)
    for found, expected in (
        (photos.half(image), imresize(image, 0.5)),
        (photos.doubled(image), imresize(image, 2)),
    ):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1, "an exact half may round up or down"
        assert np.mean(found != expected) < 0.01


def test_test_sets_have_their_halves_or_are_halved(tmp_path) -> None:
    """Of odd size they are cut; the published halves come first."""
    image = published.picture(tmp_path / "Set5" / "baby.png", (21, 30), 0)
    gray = np.full((10, 12), 77, np.uint8)
    cv2.imwrite(str(tmp_path / "Set5" / "gray.bmp"), gray)
    found = photos.folder(tmp_path, "Set5")
    assert same(
        found, [(photos.half(each), each) for each in (image[:20], gray[..., None].repeat(3, 2))]
    )
    made = published.pairs(tmp_path, "Set5", [(20, 30), (16, 22)])
    assert same(photos.folder(tmp_path, "Set5"), made)


@pytest.mark.parametrize("shape", [(5, 7), (16, 16), (17, 40)])
def test_a_picture_by_tiles_is_the_whole_picture(shape) -> None:
    """Of unlike sizes, smaller than a tile too, with one program; beyond the edges are zeros."""
    model = Wdsr(widths=(4, 8), blocks=2)
    rng = np.random.default_rng(1)
    drawn = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), drawn)
    doubled = jax.jit(partial(measure._doubled, model, variables))
    image = noise(*shape)
    found = photos.enlarged(doubled, image, margin=model.reach, size=16)
    assert doubled._cache_size() == 1
    expected = np.asarray(doubled(image[None]))[0]
    assert np.abs(found.astype(int) - expected).max() <= 1, "a sum in another order rounds apart"
    assert np.mean(found != expected) < 1e-3
    true = noise(*expected.shape[:2])
    ratios = [pictures.psnr(each[None], true[None]) for each in (found, expected)]
    np.testing.assert_allclose(*ratios, atol=1e-4)
    less = photos.enlarged(doubled, image, margin=model.reach - 1, size=16)
    if min(shape) > 16:
        assert (less != expected).any(), "the network reads as far as it says"


def test_psnr_is_that_of_opencv() -> None:
    """OpenCV's Y has the range 0 to 255: 219 / 255 of it, and 16, is that of BT.601."""
    one, other = (noise(20, 30, seed) // 2 + 60 for seed in (0, 1))
    y = [
        cv2.cvtColor(each.astype(np.float32), cv2.COLOR_RGB2YCrCb)[..., 0] for each in (one, other)
    ]
    inside = [16 + np.float64(219 / 255) * each[2:-2, 2:-2] for each in y]
    expected = cv2.PSNR(*inside)
    np.testing.assert_allclose(pictures.psnr(one[None], other[None]), expected, atol=1e-4)


def test_patches_are_the_same_part_of_both() -> None:
    low = noise(9, 12)
    high = low.repeat(2, 0).repeat(2, 1)
    whole = Photos((low[:6], low), (high[:12], high))
    rows, rng = np.array([1, 0] * 20), np.random.default_rng(0)
    found = photos.patches(whole, rows, 6, rng)
    np.testing.assert_array_equal(found.high[:, ::2, ::2], found.low)
    windows = {low[y : y + 6, x : x + 6].tobytes() for y in range(4) for x in range(7)}
    assert {each.tobytes() for each in found.low} <= windows
    assert {each.tobytes() for each in found.low[1::2]} <= {
        low[:6, x : x + 6].tobytes() for x in range(7)
    }
    assert len({each.tobytes() for each in found.low}) > 10


@pytest.mark.parametrize(
    ("file", "change", "text"),
    [
        ("valid_LR_bicubic/X2/0801x2.png", (6, 9), r"is not the half .*0801.png, 12x18x3: .*6x9x3"),
        (
            "train_LR_bicubic/X2/0003x2.png",
            "gone",
            r"is not there, expected an image.\nFix: ",
        ),
        ("train_LR_bicubic/X2", "X4", r"is not there, expected the images of div2k, halved"),
        ("valid_HR", "other", r"is not there, expected the images of div2k"),
        ("train_HR/0001.png", b"\x89PNG", r"is not an image: OpenCV"),
    ],
)
def test_what_is_missing_or_damaged_is_an_error_with_its_path(tmp_path, file, change, text) -> None:
    published.div2k(tmp_path, COUNTS)
    path = tmp_path / f"DIV2K_{file}"
    if isinstance(change, str):
        path.rename(path.with_name(change))
    elif isinstance(change, bytes):
        path.write_bytes(change)
    else:
        published.picture(path, change, 0)
    with pytest.raises(ValueError, match=rf"DIV2K_{file} {text}"):
        photos.div2k(data_dir=tmp_path)


def test_too_few_images_are_an_error(tmp_path) -> None:
    published.div2k(tmp_path, COUNTS | {"train": HELD_OUT})
    with pytest.raises(ValueError, match=r"DIV2K_train_HR has no images for a part.\nFix: the"):
        photos.div2k(data_dir=tmp_path)


def test_sets_that_are_not_there_are_errors(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"bicubic_x2 is not prepared in (.|\n)*; or lay the"):
        photos.div2k(data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"limit=0 leaves no training images"):
        photos.div2k(data_dir=tmp_path, limit=0)
    with pytest.raises(ValueError, match=r"Set14 is not there, expected the pictures of Set14"):
        photos.folder(tmp_path, "Set14")
    (tmp_path / "Set14").mkdir()
    with pytest.raises(ValueError, match=r"Set14 is not a folder of \*.png or \*.bmp: it has none"):
        photos.folder(tmp_path, "Set14")
    published.pairs(tmp_path, "Set14", [(20, 30)])
    published.picture(tmp_path / "Set14/image_SRF_2/img_000_SRF_2_LR.png", (5, 7), 0)
    with pytest.raises(ValueError, match=r"_LR.png is not the half of .*10x15x3: it is 5x7x3"):
        photos.folder(tmp_path, "Set14")


def test_patches_fit_into_the_smallest_photograph(tmp_path) -> None:
    published.div2k(tmp_path, COUNTS)
    with pytest.raises(ValueError, match=r"patches of 15 .* halves of 14x16.\nFix: --patch 14."):
        super_resolution.task(replace(Config(), dataset="div2k", data_dir=tmp_path, patch=15))


def test_a_run_on_photographs_goes_on_to_the_bit(tmp_path, monkeypatch, capsys) -> None:
    """Killed in the second phase it ends as one that is not; Set5 has a column of its own."""
    data = tmp_path / "data"
    published.div2k(data, COUNTS)
    published.pairs(data, "Set5", [(20, 30), (16, 22)])
    preset = {"preset": "div2k", **super_resolution.PRESETS["div2k"]}
    short = {"widths": (4, 4), "divisor": 1, "blocks": 1, "patch": 6, "patches": 3, "epochs": 2}
    short["others"] = ()
    made = partial(tiny, tmp_path, data_dir=data, tests=("Set5",), **(preset | short))
    whole = super_resolution.main(made(name="whole"))
    assert "Set5" in capsys.readouterr().out
    found = directory.read_json(whole / "summary.json")
    assert found["macs"]["1.0"] > 360 * 640
    assert set(found["tests"]["Set5"]) == {"psnr", "alone", "bicubic"}
    with monkeypatch.context() as patch:
        interrupt(patch, directory, "append_metrics", 4, before=True)
        with pytest.raises(Interrupted):
            super_resolution.main(made(name="killed", resume=True))
    again = super_resolution.main(made(name="killed", resume=True))
    check_bits(whole, again, ["psnr", "alone", "bicubic", "tests"])
