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
    model, graph, widths = classifier(task)
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
    for label, (kind, each) in enumerate(
        zip(classes(task.config), found(logits, places), strict=True), 1
    ):
        true, difficult = (
            [b[c == number] for b, c in zip(test.boxes, test.classes, strict=True)]
            for number in (label, -label)
        )
        precisions[kind] = boxes.average_precision(each, true, difficult)
    return precisions


def _seeing(run: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the compiled network that sees pixels."""
    return jax.jit(lambda variables, images: run(variables, scaled(images)))


def found(logits: np.ndarray, places: np.ndarray) -> list[list[Found]]:
    """Returns what is in images: a list for each class, of what each image has of it.

    Args:
      logits: f32[n, h, w, classes].
      places: boxes f32[n, h, w, 4].
    """
    here = places.reshape(len(places), -1, 4)
    of_class = np.moveaxis(logits, -1, 0).reshape(logits.shape[-1], len(logits), -1)
    return [[detected(*pair) for pair in zip(here, each, strict=True)] for each in of_class]


def detected(places: np.ndarray, logits: np.ndarray, *, most: int = 20) -> Found:
    """Returns what one image has of one class.

    Args:
      places: boxes f32[n, 4].
      logits: f32[n], of this class.
      most: places that are looked at, those with the highest logits.
    """
    best = np.argsort(-logits, kind="stable")[:most]
    return boxes.suppressed(Found(places[best], logits[best]))
