"""Keypoints: in which place of a box each shall be, how wrong a heat map is, and what it says.

Source: He et al., Mask R-CNN, ICCV 2017, section 5: a softmax over all places of the box. Here the
head sees more than the box, as a keypoint may be at its edge and what is found is not exact.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data.instances import keypoints
from experiments.models.instances import SIZE
from experiments.tasks.instances.kinds import Kind

MARGIN = 0.15
"""How far beyond a box the head sees, a share of its height or width on every side."""


def targets(
    parts: np.ndarray,
    there: np.ndarray,
    flips: np.ndarray,
    boxes: np.ndarray,
    size: int,
    *,
    mirrored: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the place of each keypoint, i32[n, r, keypoints], row by row, and which count, bool.

    Those count that are labeled and in the box.

    Args:
      parts: row, column and v, f32[n, r, keypoints, 3].
      there: which objects count, bool[n, r].
      flips: which images are mirrored, bool[n].
      boxes: after that, f32[n, r, 4].
      size: of images, in pixels.
      mirrored: the keypoint that each of them is in the mirror.
    """
    row, column, seen = np.moveaxis(parts[:, :, list(mirrored)], -1, 0)
    other = np.stack([row, size - column, seen], axis=-1)
    points = np.where(flips[:, None, None, None], other, parts)
    low, high = boxes[:, :, None, :2], boxes[:, :, None, 2:]
    place = np.floor((points[..., :2] - low) / np.maximum(high - low, 1e-6) * SIZE)
    counts = ((place >= 0) & (place < SIZE)).all(axis=-1) & (points[..., 2] > 0) & there[..., None]
    row, column = np.moveaxis(np.where(counts[..., None], place, 0), -1, 0)
    return (row * SIZE + column).astype(np.int32), counts


def loss(logits: jax.Array, wanted: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Returns the cross-entropy of the heat maps, the mean over the keypoints that count.

    Args:
      logits: f32[n, r, SIZE, SIZE, keypoints].
      wanted: what `targets` returned.
    """
    place, counts = wanted
    maps = jnp.moveaxis(logits, -1, 2).reshape(*place.shape, -1)
    each = optax.softmax_cross_entropy_with_integer_labels(maps, place)
    return jnp.where(counts, each, 0).sum() / jnp.maximum(counts.sum(), 1)


def result(logits: np.ndarray, box: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """Returns x, y and 1 of every keypoint: the middle of the likeliest place.

    Args:
      logits: f32[SIZE, SIZE, keypoints].
      box: f64[4], in pixels of the image.
      height: of the image; not used.
      width: likewise.
    """
    del height, width
    best = logits.reshape(SIZE * SIZE, -1).argmax(axis=0)
    place = np.stack(np.divmod(best, SIZE), axis=1)
    y, x = (box[:2] + (place + 0.5) / SIZE * (box[2:] - box[:2])).T - 0.5  # COCO counts pixels
    return {"keypoints": np.stack([x, y, np.ones_like(x)], axis=1).ravel().tolist()}


def kind(mirrored: Sequence[int], sigmas: Sequence[float]) -> Kind:
    """Returns the kind of these keypoints.

    Args:
      mirrored: the keypoint that each of them is in the mirror.
      sigmas: of the measure, for each of them.
    """
    return Kind(
        "keypoints",
        keypoints(len(mirrored)),
        len(mirrored),
        partial(targets, mirrored=mirrored),
        loss,
        result,
        "keypoints",
        tuple(sigmas),
        MARGIN,
    )
