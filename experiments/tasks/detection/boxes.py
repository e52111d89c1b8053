"""Boxes: which place of a detector answers for which, how wrong one is, and average precision.

A box is top, left, bottom, right in pixels; the last two are beyond it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

RADIUS = 1.5
"""Strides from the center of a box within which a place answers for it."""


class Found(NamedTuple):
    """The boxes of one class in one image."""

    boxes: np.ndarray  # f32[n, 4]
    scores: np.ndarray  # f32[n]


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of every box of `a` with every one of `b`, f[n, m]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(np.maximum(x[:, 2:] - x[:, :2], 0), axis=-1) for x in (a, b)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def suppressed(detections: Found, *, overlap: float = 0.5) -> Found:
    """Returns what is left, the best first, when each takes away those that overlap it by more."""
    order = np.argsort(-detections.scores, kind="stable")
    shared, left = overlaps(detections.boxes, detections.boxes), []
    while order.size:
        best, *_ = order
        left.append(best)
        order = order[1:][shared[best, order[1:]] <= overlap]
    return Found(detections.boxes[left], detections.scores[left])


def average_precision(
    detections: Sequence[Found],
    true: Sequence[np.ndarray],
    difficult: Sequence[np.ndarray] | None = None,
    *,
    overlap: float = 0.5,
) -> float:
    """Returns the average precision of one class; NaN if it is nowhere.

    It is the area under the precision as a function of the recall, where precision at a recall is
    the best at that recall or a higher one.

    Args:
      detections: of each image.
      true: the boxes of each image, f32[n, 4].
      difficult: likewise, those that neither to find nor to miss counts.
      overlap: intersection over union, in (0, 1].

    Source: Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV
    2015 (the area under the whole curve). COCO reads the same curve at 101 recalls, and gives a
    detection whose best box was detected before the next best one.
    """
    if not sum(map(len, true)):
        return float("nan")
    recall, precision = curve(detections, true, difficult, overlap=overlap)
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def curve(
    detections: Sequence[Found],
    true: Sequence[np.ndarray],
    difficult: Sequence[np.ndarray] | None = None,
    *,
    overlap: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall and precision, f64[n], after each detection that counts.

    In order of their scores, over all images, a detection is right if the true box that it overlaps
    most is overlapped by `overlap` at least and was not detected before; if that box is difficult,
    it does not count. The arguments are those of `average_precision`.
    """
    hard = difficult or [np.zeros((0, 4))] * len(true)
    judged = [_judged(*each, overlap) for each in zip(detections, true, hard, strict=True)]
    scores = np.concatenate([each.scores for each in detections])
    right, counts = map(np.concatenate, zip(*judged, strict=True))
    hits = np.cumsum(right[counts][np.argsort(-scores[counts], kind="stable")])
    precision = hits / np.arange(1, len(hits) + 1)
    return hits / sum(map(len, true)), np.maximum.accumulate(precision[::-1])[::-1]


def _judged(
    detections: Found, true: np.ndarray, difficult: np.ndarray, overlap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which boxes are right, and which count, bool[n] both."""
    right, counts = np.zeros(len(detections.scores), bool), np.ones(len(detections.scores), bool)
    if not len(true) + len(difficult):
        return right, counts
    shared, taken = overlaps(detections.boxes, np.concatenate([true, difficult])), set()
    for place in np.argsort(-detections.scores, kind="stable"):
        nearest = int(shared[place].argmax())
        if shared[place, nearest] >= overlap:
            counts[place] = nearest < len(true)
            right[place] = counts[place] and nearest not in taken
            taken.add(nearest)
    return right, counts


def assigned(
    middle: jax.Array, boxes: jax.Array, classes: jax.Array, stride: int
) -> tuple[jax.Array, jax.Array]:
    """Returns what each place shall say: classes i32[n, h, w], 0 for none, boxes f32[n, h, w, 4].

    A place in a box and within `RADIUS` strides of its center, along both axes, answers for it; of
    several for the smallest.

    Args:
      middle: of the places, f32[h, w, 2].
      boxes: f32[n, objects, 4].
      classes: i32[n, objects], 0 for an object that does not count.
      stride: pixels between places.

    Source: Tian et al., FCOS, ICCV 2019, with the center sampling of the authors' code.
    """
    places, each = middle[None, None], boxes[:, :, None, None]
    low, high = each[..., :2], each[..., 2:]
    near = jnp.abs(places - (low + high) / 2) < RADIUS * stride
    inside = jnp.all((places > low) & (places < high) & near, axis=-1)
    inside &= (classes > 0)[:, :, None, None]
    area = jnp.where(inside, jnp.prod(high - low, axis=-1), jnp.inf)
    smallest = area.argmin(axis=1)
    of = jnp.arange(len(boxes))[:, None, None]
    label = jnp.where(inside.any(axis=1), classes[of, smallest], 0)
    return label, boxes[of, smallest]


def generalized_overlap(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the generalized intersection over union of each box with its partner, f32[...].

    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.
    """

    def area(low: jax.Array, high: jax.Array) -> jax.Array:
        return jnp.prod(jnp.maximum(high - low, 0), axis=-1)

    (low, high), (other_low, other_high) = ((x[..., :2], x[..., 2:]) for x in (a, b))
    shared = area(jnp.maximum(low, other_low), jnp.minimum(high, other_high))
    either = area(low, high) + area(other_low, other_high) - shared
    hull = area(jnp.minimum(low, other_low), jnp.maximum(high, other_high))
    return shared / jnp.maximum(either, 1e-6) - (hull - either) / jnp.maximum(hull, 1e-6)


def loss(outputs: tuple[jax.Array, jax.Array], wanted: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Returns the focal loss of the classes plus the overlap loss of the boxes, for each object.

    Args:
      outputs: logits f32[n, h, w, classes] and boxes f32[n, h, w, 4].
      wanted: what `assigned` returned.

    Source: Tian et al., FCOS, ICCV 2019; Lin et al., "Focal Loss", ICCV 2017 (alpha 0.25, gamma 2).
    """
    (logits, boxes), (label, targets) = outputs, wanted
    there = label > 0
    count = jnp.maximum(there.sum(), 1)
    hot = jax.nn.one_hot(label - 1, logits.shape[-1])
    focal = optax.sigmoid_focal_loss(logits, hot, alpha=0.25, gamma=2.0)
    reach = jnp.where(there, 1 - generalized_overlap(boxes, targets), 0)
    return (focal.sum() + reach.sum()) / count
