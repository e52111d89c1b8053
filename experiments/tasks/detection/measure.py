"""How well a width of the classifier, or of the detector, does."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from experiments.procedures import joint
from experiments.runner import devices
from experiments.runner.task import Network, Task
from experiments.tasks.detection import boxes
from experiments.tasks.detection.boxes import Found
from experiments.tasks.detection.config import Config
from experiments.tasks.detection.parts import classes, classifier, detector, made, scaled
from jaxprune import slimmable

CHUNK = 500
"""Images that a network is given at once, at most."""


def accuracy(task: Task[Config], network: Network, name: str) -> float:
    """Returns the share of the images of one object that a width of the classifier gets right.

    They are those that it was trained on.
    """
    model, graph, widths = classifier(task.config)
    params, rest = joint.parts(network.variables)
    small = slimmable.variables(graph, params, rest, name, widths[name])
    run = partial(jp.linen.resize(model, graph, widths[name]).apply, train=False)
    single = made(task).single
    logits = devices.of_each(_seeing(run), small, single.images, most=CHUNK)
    return float(np.mean(np.argmax(logits, -1) == single.classes[:, 0] - 1))


def precision(task: Task[Config], network: Network, name: str) -> dict[str, float]:
    """Returns the average precision of each class on the test images, for one width."""
    model, graph, widths = detector(task.config)
    params, rest = joint.parts(network.variables)
    small = slimmable.variables(graph, params, rest, name, widths[name])
    run, test = jp.linen.resize(model, graph, widths[name]).apply, made(task).test
    logits, places = devices.of_each(_seeing(run), small, test.images, most=CHUNK)
    precisions = {}
    for label, kind in enumerate(classes(task.config)):
        scores = logits[..., label].reshape(len(logits), -1)
        each = [
            detected(*pair) for pair in zip(places.reshape(len(places), -1, 4), scores, strict=True)
        ]
        true, difficult = (
            [b[c == number] for b, c in zip(test.boxes, test.classes, strict=True)]
            for number in (label + 1, -label - 1)
        )
        precisions[kind] = boxes.average_precision(each, true, difficult)
    return precisions


def _seeing(run: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the compiled network that sees pixels."""
    return jax.jit(lambda variables, images: run(variables, scaled(images)))


def detected(places: np.ndarray, logits: np.ndarray, *, most: int = 20) -> Found:
    """Returns what one image has of one class.

    Args:
      places: boxes f32[n, 4].
      logits: f32[n], of this class.
      most: places that are looked at, those with the highest logits.
    """
    best = np.argsort(-logits, kind="stable")[:most]
    return boxes.suppressed(Found(places[best], logits[best]))
