"""The images of a run, and the two networks that are trained on them, with their widths."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxprune as jp
from experiments.data import boxed, shapes
from experiments.data.boxed import Parts as Images
from experiments.models.detector import Classifier, Detector, Trunk
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


def classifier(task: Task[Any]) -> Part:
    """Returns the network that is trained first, whose backbone the detector takes over.

    Among the single objects of photographs, ground is one more class.
    """
    config, model = task.config, task.model
    assert isinstance(model, Trunk)
    first = Classifier(config.widths, model.classes + (config.dataset != "shapes"))
    return part(config, first, image(SINGLE), train=False)


def detector(config: Config) -> Part:
    """Returns the detector; its neck and its head have one width."""
    model = Detector(config.widths, config.neck, len(classes(config)))
    return part(config, model, image(config.image_size), protect=WHOLE)


def image(size: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of one image."""
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)


def part(
    config: Config, model: nn.Module, *inputs: Any, protect: tuple[str, ...] = (), **call: Any
) -> Part:
    """Returns a network of these inputs, and its widths.

    Args:
      config: has the grid.
      model: the network.
      *inputs: arrays or shapes, of one image.
      protect: patterns of groups that never slim.
      **call: other arguments of the network.
    """
    variables = jax.eval_shape(partial(model.init, **call), jax.random.key(0), *inputs)
    graph = jp.linen.trace(model, variables, *inputs, **call)
    return Part(model, graph, grid(config, graph, protect))


def grid(config: Config, graph: jp.ChannelGraph, protect: tuple[str, ...] = ()) -> dict[str, Keep]:
    """Returns the keeps of all widths, the widest first; groups in `protect` stay whole."""
    prefix = partial(slimmable.prefix, graph, divisor=config.divisor, protect=protect)
    return {str(width): prefix(width) for width in config.grid}


def made(task: Task[Config]) -> Images:
    """Returns the images of the task."""
    return task.dataset  # pyright: ignore[reportReturnType]


@jax.jit
def scaled(images: Any) -> jax.Array:
    """Returns u8 pixels as the networks see them, f32 from -1 to 1."""
    return images.astype(jnp.float32) / 127.5 - 1
