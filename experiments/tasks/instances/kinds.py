"""What a head of parts is for, and the images and the network of a run."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import instances, shapes
from experiments.data.instances import Data, Instances, Reader
from experiments.data.objects import Objects
from experiments.models.instances import InstanceDetector
from experiments.runner.task import Task
from experiments.tasks.detection import boxes, parts
from experiments.tasks.instances.config import Config
from jaxprune.keep.check import Keep

Judged = Literal["bbox", "segm", "keypoints"]
"""What pycocotools measures."""


class Kind(NamedTuple):
    """What a head of parts gives, and what is made of it.

    Attributes:
      name: of what is found, in a summary.
      reader: of the data.
      outputs: channels of the head.
      targets: (parts, which count bool[n, r], which images are mirrored bool[n], boxes f32[n, r,
        4], size of images in pixels) -> what `loss` takes.
      loss: (logits f32[n, r, SIZE, SIZE, outputs], targets) -> scalar.
      result: (logits f32[SIZE, SIZE, outputs], box f64[4], height, width of the image) -> entries
        of a result of COCO.
      judged: how well it is found.
      sigmas: of keypoints, in that measure.
      margin: how far beyond a box the head sees, a share of its height or width on every side.
    """

    name: str
    reader: Reader
    outputs: int
    targets: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int], Any]
    loss: Callable[[jax.Array, Any], jax.Array]
    result: Callable[[np.ndarray, np.ndarray, int, int], dict[str, Any]]
    judged: Judged
    sigmas: tuple[float, ...] = ()
    margin: float = 0.0


class Images(NamedTuple):
    """What a run is about: `Data`, with the kind of their parts."""

    single: Objects
    train: Instances
    test: Instances
    truth: Mapping[str, Any]
    classes: tuple[str, ...]
    kind: Kind


def task(kinds: Mapping[str, Kind], config: Config) -> Task[Config]:
    """Returns the images, the detector with a head of parts, and its channel graph.

    Args:
      kinds: {data set: what the head is for}.
      config: of the run.

    Raises:
      ValueError: there is no such data set, or a file of it is missing or damaged.
    """
    if config.dataset not in kinds:
        raise ValueError(f"no data set {config.dataset!r}.\nFix: one of {sorted(kinds)}.")
    kind = kinds[config.dataset]
    data = _data(kind, config)
    model = InstanceDetector(config.widths, config.neck, len(data.classes), kind.outputs)
    near = jax.ShapeDtypeStruct((1, config.boxes, 4), jnp.float32)
    graph = parts.part(config, model, parts.image(config.image_size), near).graph

    def loss(outputs: Any, wanted: Any) -> jax.Array:
        return losses(kind, outputs, wanted).sum()

    return Task(config, Images(*data, kind), model, graph, loss)  # pyright: ignore[reportArgumentType]


def _data(kind: Kind, config: Config) -> Data:
    size, limit = config.image_size, config.limit
    if config.dataset == "shapes":
        count = parts.PARTS
        single = shapes.objects(count["single"], size=parts.SINGLE, seed=0, each=1)
        train = min(count["train"], limit or count["train"])
        return instances.drawn(kind.reader, train, count["test"], size=size, single=single)
    return instances.photographs(
        kind.reader, size=size, single=parts.SINGLE, data_dir=config.data_dir, limit=limit
    )


def losses(kind: Kind, outputs: Any, wanted: Any) -> jax.Array:
    """Returns that of the boxes and that of the parts, f32[2].

    Args:
      kind: of the parts.
      outputs: of the network.
      wanted: what `boxes.assigned` and what the targets of the kind returned.
    """
    return jnp.stack([boxes.loss(outputs[0], wanted[0]), kind.loss(outputs[1], wanted[1])])


def seen(kind: Kind, boxes: np.ndarray) -> np.ndarray:
    """Returns what the head sees of boxes f32[..., 4]: they and the margin around them."""
    sides = np.tile(boxes[..., 2:] - boxes[..., :2], 2)
    return boxes + np.array([-1, -1, 1, 1], boxes.dtype) * kind.margin * sides


def images(task: Task[Config]) -> Images:
    """Returns the images of the task."""
    return task.dataset  # pyright: ignore[reportReturnType]


def widths(task: Task[Config]) -> dict[str, Keep]:
    """Returns {name of a width: keep}, the widest first; what is behind the backbone has one."""
    return parts.grid(task.config, task.graph, (*parts.WHOLE, "parts/*"))
