"""Where a run computes: one device, or a mesh over which batches, large sets and weights go.

The mesh is that of the whole run, so that methods need not know it: batches are divided along
`data`, weights are on every device, or divided along `model` as their model says. Without a mesh
every function here does what a single device needs, and no more.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from contextvars import ContextVar
from fnmatch import fnmatch
from functools import partial
from io import StringIO
from itertools import chain, islice, repeat
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from experiments import models
from experiments.data import Split, Stream
from experiments.runner import config as configuration
from experiments.runner import processes
from experiments.runner.config import Common
from jaxprune.arguments import paths
from jaxprune.arguments.fetching import fetch

DATA, MODEL = "data", "model"
WHOLE = 2**30
"""Bytes of a set in memory up to which every device has all of it; of a larger one each a part."""

Spec = jax.sharding.PartitionSpec


class Devices(NamedTuple):
    """What a run computes on."""

    mesh: jax.sharding.Mesh | None = None
    """None is the default device."""
    specs: Mapping[str, Spec] = MappingProxyType({})
    """Pattern of variables -> how they are divided; all others are on every device."""
    precision: str = "float32"
    """Of the steps of a training; see `experiments.runner.precision`."""


_CURRENT: ContextVar[Devices | None] = ContextVar("devices", default=None)


def current() -> Devices:
    """Returns what the run computes on."""
    return _CURRENT.get() or Devices()


@contextmanager
def using(config: Common) -> Iterator[None]:
    """Runs what is inside on the devices of a configuration; all processes but the first are mute.

    Raises:
      ValueError: there are not so many, batches do not divide over them, or the model does not say
        how it is divided.
    """
    processes.begin(config)
    token = _CURRENT.set(_asked(config))
    wide = jax.enable_x64(True) if config.precision == "float64" else nullcontext()
    try:
        with wide, nullcontext() if processes.first() else redirect_stdout(StringIO()):
            yield
    finally:
        _CURRENT.reset(token)


def _asked(config: Common) -> Devices:
    sizes, there = configuration.axes(config.mesh), jax.devices()
    if sizes is None and not config.distributed:
        return Devices(precision=config.precision)
    sizes = sizes or (len(there), 1)
    count, specs = math.prod(sizes), models.DIVIDED.get(config.model, {})
    if count > len(there) or (count < len(there) and jax.process_count() > 1):
        raise ValueError(
            f"mesh={config.mesh!r} is of {count} devices, there are {len(there)}.\n"
            f"Fix: --mesh data={len(there)}, or leave it out."
        )
    if problems := list(configuration.undivided(config, sizes[0])):
        raise ValueError("\n".join([*problems, f"Fix: multiples of {sizes[0]}, or a --mesh."]))
    if sizes[1] > 1 and not specs:
        raise ValueError(
            f"model {config.model!r} does not say how it is divided over model={sizes[1]}.\n"
            f"Fix: --mesh data={count}, or one of {sorted(models.DIVIDED)}."
        )
    kinds = (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh(sizes, (DATA, MODEL), axis_types=kinds, devices=there[:count])
    return Devices(mesh, specs, config.precision)


def along_data() -> jax.NamedSharding | None:
    """Returns how batches are divided; None on one device."""
    mesh = current().mesh
    return None if mesh is None else jax.NamedSharding(mesh, Spec(DATA))


def multiple(size: int) -> int:
    """Returns the least size of a batch from this one on that the devices divide."""
    mesh = current().mesh
    count = 1 if mesh is None else mesh.shape[DATA]
    return -(-size // count) * count


def settled(tree: Any) -> Any:
    """Returns a copy of variables, or of what is like them, where steps compute with it."""
    if current().mesh is None:
        return jax.tree.map(partial(jnp.array, copy=True), tree)
    return jax.tree.map(jnp.copy, everywhere(tree))


def everywhere(tree: Any) -> Any:
    """Returns host variables, or what is like them, where steps compute with it."""
    if current().mesh is None:
        return jax.device_put(tree)
    return jax.tree.map(_placed, tree, _shardings(tree))


def constrained(tree: Any) -> Any:
    """Returns what a step gives divided as what it takes; for use in jit."""
    if current().mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, _shardings(tree))


def fetched(tree: Any) -> Any:
    """Returns the tree on the host, whole on every process."""
    return fetch(tree)


def gathered(tree: Any) -> Any:
    """Returns the tree where one device computes with it."""
    return tree if current().mesh is None else fetched(tree)


def whole(split: Split) -> Split:
    """Returns a set in memory for steps that take their batches from it.

    Each device has all of it, or, beyond `WHOLE` bytes, a part, filled up with zeros at the end.
    """
    mesh = current().mesh
    if mesh is None:
        return jax.device_put(split)
    if sum(part.nbytes for part in split) <= WHOLE:
        return jax.tree.map(lambda part: _placed(part, jax.NamedSharding(mesh, Spec())), split)
    return jax.tree.map(lambda part: _spread(_filled(part, multiple(len(part)))), split)


def spread(tree: Any) -> Any:
    """Returns a batch that every process has whole, divided along the first axis."""
    return tree if current().mesh is None else jax.tree.map(_spread, tree)


def rows(size: int) -> tuple[np.ndarray, ...]:
    """Returns the places in a batch, i64[n], that this process gives; nothing if it gives all."""
    along = along_data()
    if along is None or jax.process_count() == 1:
        return ()
    parts = along.addressable_devices_indices_map((size,)).values()
    return (np.unique(np.concatenate([np.arange(size)[part] for part in parts if part])),)


def batch(split: Split, size: int) -> Split:
    """Returns a batch of so many images of which this process gives its `rows`."""
    along = along_data()
    if along is None:
        return jax.device_put(split)

    def joined(part: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(along, part, (size, *part.shape[1:]))

    return jax.tree.map(joined, split)


def padded(batches: Iterator[Split], stream: Stream, size: int) -> Iterator[Split]:
    """Yields the batches of a stream as of `batch`, the last filled up with zeros."""
    if current().mesh is None:
        yield from batches
        return
    here = len(rows(size)[0]) if rows(size) else size
    empty = Split(np.zeros((0, *stream.image_shape), np.uint8), np.zeros(0, np.int32))
    for each in islice(chain(batches, repeat(empty)), -(-stream.size // size)):
        yield batch(Split(*(_filled(part, here) for part in each)), size)


def of_each(run: Callable[..., Any], variables: Any, *parts: Any, most: int) -> Any:
    """Returns on the host what a network gives of every example, in their order.

    Args:
      run: (variables, arrays of n examples) -> arrays of n, compiled; it sees each by itself.
      variables: of the host, or of one device.
      parts: arrays of examples, whole on every process.
      most: examples at once; the devices divide them, and zeros fill up the last ones.
    """
    count, variables = len(parts[0]), everywhere(variables)
    size = multiple(-(-count // -(-count // most)))
    found = []
    for start in range(0, count, size):
        batch = tuple(_filled(part[start : start + size], size) for part in parts)
        found.append(fetched(run(variables, *spread(batch))))
    return jax.tree.map(lambda *each: np.concatenate(each)[:count], *found)


def divided(tree: Any, along: jax.NamedSharding | None) -> Any:
    """Returns a batch that is divided along the first axis; for use in jit."""
    return tree if along is None else jax.lax.with_sharding_constraint(tree, along)


def _shardings(tree: Any) -> Any:
    leaves, treedef = paths.flatten(tree)
    return treedef.unflatten([_sharding(path, leaf) for path, leaf in leaves.items()])


def _sharding(path: str, leaf: Any) -> jax.NamedSharding:
    """Returns how a variable is divided, or its momentum, whose path ends likewise."""
    mesh, specs, _ = current()
    assert mesh is not None
    for pattern, spec in specs.items():
        if fnmatch(path, f"*{pattern}") and np.ndim(leaf) == len(spec):
            fits = [
                axis if axis is None or size % mesh.shape[axis] == 0 else None
                for axis, size in zip(spec, np.shape(leaf), strict=True)
            ]
            return jax.NamedSharding(mesh, Spec(*fits))
    return jax.NamedSharding(mesh, Spec())


def _spread(part: Any) -> jax.Array:
    along = along_data()
    assert along is not None
    return _placed(part, along)


def _placed(leaf: Any, sharding: jax.NamedSharding) -> jax.Array:
    """Returns an array of the host, or of one device, under a sharding."""
    if isinstance(leaf, jax.Array) and leaf.sharding.device_set == sharding.device_set:
        return leaf if leaf.sharding == sharding else jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_placed(jax.random.key_data(leaf), sharding))
    host = np.asarray(leaf)
    if jax.process_count() == 1:
        return jax.device_put(host, sharding)
    return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])


def _filled(part: Any, count: int) -> np.ndarray:
    part = np.asarray(part)
    return np.pad(part, [(0, count - len(part)), *[(0, 0)] * (part.ndim - 1)])
