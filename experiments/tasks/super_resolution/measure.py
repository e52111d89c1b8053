"""How good a network is at its widths: on pictures of one size, and on photographs of any."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.data import photos, pictures
from experiments.data.pictures import Dataset, Photos, Pictures
from experiments.procedures import joint
from experiments.runner import devices
from experiments.runner.fit import Variables
from experiments.runner.task import Task
from experiments.tasks.super_resolution.config import Config
from jaxprune import slimmable
from jaxprune.keep.check import Keep

GRAY = 127.5
"""Half of a pixel's range: the network sees and gives (pixel - GRAY) / GRAY."""
CHUNK = 500
"""Pictures that are doubled at once, at most."""


class Slim(NamedTuple):
    """A task and the widths of its network."""

    task: Task[Config]
    grid: Mapping[str, Keep]  # the widths that train
    widths: Mapping[str, Keep]  # all that are measured, the largest first
    doubled: Mapping[str, Callable[..., Any]]  # (variables, low[, inside]) -> high, compiled


def slim(task: Task[Config]) -> Slim:
    """Returns the task with the widths that its configuration names."""
    config, model, graph = task.config, task.model, task.graph
    prefix = partial(slimmable.prefix, graph, divisor=config.divisor)
    every = sorted({*config.grid, *config.others}, reverse=True)
    widths = {str(width): prefix(width) for width in every}
    grid = {str(width): widths[str(width)] for width in config.grid}
    doubled = {
        name: jax.jit(partial(_doubled, jp.linen.resize(model, graph, keep)))
        for name, keep in widths.items()
    }
    return Slim(task, grid, widths, doubled)


def pairs(slim: Slim) -> Dataset:
    """Returns the pictures of the task."""
    return slim.task.dataset  # pyright: ignore[reportReturnType]


def scaled(images: jax.Array) -> jax.Array:
    """Returns u8 pixels as the network sees them, f32 from -1 to 1."""
    return images.astype(jnp.float32) / GRAY - 1


def quality(
    slim: Slim, variables: Variables, names: Iterable[str], part: Pictures | Photos
) -> dict[str, float]:
    """Returns the mean PSNR of each of these widths, in dB, over the pictures of a part.

    Photographs are enlarged tile by tile, with one program for all; it is that of whole ones. The
    devices of a mesh divide pictures of one size; of photographs each enlarges all.
    """
    decibels, (params, rest) = {}, joint.parts(variables)
    reach = slim.task.model.reach  # pyright: ignore[reportAttributeAccessIssue]
    for name in names:
        small = slimmable.variables(slim.task.graph, params, rest, name, slim.widths[name])
        stack = partial(devices.of_each, slim.doubled[name], small, most=CHUNK)
        tile = partial(slim.doubled[name], devices.everywhere(small))
        decibels[name] = _mean(part, stack, partial(photos.enlarged, tile, margin=reach))
    return decibels


def bicubic(part: Pictures | Photos) -> float:
    """Returns that of bicubic enlargements."""
    return _mean(part, pictures.doubled, photos.doubled)


def _mean(
    part: Pictures | Photos,
    stack: Callable[[np.ndarray], np.ndarray],
    whole: Callable[[np.ndarray], np.ndarray],
) -> float:
    """Returns the mean PSNR; `stack` enlarges pictures of one size, `whole` one photograph."""
    if isinstance(part, Photos):
        pairs = zip(*part, strict=True)
        each = [pictures.psnr(whole(low)[None], high[None]) for low, high in pairs]
        return float(np.mean(each))
    return float(pictures.psnr(stack(part.low), part.high).mean())


def _doubled(model: Any, variables: Any, low: jax.Array, *inside: jax.Array) -> jax.Array:
    return pictures.quantized(GRAY * (model.apply(variables, scaled(low), *inside) + 1))
