"""Masks: what the head shall say of each place in a box, how wrong it is, and what it found.

Source: He et al., Mask R-CNN, ICCV 2017. There is one mask for a box, not one for each class, which
is as good (their table 2b).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import coco
from experiments.data.instances import MASKS
from experiments.models.instances import SIZE, aligned
from experiments.tasks.instances.kinds import Kind


def targets(
    parts: np.ndarray, there: np.ndarray, flips: np.ndarray, boxes: np.ndarray, size: int
) -> tuple[jax.Array, np.ndarray]:
    """Returns which places in boxes are of the object, bool[n, r, SIZE, SIZE], and `there`.

    Args:
      parts: run lengths of every object, or None: object[n, r].
      there: which objects count, bool[n, r].
      flips: which images are mirrored, bool[n].
      boxes: after that, f32[n, r, 4].
      size: of images, in pixels.
    """
    pixels, each = np.zeros((*there.shape, size, size), np.uint8), parts.tolist()
    for image, box in zip(*np.nonzero(there), strict=True):
        pixels[image, box] = coco.pixels(each[image][box])
    pixels[flips] = pixels[flips][..., ::-1]
    return _cut(pixels, boxes), there


@jax.jit
def _cut(pixels: jax.Array, boxes: jax.Array) -> jax.Array:
    size = pixels.shape[-1]
    each = pixels.reshape(-1, size, size, 1).astype(jnp.float32)
    near = aligned(each, boxes.reshape(-1, 1, 4), SIZE)
    return near.reshape(*boxes.shape[:2], SIZE, SIZE) >= 0.5


def loss(logits: jax.Array, wanted: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Returns the binary cross-entropy, the mean over the places of the boxes that count.

    Args:
      logits: f32[n, r, SIZE, SIZE, 1].
      wanted: what `targets` returned.
    """
    inside, there = wanted
    each = optax.sigmoid_binary_cross_entropy(logits[..., 0], inside.astype(logits.dtype))
    return jnp.where(there, each.mean(axis=(2, 3)), 0).sum() / jnp.maximum(there.sum(), 1)


def result(logits: np.ndarray, box: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """Returns the mask in the image, as run lengths: where, between the places, it is likely.

    Args:
      logits: f32[SIZE, SIZE, 1].
      box: f64[4], in pixels of the image.
      height: of the image, in pixels.
      width: likewise.
    """
    likely = 1 / (1 + np.exp(-logits[..., 0].astype(np.float64)))
    rows, columns = (
        _between(np.arange(length) + 0.5, box[axis], box[axis + 2])
        for axis, length in enumerate((height, width))
    )
    inside = rows @ likely @ columns.T >= 0.5
    return {"segmentation": coco.encoded(inside)}


def _between(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns what each place of a box counts for each pixel, f64[pixels, SIZE]; none outside."""
    places = (pixels - low) / max(high - low, 1e-6) * SIZE - 0.5
    nearest = np.clip(places, 0, SIZE - 1)[:, None]
    there = (pixels > low) & (pixels < high)
    return np.maximum(1 - np.abs(nearest - np.arange(SIZE)), 0) * there[:, None]


KIND = Kind("mask", MASKS, 1, targets, loss, result, "segm")
"""The same for all data sets."""
