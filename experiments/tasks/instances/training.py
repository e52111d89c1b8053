"""The trainings of a detector of parts, on a trained backbone and after the cut."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.data.objects import mirrored
from experiments.procedures import joint
from experiments.runner.fit import QUIET, Journal
from experiments.runner.task import Network, Task, key
from experiments.tasks.detection.parts import scaled
from experiments.tasks.detection.training import adopted, assigner, frozen, trained
from experiments.tasks.instances.config import Config
from experiments.tasks.instances.kinds import images, losses, seen, widths
from jaxprune import slimmable
from jaxprune.keep.check import Keep

BATCHES = 8
"""How many batches of training images the channels are scored on."""


def batches(task: Task[Config]) -> Callable[[np.ndarray, int], tuple[Any, Any]]:
    """Returns (places of images, number of the step) -> (images, boxes), and what is wanted."""
    config, (_, train, *_, kind) = task.config, images(task)
    assigned = assigner(task)

    def batch(rows: np.ndarray, step: int) -> tuple[Any, Any]:
        rng = np.random.default_rng((config.seed, step))
        pixels, places, labels, parts = (part[rows] for part in train)
        flips = (rng.random(len(rows)) < 0.5) & config.flip
        pixels, places = mirrored(flips, pixels, places)
        of, there = chosen(rng, (labels > 0) & kind.reader.labeled(parts), config.boxes)
        here = np.arange(len(rows))[:, None]
        boxes = moved(rng, places[here, of], config.jitter) * there[..., None]
        boxes = seen(kind, boxes)
        wanted = kind.targets(parts[here, of], there, flips, boxes, config.image_size)
        return (scaled(pixels), boxes), (assigned(places, labels), wanted)

    return batch


def chosen(rng: np.random.Generator, labeled: np.ndarray, most: int) -> tuple[np.ndarray, Any]:
    """Returns places of objects at random, i64[n, most], and which are there, bool[n, most].

    Args:
      rng: random numbers.
      labeled: the objects of every image that count, bool[n, objects].
      most: so many of an image, where it has them.
    """
    count = labeled.shape[1]
    room = np.pad(labeled, ((0, 0), (0, max(0, most - count))))
    order = np.argsort(rng.random(room.shape) + ~room, axis=1)[:, :most]
    return np.minimum(order, count - 1), np.take_along_axis(room, order, axis=1)


def moved(rng: np.random.Generator, boxes: np.ndarray, jitter: float) -> np.ndarray:
    """Returns boxes f32[..., 4] whose edges are elsewhere, by that share of their sides at most.

    They stand for what a detector finds: Mask R-CNN trains its heads on boxes that overlap true
    ones by a half or more.
    """
    sides = np.tile(boxes[..., 2:] - boxes[..., :2], 2)
    return boxes + np.float32(jitter) * sides * rng.uniform(-1, 1, boxes.shape).astype(np.float32)


def detect(task: Task[Config], name: str, backbone: Network, journal: Journal = QUIET) -> Network:
    """Returns the detector of all widths of the grid, on a trained backbone."""
    config, pixels = task.config, images(task).train.images
    shapes = jnp.zeros((1, *pixels.shape[1:])), jnp.zeros((1, config.boxes, 4))
    fresh = jax.device_get(jax.jit(task.model.init)(key(config, name), *shapes))
    grid = widths(task)
    start = adopted(task, fresh, grid, backbone)
    found = trained(
        task, name, grid, batches(task), start, journal, config.epochs, config.learning_rate
    )
    return Network(task.model, found, {})


def view(task: Task[Config], network: Network, name: str, keep: Keep) -> Network:
    """Returns the network of one of the widths that were trained."""
    small = slimmable.variables(task.graph, *joint.parts(network.variables), name, keep)
    model = jp.linen.resize(task.model, task.graph, keep)
    return Network(model, jax.device_get(small), keep)


def widest(task: Task[Config], network: Network) -> Any:
    """Returns the variables of the widest network of the grid."""
    name, keep = next(iter(widths(task).items()))
    return view(task, network, name, keep).variables


def cut(task: Task[Config], network: Network, _: Journal = QUIET) -> Network:
    """Returns the widest network, cut to its share of the MACs: backbone, neck and heads."""
    config, graph, whole = task.config, task.graph, widest(task, network)
    keep = jp.select.budget(
        graph,
        scores(task, whole),
        keep_macs=config.keep_macs,
        min_keep_ratio=config.min_keep_ratio,
    )
    small = jax.device_get(jp.slice(graph, whole, keep))
    return Network(jp.linen.resize(task.model, graph, keep), small, keep)


def scores(task: Task[Config], variables: Any) -> Mapping[str, Any]:
    """Returns `jp.scores.taylor` of every channel, the mean over batches of training images.

    It is that of each loss by itself, and both count the same in all: the loss of heat maps is much
    larger than that of boxes.
    """
    graph, batch, kind = task.graph, batches(task), images(task).kind
    size, count = task.config.batch_size, len(images(task).train.images)

    @jax.jit
    def score(variables: Any, inputs: Any, wanted: Any) -> list[Mapping[str, Any]]:
        def found(params: Any) -> jax.Array:
            return losses(kind, graph.fn(variables | {"params": params}, *inputs), wanted)

        values, back = jax.vjp(found, variables["params"])
        gradients = [back(one)[0] for one in jnp.eye(len(values))]
        return [jp.scores.taylor(graph, variables, {"params": each}) for each in gradients]

    order = np.random.default_rng(task.config.seed).permutation(count)
    parts = [order[start : start + size] for start in range(0, BATCHES * size, size)]
    each = [score(variables, *batch(rows, i)) for i, rows in enumerate(parts) if len(rows)]
    return balanced(jax.tree.map(lambda *found: sum(found) / len(found), *each))


def balanced(each: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the sum of several scores, of each a share of its sum over all channels."""
    totals = [sum(np.sum(scores) for scores in found.values()) for found in each]
    return {
        name: sum(found[name] / total for found, total in zip(each, totals, strict=True))
        for name in each[0]
    }


def finetune(
    task: Task[Config], name: str, network: Network, keep: Keep, journal: Journal = QUIET
) -> Network:
    """Returns the cut network after a training of its own.

    Args:
      task: of the run.
      name: of the phase.
      network: the one that was cut.
      keep: what was kept of it.
      journal: hears of the training.
    """
    config, grid = task.config, {name: keep}
    start = frozen(task, *slimmable.split(task.graph, widest(task, network), grid))
    found = trained(
        task,
        name,
        grid,
        batches(task),
        start,
        journal,
        config.finetune_epochs,
        config.finetune_learning_rate,
    )
    return view(task, Network(task.model, found, {}), name, keep)
