"""Chosen entries of arrays of every kind, each cut where it lives."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.arguments.stored_arrays import in_memory
from jaxprune.cutting import on_devices, shardings
from jaxprune.program import stacked_layers
from jaxprune.program.spaces import Space


class Cut(NamedTuple):
    """What to take of an array.

    indices: per axis the positions to take, int[k], or int[layers, k] where every layer has its
      own; None takes all.
    layers: per axis the axis that counts these layers.
    kept: per axis which of the entries taken are kept, bool[k] or bool[layers, k]; None keeps all.
    """

    indices: tuple[np.ndarray | None, ...]
    layers: tuple[int | None, ...]
    kept: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        indices: Iterable[np.ndarray | None],
        axes: Sequence[Space],
        kept: Iterable[Any] = (),
    ) -> "Cut":
        """Returns the cut of an array over `axes`."""
        layers = tuple(stacked_layers.layer_axis(axes, space) for space in axes)
        return cls(tuple(indices), layers, tuple(kept) or (None,) * len(axes))

    @classmethod
    def rows(cls, kept: np.ndarray, rank: int) -> "Cut":
        """Returns the cut of an array of that rank to the rows that are kept."""
        others = (None,) * (rank - 1)
        return cls((np.flatnonzero(kept), *others), (None,) * rank, (None,) * rank)

    def transposed(self, order: Sequence[int]) -> "Cut":
        """Returns the cut of the array with its axes in that order."""
        layers = [self.layers[axis] for axis in order]
        return Cut(
            tuple(self.indices[axis] for axis in order),
            tuple(None if layer is None else order.index(layer) for layer in layers),
            tuple(self.kept[axis] for axis in order),
        )

    def parts(self) -> Iterator[tuple[int, np.ndarray, int | None]]:
        """Yields (axis, positions, layer axis) where something is taken."""
        for axis, (index, layer) in enumerate(zip(self.indices, self.layers, strict=True)):
            if index is not None:
                yield axis, index, layer if index.ndim == 2 else None

    @property
    def traced(self) -> bool:
        """True if masks are traced."""
        return any(isinstance(mask, Tracer) for mask in self.kept)


def take(
    leaves: Mapping[str, Any],
    cuts: Mapping[str, Cut],
    *,
    into: Mapping[str, Any] | None = None,
    fit: bool = False,
) -> dict[str, Any]:
    """Returns {path: the chosen entries of the leaf}, of the leaf's kind and sharding.

    Arrays on devices are cut there, in programs; those of a single CPU on the host.

    Args:
      leaves: {path: array}.
      cuts: {path: what to take}.
      into: {path: what stands where an entry is not kept}; zero otherwise.
      fit: whether an axis whose new width the mesh does not divide loses mesh axes.

    Raises:
      TreeError: the mesh does not divide a new width, without `fit`.
    """
    shapes = {path: _shape(leaf, cuts[path]) for path, leaf in leaves.items()}
    if not fit:
        shardings.check(leaves, shapes)
    results, waiting = {}, {}
    for path, stored in leaves.items():
        leaf, base = in_memory(stored), None if into is None else in_memory(into[path])
        cut = cuts[path]
        if not any(item is not None for item in (*cut.indices, *cut.kept)):
            results[path] = leaf
            continue
        if isinstance(leaf, jax.ShapeDtypeStruct):
            new = shardings.fitted(leaf.sharding, shapes[path])
            results[path] = leaf.update(shape=shapes[path], sharding=new)
            continue
        if isinstance(leaf, np.ndarray):
            taken = _on_host(leaf, cut)
        elif isinstance(leaf, Tracer) or isinstance(base, Tracer) or cut.traced:
            taken = entries(leaf, cut)
        elif _on_one_cpu(leaf):
            taken = (
                _placed_like(leaf, _on_host(np.asarray(leaf), cut)) if any(cut.parts()) else leaf
            )
        else:
            new = shardings.fitted(leaf.sharding, shapes[path])
            plan = on_devices.Plan(leaf.sharding, new, cut.layers)
            base = None if base is None else jax.device_put(base, new)
            waiting[path] = on_devices.Work(plan, leaf, cut.indices, cut.kept, base)
            continue
        results[path] = on_devices.filled(taken, cut.kept, cut.layers, base)
    return results | on_devices.run(waiting)


_AT_ONCE = 2**19
"""Bytes of an array on the host that are cut along all axes before the next."""


def _shape(leaf: Any, cut: Cut) -> tuple[int, ...]:
    shape = list(leaf.shape)
    for axis, index, _ in cut.parts():
        shape[axis] = index.shape[-1]
    return tuple(shape)


def _on_host(leaf: np.ndarray, cut: Cut) -> np.ndarray:
    """Cuts rows of the first axis at a time, such that they stay in the cache between two cuts.

    Each thread has one run of blocks and one buffer: a task a block costs more than the cut.
    """
    if not any(cut.parts()):
        return leaf
    order = sorted(range(leaf.ndim), key=lambda axis: -leaf.strides[axis])
    if not leaf.flags.c_contiguous and leaf.transpose(order).flags.c_contiguous:
        return _on_host(leaf.transpose(order), cut.transposed(order)).transpose(np.argsort(order))
    result = np.empty(_shape(leaf, cut), leaf.dtype)
    first, *others = cut.indices
    count = len(leaf) if first is None else first.shape[-1]
    once = all(index is None for index in others) or (first is not None and first.ndim == 2)
    if leaf.nbytes <= _AT_ONCE or once:
        _put(leaf, cut, result)
        return result
    size = max(1, _AT_ONCE * len(leaf) // leaf.nbytes)
    if first is not None:
        leaf = np.ascontiguousarray(leaf)  # else NumPy makes the whole so for every block

    def write(start: int, stop: int) -> None:
        chosen = np.empty((0 if first is None else size, *leaf.shape[1:]), leaf.dtype)
        for low in range(start, stop, size):
            rows = slice(low, min(low + size, stop))
            part = leaf[rows]
            if first is not None:
                part = chosen[: rows.stop - low]
                np.take(leaf, first[rows], axis=0, out=part, mode="clip")
            rest = [
                i[rows] if layer == 0 and i is not None and i.ndim == 2 else i
                for i, layer in zip(others, cut.layers[1:], strict=True)
            ]
            _put(part, cut._replace(indices=(None, *rest)), result[rows])

    threads = max(1, min(os.cpu_count() or 1, -(-count // size)))
    edges = np.linspace(0, count, threads + 1, dtype=int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, edges, edges[1:]))
    return result


def _put(leaf: np.ndarray, cut: Cut, result: np.ndarray) -> None:
    """Writes the chosen entries of an array.

    Positions are within it. To refuse others NumPy would copy once more, and "clip" does not.
    """
    parts = [*cut.parts()]
    for number, (axis, index, layer) in enumerate(parts, 1):
        shape = (*leaf.shape[:axis], index.shape[-1], *leaf.shape[axis + 1 :])
        out = result if number == len(parts) else np.empty(shape, leaf.dtype)
        if layer is None:
            np.take(leaf, index, axis=axis, out=out, mode="clip")
        else:
            along = axis - (layer < axis)
            layers = (np.moveaxis(leaf, layer, 0), index, np.moveaxis(out, layer, 0))
            for part, chosen, place in zip(*layers, strict=True):
                np.take(part, chosen, axis=along, out=place, mode="clip")
        leaf = out


def entries(leaf: Any, cut: Cut) -> Any:
    """Returns the chosen entries of one array, by operations of JAX: positions may be traced.

    Along explicit mesh axes JAX wants the sharding of the result.
    """
    for axis, index, layer in cut.parts():
        sharding = jax.typeof(leaf).sharding
        shape = (*leaf.shape[:axis], index.shape[-1], *leaf.shape[axis + 1 :])
        out = shardings.fitted(sharding, shape) if any(sharding.spec) else None
        if layer is None:
            where = (slice(None),) * axis + (index,)
            leaf = leaf.at[where].get(mode="clip", out_sharding=out)
        else:
            leaf = _each(leaf, index, axis, layer, out)
    return leaf


def _each(leaf: Any, index: Any, axis: int, layer: int, out: Any) -> Any:
    """Takes every layer's own positions."""
    shape = [1] * leaf.ndim
    shape[layer], shape[axis] = index.shape
    positions = (index if layer < axis else index.T).reshape(shape)
    if out is None:
        return jnp.take_along_axis(leaf, positions, axis, mode="clip")
    where = jnp.ogrid[tuple(slice(n) for n in leaf.shape)]
    where[axis] = positions
    return leaf.at[tuple(where)].get(mode="clip", out_sharding=out)


def _on_one_cpu(leaf: jax.Array) -> bool:
    devices = leaf.devices()
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) or leaf.weak_type:
        return False  # NumPy knows neither
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def _placed_like(leaf: jax.Array, small: np.ndarray) -> jax.Array:
    if leaf.committed:
        return jax.device_put(small, leaf.sharding)
    with jax.default_device(next(iter(leaf.devices()))):
        return jax.device_put(small)
