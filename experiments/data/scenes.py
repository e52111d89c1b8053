"""Segmentation data sets: `shapes`, which is made here, those of TensorFlow Datasets, and folders.

To add one of TensorFlow Datasets (TFDS), enter it in `PREPARED`. They are prepared once, with a
network; what lies in folders as it is published, `FOLDERS`, needs no preparation:

    python -m experiments.data prepare oxford_iiit_pet --data-dir DIR
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from experiments import data
from experiments.data import Dataset, Split, files, prepared, shapes, voc
from experiments.data.augment import Augment

VOID = -1
"""The label of pixels that count nowhere."""


class Recipe(NamedTuple):
    """How a data set of TFDS with the features `image` and `segmentation_mask` is used."""

    train: str  # the splits to train on, in the words of TFDS
    test: str
    validation: int  # images cut from those to train on
    classes: tuple[str, ...]
    first: int  # the number that the first class has in the masks


class Folder(NamedTuple):
    """How a data set of files is used: images, and label images in which classes run from 0."""

    pairs: Callable[[Path, str], list[tuple[Path, Path]]]  # of a part, both files of each image
    train: str
    validation: str | int  # a part, or a number of images cut from those to train on
    test: str
    classes: tuple[str, ...]
    void: int  # the number of pixels that count nowhere


def camvid(data_dir: Path, part: str) -> list[tuple[Path, Path]]:
    """Returns the files of CamVid: `camvid/PART/NAME.png` with its labels in `camvid/PARTannot`.

    That is how SegNet's authors publish it. Labels may also stand beside the images, NAME.png of
    NAME.jpg.

    Source: Brostow et al., "Semantic Object Classes in Video", 2008; the 11 classes of
    Badrinarayanan et al., "SegNet", PAMI 2017.
    """
    folder = files.required(data_dir / "camvid" / part, "the images of CamVid")
    apart = folder.with_name(f"{part}annot")
    images = sorted(folder.glob("*.png" if apart.exists() else "*.jpg"))
    if not images:
        raise files.damaged(folder, "a folder of images", "it has none")
    labels = apart if apart.exists() else folder
    return [(image, labels / f"{image.stem}.png") for image in images]


_ROAD = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car")
PREPARED: Mapping[str, Recipe] = MappingProxyType(
    {"oxford_iiit_pet": Recipe("train", "test", 400, ("pet", "ground", "border"), 1)}
)
FOLDERS: Mapping[str, Folder] = MappingProxyType(
    {
        "camvid": Folder(camvid, "train", "val", "test", (*_ROAD, "pedestrian", "bicyclist"), 11),
        **{
            f"voc{year}": Folder(
                partial(voc.masks, year), "train", 100, "val", ("ground", *voc.CLASSES), voc.VOID
            )
            for year in (2011, 2012)
        },
    }
)
SHAPES = {"train": 4000, "validation": 300, "test": 500}
"""Images of every part of the shapes."""


def load(
    name: str,
    *,
    size: int,
    width: int | None = None,
    data_dir: Path | None = None,
    limit: int | None = None,
) -> Dataset:
    """Returns the data set of that name, its labels those of pixels; the same for every run.

    Nothing is augmented: in the paper mirrored and shifted images "yielded no noticeable
    improvement" (Long et al., CVPR 2015, section 4.3).

    Args:
      name: `shapes`, or one of `PREPARED` or `FOLDERS`.
      size: height in pixels that the images are made or scaled to, whatever their own.
      width: likewise; the height by default. Labels are scaled with their images, so what is
        measured are pixels of this size.
      data_dir: where TFDS has prepared it, `TFDS_DATA_DIR` or `~/tensorflow_datasets` by default;
        or the folder in which a folder lies.
      limit: at most that many training images. Mean and deviation stay those of all of them.

    Raises:
      ValueError: there is no such data set, it is not in `data_dir`, or cannot be read; or shapes
        are asked for that are not square.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} leaves no training images.\nFix: 1 or more, or none.")
    names = sorted(["shapes", *PREPARED, *FOLDERS])
    if name not in names:
        raise ValueError(f"no data set {name!r}.\nFix: one of {names}.")
    shape = (size, width or size)
    if name == "shapes":
        parts = _shapes(shape)
    else:
        parts = (_folder if name in FOLDERS else _prepared)(name, shape, data_dir)
    train, validation, test = parts
    mean, std = data.mean_and_std(train.images)
    return Dataset(
        name=name,
        classes=len(classes(name)),
        train=Split(*(part[:limit] for part in train)),
        validation=validation,
        test=test,
        mean=mean,
        std=std,
        augment=Augment(),
    )


def classes(name: str) -> tuple[str, ...]:
    """Returns the names of the classes of a data set."""
    return shapes.CLASSES if name == "shapes" else {**PREPARED, **FOLDERS}[name].classes


def _shapes(shape: tuple[int, int]) -> list[Split]:
    size, width = shape
    if size != width:
        raise ValueError(f"shapes of {size}x{width} are not square.\nFix: leave out the width.")
    counts = enumerate(SHAPES.values())
    return [Split(*shapes.generate(count, size=size, seed=seed)) for seed, count in counts]


def _prepared(name: str, shape: tuple[int, int], data_dir: Path | None) -> list[Split]:
    recipe, builder = PREPARED[name], prepared.builder(name, data_dir)
    height, width = shape
    decode = partial(_decoded, shape)
    form = f"-{height}-pixels" if height == width else f"-{height}x{width}-pixels"
    train, test = (
        _numbered(recipe, *prepared.read(builder, split, decode=decode, form=form))
        for split in (recipe.train, recipe.test)
    )
    return [*data.shuffled(train, recipe.validation), test]


def _numbered(recipe: Recipe, images: np.ndarray, masks: np.ndarray) -> Split:
    """Returns the images with classes that run from 0."""
    labels, last = masks - np.uint8(recipe.first), len(recipe.classes) - 1
    if labels.max() > last:
        raise ValueError(
            f"the masks have the values {np.unique(masks).tolist()}, expected {recipe.first} to "
            f"{recipe.first + last}.\nFix: enter in experiments/data/scenes.py what they mean."
        )
    return Split(images, labels)


def _decoded(shape: tuple[int, int], builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    source = builder.as_data_source(split=split)
    pairs = ((example["image"], example["segmentation_mask"]) for example in source)
    return _scaled(shape, len(source), pairs)


def _folder(name: str, shape: tuple[int, int], data_dir: Path | None) -> list[Split]:
    folder = FOLDERS[name]

    def part(of: str) -> Split:
        pairs = folder.pairs(data_dir or Path(), of)
        return Split(*_scaled(shape, len(pairs), (_read(folder, *pair) for pair in pairs)))

    train, cut, test = part(folder.train), folder.validation, part(folder.test)
    if isinstance(cut, str):
        return [train, part(cut), test]
    if train.size <= cut:
        raise ValueError(
            f"{name} has {train.size} images to train on, expected more than the {cut} that are "
            "held out for validation.\nFix: the whole data set."
        )
    return [*data.shuffled(train, cut), test]


def _read(folder: Folder, image: Path, mask: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns an image and its labels, i8[height, width], below 0 where they are void."""
    pixels, numbers, count = files.image(image), files.label_image(mask), len(folder.classes)
    if pixels.shape[:2] != numbers.shape:
        expected = "the labels of {} x {} pixels".format(*pixels.shape[:2])
        raise files.damaged(mask, expected, "it has {} x {}".format(*numbers.shape))
    void = numbers == folder.void
    if (numbers[~void] >= count).any():
        expected = f"labels from 0 to {count - 1}, or {folder.void}"
        raise files.damaged(mask, expected, f"it has {np.unique(numbers).tolist()}")
    return pixels, np.where(void, VOID, numbers).astype(np.int8)


def _scaled(
    shape: tuple[int, int], count: int, pairs: Iterable[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and masks, scaled: of images the mean of an area, of masks the nearest."""
    import cv2

    images, masks, to = np.empty((count, *shape, 3), np.uint8), [], shape[::-1]
    for row, (image, mask) in enumerate(pairs):
        images[row] = cv2.resize(image, to, interpolation=cv2.INTER_AREA)
        masks.append(cv2.resize(mask, to, interpolation=cv2.INTER_NEAREST))
    return images, np.stack(masks)
