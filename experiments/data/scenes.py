"""Segmentation data sets: `shapes`, which is made here, and those of TensorFlow Datasets (TFDS).

To add one of TFDS, enter it in `PREPARED`. They are prepared once, with a network:

    python -m experiments.data prepare oxford_iiit_pet --data-dir DIR
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from experiments import data
from experiments.data import Dataset, Split, prepared, shapes
from experiments.data.augment import Augment


class Recipe(NamedTuple):
    """How a data set of TFDS with the features `image` and `segmentation_mask` is used."""

    train: str  # the splits to train on, in the words of TFDS
    test: str
    validation: int  # images cut from those to train on
    classes: tuple[str, ...]
    first: int  # the number that the first class has in the masks


PREPARED: Mapping[str, Recipe] = MappingProxyType(
    {"oxford_iiit_pet": Recipe("train", "test", 400, ("pet", "ground", "border"), 1)}
)
SHAPES = {"train": 4000, "validation": 300, "test": 500}
"""Images of every part of the shapes."""


def load(
    name: str, *, size: int, data_dir: Path | None = None, limit: int | None = None
) -> Dataset:
    """Returns the data set of that name, its labels those of pixels; the same for every run.

    Nothing is augmented: in the paper mirrored and shifted images "yielded no noticeable
    improvement" (Long et al., CVPR 2015, section 4.3).

    Args:
      name: `shapes`, or one of `PREPARED`.
      size: height and width in pixels that the images are made or scaled to, whatever their own.
      data_dir: where TFDS has prepared it; `TFDS_DATA_DIR` or `~/tensorflow_datasets` by default.
      limit: at most that many training images. Mean and deviation stay those of all of them.

    Raises:
      ValueError: there is no such data set, it is not prepared in `data_dir`, or cannot be read.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} leaves no training images.\nFix: 1 or more, or none.")
    if name not in ("shapes", *PREPARED):
        raise ValueError(f"no data set {name!r}.\nFix: one of {sorted(['shapes', *PREPARED])}.")
    parts = _shapes(size) if name == "shapes" else _prepared(name, size, data_dir)
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
    return shapes.CLASSES if name == "shapes" else PREPARED[name].classes


def _shapes(size: int) -> list[Split]:
    counts = enumerate(SHAPES.values())
    return [Split(*shapes.generate(count, size=size, seed=seed)) for seed, count in counts]


def _prepared(name: str, size: int, data_dir: Path | None) -> list[Split]:
    recipe, builder = PREPARED[name], prepared.builder(name, data_dir)
    decode, form = partial(_scaled, size), f"-{size}-pixels"
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


def _scaled(size: int, builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and masks, scaled: of images the mean of an area, of masks the nearest."""
    import cv2

    source = builder.as_data_source(split=split)
    images = np.empty((len(source), size, size, 3), np.uint8)
    masks = np.empty((len(source), size, size), np.uint8)
    for row, example in enumerate(source):
        image, mask = example["image"], example["segmentation_mask"]
        images[row] = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        masks[row] = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
    return images, masks
