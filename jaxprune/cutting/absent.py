"""Trees without some of their leaves: absent from dicts, None in other containers."""

from collections.abc import Collection
from typing import Any

import jax
from flax.core import FrozenDict

from jaxprune.arguments import paths


class _Absent:
    """Stands in the place of a leaf that goes."""


_ABSENT = _Absent()


def without_leaves(tree: Any, gone: Collection[Any]) -> Any:
    """Returns a tree without the leaves of the paths, or at the places, that are `gone`.

    A dict loses their keys, and a dict that is empty then goes too. Elsewhere, in lists and states
    of modules, they become None, which JAX does not count as a leaf: what is left keeps its path.
    """
    leaves, treedef = paths.flatten(tree)
    marked = [
        _ABSENT if path in gone or place in gone else leaf
        for place, (path, leaf) in enumerate(leaves.items())
    ]
    found = _cleared(jax.tree.unflatten(treedef, marked))
    return None if found is _ABSENT else found


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
    found = _cleared(child)
    return None if found is _ABSENT else found
