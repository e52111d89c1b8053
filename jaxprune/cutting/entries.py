"""Chosen entries of arrays of every kind, each cut where it lives."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.errors import TreeError
from jaxprune.program import stacked_layers
from jaxprune.program.spaces import Space


class Cut(NamedTuple):
    """What to take of an array.

    indices: per axis the positions to take, int[k], or int[layers, k] where every layer has its
      own; None takes all.
    layers: per axis the axis that counts these layers.
    """

    indices: tuple[np.ndarray | None, ...]
    layers: tuple[int | None, ...]

    @classmethod
    def of(cls, indices: Iterable[np.ndarray | None], axes: Sequence[Space]) -> "Cut":
        """Returns the cut of an array over `axes`."""
        return cls(tuple(indices), tuple(stacked_layers.layer_axis(axes, space) for space in axes))

    @classmethod
    def rows(cls, kept: np.ndarray, rank: int) -> "Cut":
        """Returns the cut of an array of that rank to the rows that are kept."""
        others = (None,) * (rank - 1)
        return cls((np.flatnonzero(kept), *others), (None, *others))

    def parts(self) -> Iterator[tuple[int, np.ndarray, int | None]]:
        """Yields (axis, positions, layer axis) where something is taken."""
        for axis, (index, layer) in enumerate(zip(self.indices, self.layers, strict=True)):
            if index is not None:
                yield axis, index, layer if index.ndim == 2 else None


def take(leaves: Mapping[str, Any], cuts: Mapping[str, Cut]) -> dict[str, Any]:
    """Returns {path: the chosen entries of the leaf}, of the leaf's kind and sharding.

    Arrays of one device set are cut by one jitted program, those of a single CPU on the host.

    Raises:
      TreeError: the mesh does not divide a new width.
    """
    shapes = {path: _shape(leaf, cuts[path]) for path, leaf in leaves.items()}
    _check_shardings(leaves, shapes)
    found, waiting = {}, {}
    for path, leaf in leaves.items():
        if isinstance(leaf, jax.ShapeDtypeStruct):
            found[path] = leaf.update(shape=shapes[path])
        elif isinstance(leaf, np.ndarray):
            found[path] = _on_host(leaf, cuts[path])
        elif isinstance(leaf, Tracer):
            found[path] = entries(leaf, cuts[path])
        elif _on_one_cpu(leaf):
            found[path] = _placed_like(leaf, _on_host(np.asarray(leaf), cuts[path]))
        else:
            waiting.setdefault(frozenset(leaf.devices()), {})[path] = leaf
    for together in waiting.values():
        found |= _on_devices(together, {path: cuts[path] for path in together})
    return found


def _shape(leaf: Any, cut: Cut) -> tuple[int, ...]:
    shape = list(leaf.shape)
    for axis, index, _ in cut.parts():
        shape[axis] = index.shape[-1]
    return tuple(shape)


def _on_host(leaf: np.ndarray, cut: Cut) -> np.ndarray:
    for axis, index, layer in cut.parts():
        if layer is None:
            leaf = np.take(leaf, index, axis=axis)
        else:
            along = axis - (layer < axis)
            layers = zip(np.moveaxis(leaf, layer, 0), index, strict=True)
            leaf = np.stack([np.take(one, own, axis=along) for one, own in layers], axis=layer)
    return leaf


def entries(leaf: Any, cut: Cut) -> Any:
    """Returns the chosen entries of one array, by operations of JAX: positions may be traced.

    Along explicit mesh axes JAX wants the sharding of the result.
    """
    sharding = jax.typeof(leaf).sharding
    out = sharding if any(sharding.spec) else None
    for axis, index, layer in cut.parts():
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
    own = (index if layer < axis else index.T).reshape(shape)
    if out is None:
        return jnp.take_along_axis(leaf, own, axis, mode="clip")
    where = jnp.ogrid[tuple(slice(n) for n in leaf.shape)]
    where[axis] = own
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


def _on_devices(leaves: dict[str, jax.Array], cuts: dict[str, Cut]) -> dict[str, Any]:
    layers = tuple(cut.layers for cut in cuts.values())
    program = _program(tuple(leaf.sharding for leaf in leaves.values()), layers)
    indices = [cut.indices for cut in cuts.values()]
    return dict(zip(leaves, program([*leaves.values()], indices), strict=True))


@lru_cache(maxsize=8)
def _program(shardings: tuple[Any, ...], layers: tuple[tuple[int | None, ...], ...]) -> Any:
    """Returns the program that cuts leaves; indices are arguments, so that it serves others."""

    def cut(leaves: Any, indices: Any) -> Any:
        cuts = map(Cut, indices, layers)
        return [entries(leaf, cut) for leaf, cut in zip(leaves, cuts, strict=True)]

    return jax.jit(cut, out_shardings=list(shardings))


def _check_shardings(leaves: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raises TreeError where a mesh does not divide a width, with all such widths."""
    failures, sizes = [], []
    for path, leaf in leaves.items():
        for axis, (width, (names, size)) in enumerate(
            zip(shapes[path], _parts(leaf), strict=False)
        ):
            if width % size:
                failures.append(
                    f"{path!r} would have width {width} along axis {axis}, which does not fit the "
                    f"sharding: mesh axis {names} has size {size}"
                )
                sizes.append(size)
    if failures:
        raise TreeError(
            "\n".join(failures)
            + f"\nFix: select with multiple_of={math.lcm(*sizes)}, or replicate these variables "
            "before (jax.device_put)."
        )


def _parts(leaf: Any) -> Iterator[tuple[str, int]]:
    """Yields (names of mesh axes, the number of parts) for the axes of a leaf."""
    if isinstance(leaf, np.ndarray):
        return
    sharding = jax.typeof(leaf).sharding if isinstance(leaf, Tracer) else leaf.sharding
    if not isinstance(sharding, jax.NamedSharding):
        return
    for item in sharding.spec:
        names = item if isinstance(item, tuple) else (item,)
        names = [name for name in names if name in sharding.mesh.shape]
        yield ", ".join(map(repr, names)), math.prod(sharding.mesh.shape[name] for name in names)
