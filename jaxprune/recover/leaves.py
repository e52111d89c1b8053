"""The arrays of a tree of variables, and the tree with other values at some paths."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxprune.arguments.checks import check_mapping
from jaxprune.arguments.paths import flatten
from jaxprune.arguments.reduction import is_near
from jaxprune.cutting.transforms import check_tree
from jaxprune.errors import KeepError, TreeError
from jaxprune.graph import ChannelGraph
from jaxprune.keep.check import widths as check_widths


def replaced(variables: Any, values: Mapping[str, Any]) -> Any:
    """Returns `variables` with new values at some paths, in the old dtype and sharding."""
    leaves, treedef = flatten(variables)

    def new(leaf: Any, value: Any) -> Any:
        if isinstance(leaf, jax.Array) and isinstance(value, jax.Array):
            return jax.device_put(value.astype(leaf.dtype), leaf.sharding)
        array = np.broadcast_to(np.asarray(value, leaf.dtype), leaf.shape)
        return jax.device_put(array, leaf.sharding) if isinstance(leaf, jax.Array) else array

    return jax.tree.unflatten(
        treedef,
        [new(leaf, values[path]) if path in values else leaf for path, leaf in leaves.items()],
    )


def plus(leaf: Any, delta: np.ndarray) -> Any:
    """Returns a small variable with a change added, in its dtype and sharding."""
    delta = delta.astype(leaf.dtype)
    return leaf + (delta if is_near(leaf) else jax.device_put(delta, leaf.sharding))


def checked_counts(graph: ChannelGraph, widths: Any) -> dict[str, int]:
    """Returns {group: how many channels stay}, in the order of the graph.

    Raises:
      KeepError: it is not a mapping of groups to counts from 1 to their sizes.
    """
    given = check_mapping(widths, "widths", "{group: count}", KeepError)
    known = check_widths(graph, given)
    return {name: count for name, count in known.items() if name in given}


def concrete(graph: ChannelGraph, variables: Any) -> dict[str, Any]:
    """Returns {path: array} of all variables.

    Raises:
      TreeError: they are not those of the graph, or have no values.
    """
    leaves, _ = flatten(variables)
    check_tree(graph, leaves, {})
    empty = (jax.ShapeDtypeStruct, type(None))
    if missing := [path for path in graph.variables if isinstance(leaves.get(path), empty)]:
        raise TreeError(
            f"variables {missing} are missing or have no values.\n"
            "Fix: pass all variables that were traced."
        )
    return leaves
