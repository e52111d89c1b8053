"""Chosen entries of arrays of every kind, each cut where it lives."""

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
    """Cuts rows of the first axis at a time, such that they stay in the cache between two cuts."""
    if not any(cut.parts()):
        return leaf
    first, *others = cut.indices
    rows = len(leaf) if first is None else first.shape[-1]
    once = all(index is None for index in others) or (first is not None and first.ndim == 2)
    if leaf.nbytes <= _AT_ONCE or once:
        return _taken(leaf, cut)
    size = max(1, _AT_ONCE * len(leaf) // leaf.nbytes)
    result = np.empty(_shape(leaf, cut), leaf.dtype)

    def write(start: int) -> None:
        end = min(start + size, rows)
        part = leaf[start:end] if first is None else np.take(leaf, first[start:end], axis=0)
        rest = [
            i[start:end] if layer == 0 and i is not None and i.ndim == 2 else i
            for i, layer in zip(others, cut.layers[1:], strict=True)
        ]
        result[start:end] = _taken(part, cut._replace(indices=(None, *rest)))

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(0, rows, size)))
    return result


def _taken(leaf: np.ndarray, cut: Cut) -> np.ndarray:
    for axis, index, layer in cut.parts():
        if layer is None:
            leaf = np.take(leaf, index, axis=axis)
        else:
            along = axis - (layer < axis)
            layers = zip(np.moveaxis(leaf, layer, 0), index, strict=True)
            leaf = np.stack(
                [np.take(part, chosen, axis=along) for part, chosen in layers], axis=layer
            )
    return leaf


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
