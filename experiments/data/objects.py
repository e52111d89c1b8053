"""Images with boxes of objects, as arrays of one size, and what is cut out of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data import files

MARGIN = 0.2
"""Share of a piece of ground that one object may cover, at most."""
TRIES = 20
"""Random pieces of an image, of which the first that is ground is taken."""


class Boxes(NamedTuple):
    """The objects of one image."""

    boxes: np.ndarray  # f32[n, 4]: top, left, bottom, right in pixels, the last two beyond it
    classes: np.ndarray  # i32[n] from 1; below 0 if neither to find it nor to miss it counts


class Objects(NamedTuple):
    """Images of one size, and the objects in them."""

    images: np.ndarray  # u8[n, size, size, 3]
    boxes: np.ndarray  # f32[n, objects, 4], as of `Boxes`
    classes: np.ndarray  # i32[n, objects], as of `Boxes`; 0 is no object, or one hardly seen


def boxes(each: Sequence[tuple[Sequence[float], int]]) -> Boxes:
    """Returns the objects of an image.

    Raises:
      ValueError: a box is empty or not finite.
    """
    found = np.array([box for box, _ in each], np.float32).reshape(-1, 4)
    if not (np.isfinite(found).all() and (found[:, :2] < found[:, 2:]).all()):
        raise ValueError(f"a box of {found.tolist()} (top, left, bottom, right) is empty")
    return Boxes(found, np.array([label for _, label in each], np.int32))


def number(name: str, classes: Sequence[str]) -> int:
    """Returns the number of a class, from 1.

    Raises:
      ValueError: there is no such class.
    """
    if name not in classes:
        raise ValueError(f"an object is {name!r}, none of {', '.join(classes)}")
    return classes.index(name) + 1


def scaled(each: Sequence[tuple[Path, Boxes]], size: int) -> Objects:
    """Returns images and boxes, scaled to a square: overlaps of boxes stay what they are.

    Args:
      each: the file of every image, and its objects.
      size: height and width in pixels.

    Raises:
      ValueError: an image is missing or damaged.
    """
    import cv2

    images, found = np.empty((len(each), size, size, 3), np.uint8), []
    for row, (path, there) in enumerate(each):
        image = files.image(path)
        images[row] = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        factor = np.float32(size) / np.tile(image.shape[:2], 2)
        found.append(there._replace(boxes=np.clip(there.boxes * factor, 0, size)))
    return Objects(images, *padded(found))


def padded(each: Sequence[Boxes]) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes f32[n, objects, 4] and classes i32[n, objects]; what is not there is 0."""
    most = max((len(found.classes) for found in each), default=0)
    places = np.zeros((len(each), most, 4), np.float32)
    classes = np.zeros((len(each), most), np.int32)
    for row, found in enumerate(each):
        count = len(found.classes)
        places[row, :count] = found.boxes
        classes[row, :count] = found.classes
    return places, classes


def pieces(objects: Objects, size: int, *, ground: int, seed: int = 0) -> Objects:
    """Returns every object by itself, and a piece of ground of every image that has one.

    Args:
      objects: those of which neither to find nor to miss counts are left out.
      size: height and width in pixels of the pieces.
      ground: the class of the pieces of ground.
      seed: of their places.
    """
    import cv2

    rng, cut, labels = np.random.default_rng(seed), [], []
    for image, places, classes in zip(*objects, strict=True):
        wanted = [*zip(places[classes > 0], classes[classes > 0], strict=True)]
        free = _ground(rng, len(image), places)
        for place, label in [*wanted, *((box, ground) for box in free)]:
            top, left = np.floor(place[:2]).astype(int)
            bottom, right = np.ceil(place[2:]).astype(int)
            piece = image[top:bottom, left:right]
            if piece.size:
                cut.append(cv2.resize(piece, (size, size), interpolation=cv2.INTER_AREA))
                labels.append(label)
    whole = np.broadcast_to(np.array([0, 0, size, size], np.float32), (len(cut), 1, 4))
    images = np.stack(cut) if cut else np.empty((0, size, size, 3), np.uint8)
    return Objects(images, whole, np.array(labels, np.int32)[:, None])


def _ground(rng: np.random.Generator, size: int, places: np.ndarray) -> list[np.ndarray]:
    """Returns a random square with hardly an object in it, if one is found."""
    for _ in range(TRIES):
        side = rng.uniform(size / 4, size / 2)
        low = rng.uniform(0, size - side, 2)
        box = np.concatenate([low, low + side])
        shared = np.minimum(box[2:], places[:, 2:]) - np.maximum(box[:2], places[:, :2])
        if np.prod(np.maximum(shared, 0), axis=1).max(initial=0) <= MARGIN * side**2:
            return [box]
    return []


def mirrored(
    flips: np.ndarray, images: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and their boxes, some of them left to right.

    Args:
      flips: which, bool[n].
      images: u8[n, height, width, channels].
      boxes: f32[n, objects, 4].
    """
    width = images.shape[2]
    other = np.stack(
        [boxes[..., 0], width - boxes[..., 3], boxes[..., 2], width - boxes[..., 1]], axis=-1
    )
    chosen = flips[:, None, None]
    return np.where(chosen[..., None], images[:, :, ::-1], images), np.where(chosen, other, boxes)
