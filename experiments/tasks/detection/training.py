"""The two trainings of a detector: a backbone that classifies, then the detector on it."""

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from experiments.data.objects import mirrored
from experiments.models.detector import Trunk, centers
from experiments.procedures import joint
from experiments.procedures.joint import Joint
from experiments.runner.fit import QUIET, Journal
from experiments.runner.task import Network, Task, key
from experiments.runner.training import cross_entropy
from experiments.tasks.detection import boxes, parts
from experiments.tasks.detection.config import Config
from experiments.tasks.detection.parts import classifier, detector, made, scaled
from jaxprune import slimmable
from jaxprune.arguments import paths
from jaxprune.keep.check import Keep
from jaxprune.slimmable.state import Split, combine, only


def pretrain(
    task: Task[Any], name: str, names: tuple[str, ...], journal: Journal = QUIET
) -> Network:
    """Returns the classifier of these widths: an S-Net if there are several."""
    config, (model, graph, widths) = task.config, classifier(task)
    images, number = made(task).single, config.scaled(config.pretrain_epochs)
    init = jax.jit(partial(model.init, train=False))
    grid = {name: widths[name] for name in names}
    first = init(key(config, name), jnp.zeros((1, parts.SINGLE, parts.SINGLE, 3)))

    def network(keep: Keep) -> Callable[..., Any]:
        small = jp.linen.resize(model, graph, keep)
        return partial(small.apply, train=True, mutable=["batch_stats"])

    def batch(rows: np.ndarray, _: int) -> tuple[jax.Array, np.ndarray]:
        return scaled(images.images[rows]), images.classes[rows, 0] - 1

    size = len(images.images)
    tx = _optimizer(config, config.pretrain_learning_rate, number * (size // config.batch_size))
    gradients = joint.gradients(network, graph, cross_entropy)
    how = _joint(config, name, grid, tx, gradients, batch, size, number)
    return Network(model, joint.train(how, *slimmable.split(graph, first, grid), journal), {})


def detect(
    task: Task[Any],
    name: str,
    names: tuple[str, ...],
    backbone: Network,
    journal: Journal = QUIET,
) -> Network:
    """Returns the detector of these widths, on a trained backbone.

    BatchNorm and the first convolutions are frozen; every width keeps the BatchNorm that it has.
    """
    config, train, widths = task.config, made(task).train, detector(task.config).widths
    grid = {name: widths[name] for name in names}
    assigned = assigner(task)

    def batch(rows: np.ndarray, step: int) -> tuple[Any, Any]:
        images, places, kinds = (part[rows] for part in train)
        if config.flip:
            flips = np.random.default_rng((config.seed, step)).random(len(rows)) < 0.5
            images, places = mirrored(flips, images, places)
        return (scaled(images),), assigned(places, kinds)

    fresh = jax.jit(task.model.init)(key(config, name), jnp.zeros((1, *train.images.shape[1:])))
    start = adopted(task, jax.device_get(fresh), grid, backbone)
    found = trained(task, name, grid, batch, start, journal, config.epochs, config.learning_rate)
    return Network(task.model, found, {})


def assigner(task: Task[Any]) -> Callable[..., Any]:
    """Returns `boxes.assigned` of boxes and classes, for the places of the detector."""
    assert isinstance(task.model, Trunk)
    stride = task.model.stride
    side = task.config.image_size // stride
    return jax.jit(partial(boxes.assigned, centers(side, side, stride), stride=stride))


def trained(
    task: Task[Any],
    name: str,
    grid: Mapping[str, Keep],
    batch: Callable[..., Any],
    start: tuple[Split, Split],
    journal: Journal,
    epochs: float,
    rate: float,
) -> Any:
    """Returns {"params", "rest"} of the network of the task, after a training of these widths.

    Args:
      task: has the network and the loss.
      name: of the phase.
      grid: {name of a width: keep}.
      batch: (places of its images, number of the step) -> a tuple of inputs, targets.
      start: params and rest.
      journal: hears of the training.
      epochs: passes over the images, before they are scaled.
      rate: the highest learning rate.
    """
    config, number, size = task.config, task.config.scaled(epochs), len(made(task).train.images)

    def network(keep: Keep) -> Callable[..., Any]:
        small = jp.linen.resize(task.model, task.graph, keep)
        return lambda variables, inputs: (small.apply(variables, *inputs), {})

    sgd = _optimizer(config, rate, number * (size // config.batch_size))
    tx = optax.chain(optax.clip_by_global_norm(config.clip), sgd)
    gradients = joint.gradients(network, task.graph, task.loss)
    how = _joint(config, name, grid, tx, gradients, batch, size, number)
    return joint.train(how, *start, journal)


def _joint(
    config: Config,
    name: str,
    grid: Mapping[str, Keep],
    tx: optax.GradientTransformation,
    gradients: Callable[..., slimmable.Gradients],
    batch: Callable[..., Any],
    examples: int,
    number: int,
) -> Joint:
    return Joint(
        tx,
        gradients,
        lambda _: grid,
        batch,
        examples=examples,
        batch_size=config.batch_size,
        epochs=number,
        seed=(config.seed, zlib.crc32(name.encode())),
    )


def adopted(
    task: Task[Any], fresh: Any, grid: Mapping[str, Keep], backbone: Network
) -> tuple[Split, Split]:
    """Returns (params, rest) of a detector on a trained backbone; what is frozen is `rest`.

    Args:
      task: has the detector.
      fresh: its variables before any training.
      grid: {name of a width: keep}.
      backbone: the trained classifier.
    """
    params, rest = slimmable.split(task.graph, fresh, grid)

    def renewed(part: Split, source: Split) -> Split:
        private = {n: _replaced(tree, source.private[n]) for n, tree in part.private.items()}
        return Split(_replaced(part.shared, source.shared), private)

    return frozen(task, *map(renewed, (params, rest), joint.parts(backbone.variables)))


def frozen(task: Task[Any], params: Split, rest: Split) -> tuple[Split, Split]:
    """Returns (params, rest), where all of BatchNorm and the first convolutions are `rest`."""
    first = {f"params/backbone/Conv_{i}/kernel" for i in range(task.config.frozen)}
    leaves = paths.flatten(params.shared)[0].keys()
    private = {name: combine(tree, params.private[name]) for name, tree in rest.private.items()}
    still = combine(rest.shared, only(params.shared, first))
    return Split(only(params.shared, leaves - first), {}), Split(still, private)


def _replaced(tree: Any, source: Any) -> Any:
    """Returns the tree with the leaves that `source` has at the same paths."""
    there, (leaves, treedef) = paths.flatten(source)[0], paths.flatten(tree)
    return jax.tree.unflatten(treedef, [there.get(path, leaf) for path, leaf in leaves.items()])


def _optimizer(config: Config, rate: float, steps: int) -> optax.GradientTransformation:
    rises = optax.warmup_cosine_decay_schedule(0.0, rate, max(steps // 10, 1), max(steps, 2))
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay), optax.sgd(rises, momentum=0.9)
    )
