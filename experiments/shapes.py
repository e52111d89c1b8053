"""Discs, triangles and squares on textured grounds: a segmentation set that is made in a second."""

import math
from typing import NamedTuple

import numpy as np

CLASSES = ("ground", "disc", "triangle", "square")
SIDES = (math.inf, 3, 4)
"""Of the forms: a disc, a triangle, a square."""
OBJECTS = 2
"""In every image; the second may cover the first."""
NOISE = np.float32(12)
"""Its deviation, of 255."""
CHUNK = 500
"""Images that are painted at once: what limits the memory."""


class Places(NamedTuple):
    """Where the pixels of all images are."""

    rows: np.ndarray  # f32[1, size, 1], pixels
    columns: np.ndarray  # f32[1, 1, size]


def generate(count: int, *, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images u8[n, size, size, 3] and the classes of their pixels u8[n, size, size].

    The same for the same arguments. Forms, places, angles, sizes and textures are random; a class
    is a form and nothing else: all forms of one size have the same area, and colors mean nothing.

    Args:
      count: number of images, at least 1.
      size: their height and width in pixels, at least 16.
      seed: of all random numbers, at least 0.

    Raises:
      ValueError: images are too small for the forms to differ.
    """
    if size < 16:
        raise ValueError(f"shapes in {size} pixels are all alike.\nFix: size=16 or more.")
    rng = np.random.default_rng(seed)
    parts = [_painted(rng, min(CHUNK, count - start), size) for start in range(0, count, CHUNK)]
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return images, labels


def _painted(rng: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    line = np.arange(size, dtype=np.float32)
    places = Places(line[None, :, None], line[None, None])
    images, labels = _texture(rng, count, places), np.zeros((count, size, size), np.uint8)
    for _ in range(OBJECTS):
        kinds = rng.integers(len(SIDES), size=count)
        inside = _inside(rng, kinds, size, places)
        images = np.where(inside[..., None], _texture(rng, count, places), images)
        labels = np.where(inside, (kinds[:, None, None] + 1).astype(np.uint8), labels)
    images += NOISE * rng.standard_normal(images.shape, np.float32)
    return np.clip(images, 0, 255).astype(np.uint8), labels


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
    found = np.zeros((count, size, size), bool)
    for kind, sides in enumerate(SIDES):
        those = kinds == kind
        distance = _distance(sides, rows[those], columns[those], angle[those])
        found[those] = distance < radius[those]
    return found


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
