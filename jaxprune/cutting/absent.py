"""Trees without some of their leaves: absent from dicts, None in other containers."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jax import lax

from jaxprune.arguments import paths
from jaxprune.errors import TreeError
from jaxprune.graph import Variable
from jaxprune.inspecting.without_branches import Lost, Without


class _Absent:
    """Stands in the place of a leaf that goes."""


_ABSENT = _Absent()


def without_leaves(tree: Any, gone: Collection[Any]) -> Any:
    """Returns a tree without the leaves of the paths, or at the places, that are `gone`.

    A dict loses their keys, and a dict that is empty then goes too, but not the tree itself: a tree
    of dicts that loses all is an empty one. Elsewhere, in lists and states
    of modules, they become None, which JAX does not count as a leaf: what is left keeps its path.
    """
    leaves, treedef = paths.flatten(tree)
    marked = [
        _ABSENT if path in gone or place in gone else leaf
        for place, (path, leaf) in enumerate(leaves.items())
    ]
    left = _cleared(jax.tree.unflatten(treedef, marked))
    if left is not _ABSENT:
        return left
    return type(tree)({}) if type(tree) in (dict, FrozenDict) else None


def _cleared(node: Any) -> Any:
    if node is _ABSENT:
        return node
    if type(node) in (dict, FrozenDict):
        items = {key: _cleared(value) for key, value in node.items()}
        left = {key: value for key, value in items.items() if value is not _ABSENT}
        return _ABSENT if items and not left else type(node)(left)
    if jax.tree_util.all_leaves([node]):
        return node
    return jax.tree.map(_or_none, node, is_leaf=lambda child: child is not node)


def _or_none(child: Any) -> Any:
    left = _cleared(child)
    return None if left is _ABSENT else left


def with_leaves(
    known: Mapping[str, Variable],
    small: Any,
    gone: Without | Lost,
    full: Mapping[str, Any] | None,
    into: Any,
    widened: Callable[[Any], Any],
    empty: Callable[[Mapping[str, Any]], Any],
) -> Any:
    """Returns the tree of `into` with the leaves of a tree that lacks those that are `gone`.

    What is absent is that of `full`, the leaves of `into`, or of the tree that `empty` gives for
    the leaves that are there. `widened` gives a tree its pruned channels back.

    Raises:
      TreeError: without `into`, `small` is a part of the tree of the graph.
    """
    leaves = paths.flatten(small)[0]
    if full is None and (missing := known.keys() - leaves.keys() - gone.variables):
        raise TreeError(
            f"the tree lacks {sorted(missing)[:5]}, which do not go with a branch, so that its "
            "full form is not known.\nFix: unslice(..., into=the full tree)."
        )
    rows = {path: kept for path, kept in gone.rows.items() if path in leaves}
    wide = widened(leaves | {path: with_rows(leaves[path], kept) for path, kept in rows.items()})
    if full is not None:
        for path, kept in rows.items():
            wide[path] = _rows_of(wide[path], full[path], kept)
    others, treedef = paths.flatten(empty(wide) if full is None else into)
    return jax.tree.unflatten(treedef, [wide.get(path, leaf) for path, leaf in others.items()])


def _rows_of(wide: Any, other: Any, kept: np.ndarray) -> Any:
    """Returns an array with the rows that are not kept of another one."""
    if isinstance(wide, jax.ShapeDtypeStruct):
        return wide
    host = isinstance(wide, np.ndarray) and isinstance(other, np.ndarray)
    there = np.reshape(kept, (-1, *[1] * (np.ndim(wide) - 1)))
    return (np if host else jnp).where(there, wide, other)


def with_rows(leaf: Any, kept: np.ndarray) -> Any:
    """Returns an array with zeros for the rows that are not kept, or as it is if it has all."""
    if np.shape(leaf)[:1] != (np.count_nonzero(kept),):
        return leaf
    shape = (len(kept), *np.shape(leaf)[1:])
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(shape=shape)
    if isinstance(leaf, np.ndarray):
        wide = np.zeros(shape, leaf.dtype)
        wide[kept] = leaf
        return wide
    pieces, taken = [], 0  # joined, not scattered, so that whoever traces this can follow the rows
    for run in np.split(kept, np.flatnonzero(np.diff(kept)) + 1):
        if run[0]:
            pieces.append(lax.slice_in_dim(leaf, taken, taken + run.size))
            taken += run.size
        else:
            pieces.append(jnp.zeros((run.size, *shape[1:]), leaf.dtype))
    return jnp.concatenate(pieces)
