"""How well boxes and parts are found: the average precision of COCO, by its own code."""

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from experiments.data.objects import Boxes, padded
from experiments.runner import devices
from experiments.runner.task import Network, Task
from experiments.tasks.detection.measure import found
from experiments.tasks.detection.parts import scaled
from experiments.tasks.instances.config import Config
from experiments.tasks.instances.kinds import Judged, Kind, images, seen

CHUNK = 50
"""Images that a network is given at once, at most."""
MOST = 20
"""Boxes of an image whose parts are looked at, those with the highest scores."""
FIGURES = ("AP", "AP50", "AP75")
"""The first of COCO: the mean over overlaps, or similarities, of 0.5 to 0.95, at 0.5, and 0.75."""


def precision(task: Task[Config], network: Network) -> dict[str, dict[str, float]]:
    """Returns the `FIGURES` of the boxes and of the parts that a network finds in test images."""
    data = images(task)
    kind, results = data.kind, detections(task, network)
    measures: dict[str, Judged] = {"box": "bbox", kind.name: kind.judged}
    return {
        name: average_precision(data.truth, results, judged, kind.sigmas)
        for name, judged in measures.items()
    }


def average_precision(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    judged: Judged,
    sigmas: Sequence[float] = (),
) -> dict[str, float]:
    """Returns the `FIGURES`, from 0 to 1: 0 of no results, NaN where no object counts.

    Args:
      truth: a JSON value of COCO.
      results: what was found, likewise.
      judged: bbox, segm or keypoints.
      sigmas: of the keypoints; by default those of COCO.

    Source: Lin et al., "Microsoft COCO", ECCV 2014; the code is pycocotools.
    """
    if not results:
        return dict.fromkeys(FIGURES, 0.0)
    true: Any = COCO()
    true.dataset = {**truth, "annotations": [{**each} for each in truth["annotations"]]}
    with redirect_stdout(StringIO()):
        true.createIndex()
        judge: Any = COCOeval(true, true.loadRes([{**each} for each in results]), judged)
        if sigmas:
            judge.params.kpt_oks_sigmas = np.array(sigmas)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    values = [float(value) for value in judge.stats[: len(FIGURES)]]
    return {
        name: value if value >= 0 else float("nan")
        for name, value in zip(FIGURES, values, strict=True)
    }


def detections(task: Task[Config], network: Network) -> list[dict[str, Any]]:
    """Returns what a network finds in the test images, at their own size, as results of COCO."""
    data, size = images(task), task.config.image_size
    apply, results = network.model.apply, []
    find = jax.jit(lambda v, x: apply(v, scaled(x), jnp.zeros((len(x), 1, 4)))[0])
    look = jax.jit(lambda v, x, boxes: apply(v, scaled(x), boxes)[1])
    count, variables = len(data.test.images), devices.everywhere(network.variables)
    numbers = {item["name"]: item["id"] for item in data.truth["categories"]}
    of_class = [numbers.get(name) for name in ("", *data.classes)]  # a file may have fewer
    for rows in np.array_split(np.arange(count), -(-count // CHUNK)):
        pixels = data.test.images[rows]
        logits, places = devices.of_each(find, variables, pixels, most=CHUNK)
        best = strongest(logits, places, size)
        boxes, _ = padded([Boxes(each.boxes, each.classes) for each, _ in best])
        room = np.pad(boxes, ((0, 0), (0, MOST - boxes.shape[1]), (0, 0)))
        parts = devices.of_each(look, variables, pixels, seen(data.kind, room), most=CHUNK)
        for row, (each, scores), logits in zip(rows, best, parts, strict=True):
            image = data.truth["images"][row]
            results += [
                {"image_id": image["id"], "category_id": of_class[label], "score": float(score)}
                | _result(data.kind, image, box, size, near)
                for box, label, score, near in zip(*each, scores, logits, strict=False)
                if of_class[label] is not None
            ]
    return results


def strongest(logits: np.ndarray, places: np.ndarray, size: int) -> list[tuple[Boxes, np.ndarray]]:
    """Returns the best `MOST` boxes of each image, of all classes, within it, with their scores.

    Args:
      logits: f32[n, h, w, classes].
      places: boxes f32[n, h, w, 4].
      size: of images, in pixels.
    """
    best = []
    for of_classes in zip(*found(logits, places), strict=True):
        scores = np.concatenate([each.scores for each in of_classes])
        boxes = np.clip(np.concatenate([each.boxes for each in of_classes]), 0, size)
        labels = np.repeat(
            np.arange(1, len(of_classes) + 1), [len(each.scores) for each in of_classes]
        )
        order = np.argsort(-scores, kind="stable")[:MOST]
        best.append((Boxes(boxes[order], labels[order]), scores[order]))
    return best


def _result(
    kind: Kind, image: Mapping[str, Any], box: np.ndarray, size: int, logits: np.ndarray
) -> dict[str, Any]:
    shape = image["height"], image["width"]
    box = box.astype(np.float64) * np.tile(shape, 2) / size
    top, left, bottom, right = box.tolist()
    part = kind.result(logits, seen(kind, box), *shape)
    return {"bbox": [left, top, right - left, bottom - top]} | part
