"""Images with a part of every object that is more than its box: its mask, or its keypoints."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data import coco, files, objects, shapes
from experiments.data.objects import Objects

PERSON = ("person",)
"""The one class of COCO that has keypoints."""


class Instances(NamedTuple):
    """Images of one size, the objects in them, and a part of each."""

    images: np.ndarray  # u8[n, size, size, 3]
    boxes: np.ndarray  # as of `Objects`
    classes: np.ndarray  # likewise
    parts: np.ndarray  # [n, objects, ...], what a `Reader` reads


class Data(NamedTuple):
    """What a detector of parts is trained and measured on."""

    single: Objects  # single objects of the training images, and pieces of ground
    train: Instances
    test: Instances
    truth: Mapping[str, Any]  # of the test images, at their own size: a JSON value of COCO
    classes: tuple[str, ...]


class Reader(NamedTuple):
    """How the part of an object is read.

    Attributes:
      what: its name, for errors.
      file: the kind of the files of COCO that have it.
      classes: of COCO, that have it.
      read: (annotation, height, width, size) -> the part, scaled to a square.
      empty: shape -> so many of them, of nothing.
      labeled: parts -> which of them are something, bool.
    """

    what: str
    file: str
    classes: tuple[str, ...]
    read: Callable[[coco.Annotation, int, int, int], Any]
    empty: Callable[[tuple[int, ...]], np.ndarray]
    labeled: Callable[[np.ndarray], Any]


MASKS = Reader(
    "masks",
    "instances",
    coco.CLASSES,
    coco.mask,
    lambda shape: np.full(shape, None),
    np.vectorize(lambda part: part is not None, otypes=[bool]),
)
"""Parts are run lengths, of the size of their images, or None."""


def keypoints(count: int) -> Reader:
    """Returns the reader of so many keypoints: row, column and v, f32[..., count, 3]."""
    return Reader(
        "keypoints",
        "person_keypoints",
        PERSON,
        partial(coco.keypoints, count=count),
        lambda shape: np.zeros((*shape, count, 3), np.float32),
        lambda parts: (parts[..., 2] > 0).any(axis=-1),
    )


def drawn(reader: Reader, train: int, test: int, *, size: int, single: Objects) -> Data:
    """Returns so many images of shapes; the same for every run."""
    classes = shapes.CLASSES[1:]

    def part(seed: int, count: int) -> tuple[Instances, Mapping[str, Any]]:
        pixels, value = shapes.instances(count, size=size, seed=seed)
        found = coco.images(value, Path(), classes)
        places = objects.padded([image.boxes for image in found])
        return _instances(reader, found, Objects(pixels, *places)), value

    (first, _), (second, truth) = part(1, train), part(2, test)
    return Data(single, first, second, truth, classes)


def photographs(
    reader: Reader, *, size: int, single: int, data_dir: Path | None, limit: int | None = None
) -> Data:
    """Returns COCO 2017.

    Args:
      reader: of the part of an object.
      size: height and width in pixels that images are scaled to, whatever their own.
      single: those of the images of single objects.
      data_dir: the folder in which `coco` lies; the present one by default.
      limit: at most that many training images.

    Raises:
      ValueError: a file is missing or damaged, or has no object with that part.
    """
    where = data_dir or Path()

    def part(name: str, limit: int | None) -> tuple[Instances, Mapping[str, Any]]:
        path, value, found = coco.read(where, name, reader.file, reader.classes)
        found = found[:limit]
        images = objects.scaled([(image.path, image.boxes) for image in found], size)
        try:
            instances = _instances(reader, found, images)
        except (KeyError, TypeError, ValueError) as error:
            raise files.damaged(path, f"a file of {reader.what} of COCO", error) from error
        if not reader.labeled(instances.parts).any():
            came = f"none of its {len(found)} images has an object with {reader.what}"
            raise files.damaged(path, f"a file of {reader.what} of COCO", came)
        return instances, value

    (train, _), (test, truth) = part("train", limit), part("val", None)
    pieces = objects.pieces(Objects(*train[:3]), single, ground=len(reader.classes) + 1)
    return Data(pieces, train, test, truth, reader.classes)


def _instances(reader: Reader, found: Sequence[coco.Image], images: Objects) -> Instances:
    """Returns images with the parts of their objects; those of crowds are not read."""
    parts, size = reader.empty(images.classes.shape), images.images.shape[1]
    for row, image in enumerate(found):
        for place, annotation in enumerate(image.annotations):
            if image.boxes.classes[place] > 0:
                parts[row, place] = reader.read(annotation, image.height, image.width, size)
    return Instances(*images, parts)
