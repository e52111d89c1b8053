"""The images of a run, and the two networks that are trained on them, with their widths."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxprune as jp
from experiments.data import boxed, shapes
from experiments.data.boxed import Parts as Images
from experiments.models.detector import Classifier, Detector
from experiments.runner.task import Task
from experiments.tasks.detection import boxes
from experiments.tasks.detection.config import Config
from jaxprune import slimmable
from jaxprune.keep.check import Keep

WHOLE = ("neck/*", "head/*")
"""Groups of the detector that never slim."""
SINGLE = 32
"""Height and width of the images of one object that the backbone is trained on first."""
PARTS = {"single": 2000, "train": 2000, "test": 400}
"""Generated images: of one object each, and those to detect in."""


class Part(NamedTuple):
    """A network of the detector, and its widths."""

    model: Any
    graph: jp.ChannelGraph
    widths: dict[str, Keep]


def task(config: Config) -> Task[Config]:
    """Returns the images, the detector and its channel graph.

    Raises:
      ValueError: there is no such data set, or a file of it is missing or damaged.
    """
    size, limit = config.image_size, config.limit
    if config.dataset == "shapes":
        images = _shapes(size, limit)
    else:
        images = boxed.load(
            config.dataset, size=size, single=SINGLE, data_dir=config.data_dir, limit=limit
        )
    model, graph, _ = detector(config)
    return Task(config, images, model, graph, boxes.loss)  # pyright: ignore[reportArgumentType]


def _shapes(size: int, limit: int | None) -> Images:
    each = (
        (PARTS["single"], SINGLE, 1),
        (min(PARTS["train"], limit or PARTS["train"]), size, 2),
        (PARTS["test"], size, 2),
    )
    return Images(
        *(
            shapes.objects(count, size=size, seed=seed, each=forms)
            for seed, (count, size, forms) in enumerate(each)
        )
    )


def classes(config: Config) -> tuple[str, ...]:
    """Returns the names of the objects to detect."""
    drawn = config.dataset == "shapes"
    return shapes.CLASSES[1:] if drawn else boxed.FOLDERS[config.dataset].classes


def classifier(config: Config) -> Part:
    """Returns the network that is trained first, whose backbone the detector takes over.

    Among the single objects of photographs, ground is one more class.
    """
    model = Classifier(config.widths, len(classes(config)) + (config.dataset != "shapes"))
    return _part(config, model, partial(model.apply, train=False), SINGLE)


def detector(config: Config) -> Part:
    """Returns the detector; its neck and its head have one width."""
    model = Detector(config.widths, config.neck, len(classes(config)))
    return _part(config, model, model.apply, config.image_size, protect=WHOLE)


def _part(
    config: Config, model: Any, apply: Callable[..., Any], size: int, protect: tuple[str, ...] = ()
) -> Part:
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    options = {"train": False} if isinstance(model, Classifier) else {}
    variables = jax.eval_shape(partial(model.init, **options), jax.random.key(0), image)
    graph = jp.trace(apply, variables, image)
    prefix = partial(slimmable.prefix, graph, divisor=config.divisor, protect=protect)
    return Part(model, graph, {str(width): prefix(width) for width in config.grid})


def made(task: Task[Config]) -> Images:
    """Returns the images of the task."""
    return task.dataset  # pyright: ignore[reportReturnType]


@jax.jit
def scaled(images: Any) -> jax.Array:
    """Returns u8 pixels as the networks see them, f32 from -1 to 1."""
    return images.astype(jnp.float32) / 127.5 - 1
