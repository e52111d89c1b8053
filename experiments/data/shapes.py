"""Discs, triangles and squares: sets with labels of all pixels, or with boxes, made in seconds."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from experiments.data import coco
from experiments.data.objects import Objects

CLASSES = ("ground", "disc", "triangle", "square")
SIDES = (math.inf, 3, 4)
"""Of the forms: a disc, a triangle, a square."""
EXTREMES = ("top", "left", "bottom", "right")
"""The keypoints of a form: the middle of its pixels in its first row, column, and so on."""
TINT = 0.5
"""How much of the color of a form in `objects` is that of its class: red, green or blue."""
OBJECTS = 2
"""In every image; the second may cover the first."""
NOISE = 12.0
"""Its deviation, of 255."""
CHUNK = 500
"""Images that are painted at once: what limits the memory."""


class Places(NamedTuple):
    """Where the pixels of all images are."""

    rows: np.ndarray  # f32[1, size, 1], pixels
    columns: np.ndarray  # f32[1, 1, size]


def generate(
    count: int, *, size: int, seed: int, noise: float = NOISE
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images u8[n, size, size, 3] and the classes of their pixels u8[n, size, size].

    The same for the same arguments. Forms, places, angles, sizes and textures are random; a class
    is a form and nothing else: all forms of one size have the same area, and colors mean nothing.

    Args:
      count: number of images, at least 1.
      size: their height and width in pixels, at least 16.
      seed: of all random numbers, at least 0.
      noise: deviation of the noise on every pixel and color, of 255.

    Raises:
      ValueError: images are too small for the forms to differ.
    """

    def labeled(scene: _Scenes) -> tuple[np.ndarray, np.ndarray]:
        labels = np.zeros(scene.images.shape[:3], np.uint8)
        for kinds, inside in zip(scene.kinds, scene.inside, strict=True):
            labels = np.where(inside, (kinds[:, None, None] + 1).astype(np.uint8), labels)
        return scene.images, labels

    parts = map(labeled, _scenes(count, size, seed, noise, 0.0, OBJECTS))
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return images, labels


def objects(count: int, *, size: int, seed: int, each: int = OBJECTS) -> Objects:
    """Returns images as of `generate`, and the boxes of their forms, cut at the edges.

    A box is that of the whole form; the class of one of which most is covered is 0.

    Here the color of a form hints at its class, so that a detector learns it in minutes.

    Args:
      count: number of images, at least 1.
      size: their height and width in pixels, at least 16.
      seed: of all random numbers, at least 0.
      each: forms in an image.

    Raises:
      ValueError: images are too small for the forms to differ.
    """
    parts = map(_boxed, _scenes(count, size, seed, NOISE, TINT, each))
    return Objects(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def instances(
    count: int, *, size: int, seed: int, each: int = OBJECTS
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns the images of `objects`, and what is in them in the form of a JSON file of COCO.

    A mask is what is seen of a form; its keypoints are `EXTREMES`, hidden where a later form covers
    them and not labeled at an edge of the image. One of which most is covered is not in the file.

    Args, errors: those of `objects`.

    Source: extreme points are those of Zhou et al., "Bottom-up Object Detection by Grouping Extreme
    and Center Points", CVPR 2019.
    """
    images, found = [], []
    for scene in _scenes(count, size, seed, NOISE, TINT, each):
        images.append(scene.images)
        found += _annotations(scene, first=len(found))
    annotations = [item for those in found for item in those]
    names = {"keypoints": list(EXTREMES), "supercategory": "form"}
    return np.concatenate(images), {
        "images": [
            {"id": i, "file_name": f"{i}", "height": size, "width": size} for i in range(count)
        ],
        "annotations": [item | {"id": i} for i, item in enumerate(annotations, 1)],
        "categories": [{"id": i, "name": name} | names for i, name in enumerate(CLASSES[1:], 1)],
    }


class _Scenes(NamedTuple):
    images: np.ndarray  # u8[n, size, size, 3]
    kinds: np.ndarray  # i64[objects, n], places in SIDES
    inside: np.ndarray  # bool[objects, n, size, size]; a later object covers an earlier one


def _scenes(
    count: int, size: int, seed: int, noise: float, tint: float, objects: int
) -> Iterator[_Scenes]:
    if size < 16:
        raise ValueError(f"shapes in {size} pixels are all alike.\nFix: size=16 or more.")
    rng, line = np.random.default_rng(seed), np.arange(size, dtype=np.float32)
    places = Places(line[None, :, None], line[None, None])
    for start in range(0, count, CHUNK):
        paint = partial(_texture, rng, min(CHUNK, count - start), places)
        yield _painted(rng, paint, places, noise, tint, objects)


def _painted(
    rng: np.random.Generator,
    paint: Callable[[], np.ndarray],
    places: Places,
    noise: float,
    tint: float,
    objects: int,
) -> _Scenes:
    images, forms, tints = paint(), [], np.float32(255 * tint) * np.eye(3, dtype=np.float32)
    count, size = images.shape[:2]
    for _ in range(objects):
        kinds = rng.integers(len(SIDES), size=count)
        inside = _inside(rng, kinds, size, places)
        color = np.float32(1 - tint) * paint() + tints[kinds][:, None, None]
        images = np.where(inside[..., None], color, images)
        forms.append((kinds, inside))
    images += np.float32(noise) * rng.standard_normal(images.shape, np.float32)
    kinds, inside = map(np.stack, zip(*forms, strict=True))
    return _Scenes(np.clip(images, 0, 255).astype(np.uint8), kinds, inside)


def _boxed(scene: _Scenes) -> Objects:
    covered, classes = np.zeros_like(scene.inside[0]), []
    for kinds, inside in zip(scene.kinds[::-1], scene.inside[::-1], strict=True):
        seen = np.sum(inside & ~covered, axis=(1, 2)) / inside.sum(axis=(1, 2))
        classes.append(np.where(seen >= 0.5, kinds + 1, 0))
        covered |= inside
    lines = [np.asarray(scene.inside.any(axis=axis)) for axis in (3, 2)]
    first = [line.argmax(axis=-1) for line in lines]
    last = [line.shape[-1] - line[..., ::-1].argmax(axis=-1) for line in lines]
    boxes = np.stack([*first, *last], axis=-1).astype(np.float32)
    return Objects(
        scene.images, boxes.transpose(1, 0, 2), np.stack(classes[::-1], 1).astype(np.int32)
    )


def _annotations(scene: _Scenes, first: int) -> list[list[dict[str, Any]]]:
    """Returns the objects of each image of a scene, whose number is `first`."""
    seen = scene.inside.copy()
    for place, inside in enumerate(scene.inside):
        seen[:place] &= ~inside
    _, boxes, classes = _boxed(scene)
    points = _extremes(scene.inside, seen, boxes.astype(int)).reshape(*classes.shape, -1)
    found = []
    for row, kinds in enumerate(classes):
        found.append([])
        for form in np.flatnonzero(kinds):
            top, left, bottom, right = boxes[row, form].tolist()
            numbers = points[row, form].tolist()
            found[-1].append(
                {
                    "image_id": first + row,
                    "category_id": int(kinds[form]),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(seen[form, row].sum()),
                    "iscrowd": 0,
                    "segmentation": coco.encoded(seen[form, row]),
                    "keypoints": numbers,
                    "num_keypoints": int(np.count_nonzero(numbers[2::3])),
                }
            )
    return found


def _extremes(inside: np.ndarray, seen: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns x, y and v of the `EXTREMES` of every form, f64[n, objects, 4, 3].

    Args:
      inside: bool[objects, n, size, size].
      seen: likewise, what no later form covers.
      boxes: i64[n, objects, 4].
    """
    found, size = [], inside.shape[-1]
    form, image = np.indices(inside.shape[:2])
    for axis, edge in ((0, 0), (1, 1), (0, 2), (1, 3)):
        end = boxes[..., edge].T  # [objects, n], as all that follows
        at = end - (edge > 1)
        there, shown = (
            (part if axis == 0 else part.swapaxes(2, 3))[form, image, at] for part in (inside, seen)
        )
        middle = (there * np.arange(size)).sum(axis=-1) / there.sum(axis=-1)
        whole = shown[form, image, np.rint(middle).astype(int)]
        labeled = end != (size if edge > 1 else 0)
        place = (middle, at) if axis == 0 else (at, middle)
        found.append(np.stack([*place, 1 + whole], axis=-1) * labeled[..., None])
    return np.stack(found, axis=2).swapaxes(0, 1)


def _texture(rng: np.random.Generator, count: int, places: Places) -> np.ndarray:
    """Returns stripes, f32[count, size, size, 3]: a random wave between two random colors."""
    first, second = rng.uniform(0, 255, (2, count, 1, 1, 3)).astype(np.float32)
    angle, phase = _uniform(rng, 0, 2 * math.pi, count), _uniform(rng, 0, 2 * math.pi, count)
    along = np.cos(angle) * places.rows + np.sin(angle) * places.columns
    wave = np.sin(2 * math.pi * along / _uniform(rng, 4, 16, count) + phase)
    return first + (second - first) * (0.5 + 0.25 * wave[..., None])


def _inside(rng: np.random.Generator, kinds: np.ndarray, size: int, places: Places) -> np.ndarray:
    """Returns which pixels are in a random form of each image, bool[count, size, size]."""
    count = len(kinds)
    angle = _uniform(rng, 0, 2 * math.pi, count)
    radius = _uniform(rng, size / 6, size / 3.5, count)
    rows, columns = (line - _uniform(rng, size / 6, size * 5 / 6, count) for line in places)
    inside = np.zeros((count, size, size), bool)
    for kind, sides in enumerate(SIDES):
        those = kinds == kind
        distance = _distance(sides, rows[those], columns[those], angle[those])
        inside[those] = distance < radius[those]
    return inside


def _distance(sides: float, rows: np.ndarray, columns: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Returns what is below r in the regular polygon that has the area of a disc of radius r."""
    if sides == math.inf:
        return np.hypot(rows, columns)
    turns = (angle + np.float32(2 * math.pi * side / sides) for side in range(int(sides)))
    out = (np.cos(turn) * rows + np.sin(turn) * columns for turn in turns)
    apothem = math.sqrt(math.pi / (sides * math.tan(math.pi / sides)))
    return np.maximum.reduce(list(out)) / np.float32(apothem)


def _uniform(rng: np.random.Generator, low: float, high: float, count: int) -> np.ndarray:
    return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)
