"""Shardings of arrays at new widths."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxprune.arguments.stored_arrays import StoredArray
from jaxprune.errors import JaxpruneError, TreeError

FIT = "fit"


def check_choice(choice: Any) -> bool:
    """Returns whether mesh axes may be dropped, given as None or "fit".

    Raises:
      JaxpruneError: it is something else.
    """
    if choice is None or (isinstance(choice, str) and choice == FIT):
        return choice is not None
    raise JaxpruneError(
        f"shardings must be None or 'fit', got {choice!r}.\n"
        "Fix: shardings='fit', and jax.device_put for shardings of your own."
    )


def fitted(sharding: Any, shape: Sequence[int]) -> Any:
    """Returns a sharding in which every axis has the first mesh axes that divide it."""
    if not isinstance(sharding, jax.NamedSharding):
        return sharding
    spec = []
    for width, item in zip(shape, sharding.spec, strict=False):
        names = names_of(sharding, item)
        while names and width % parts_of(sharding.mesh, names):
            names = names[:-1]
        whole = names == names_of(sharding, item)
        spec.append(item if whole else names or None)
    return sharding.update(spec=jax.P(*spec)) if tuple(spec) != tuple(sharding.spec) else sharding


def check(leaves: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raises TreeError where a mesh does not divide a width, with all such widths."""
    failures, sizes = [], []
    for path, leaf in leaves.items():
        for axis, (width, (names, size)) in enumerate(
            zip(shapes[path], _divided(leaf), strict=False)
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
            + f"\nFix: select with multiple_of={math.lcm(*sizes)}, or slice with shardings='fit', "
            "which divides such an axis less, or not at all."
        )


def _divided(leaf: Any) -> Iterator[tuple[str, int]]:
    """Yields (names of mesh axes, the number of parts) for the axes of a leaf."""
    if isinstance(leaf, np.ndarray | StoredArray):
        return
    sharding = jax.typeof(leaf).sharding if isinstance(leaf, Tracer) else leaf.sharding
    if not isinstance(sharding, jax.NamedSharding):
        return
    for item in sharding.spec:
        names = names_of(sharding, item)
        yield ", ".join(map(repr, names)), parts_of(sharding.mesh, names)


def names_of(sharding: jax.NamedSharding, item: Any) -> tuple[str, ...]:
    """Returns the mesh axes that an item of a `PartitionSpec` names."""
    names = item if isinstance(item, tuple) else (item,)
    return tuple(name for name in names if name in sharding.mesh.shape)


def parts_of(mesh: Any, names: Sequence[str]) -> int:
    """Returns into how many parts these mesh axes divide."""
    return math.prod(mesh.shape[name] for name in names)
