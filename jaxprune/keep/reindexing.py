"""Inputs that point into a pruned axis, such as token ids: their old and their new numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.arguments import call_inputs
from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.numbers import is_integer, plain
from jaxprune.errors import KeepError
from jaxprune.graph import ChannelGraph
from jaxprune.keep.check import Keep, check_keep
from jaxprune.program import spaces as ax

PRUNED = -1
"""What a pruned id becomes."""


def reindex(graph: ChannelGraph, keep: Keep, *, input: str | int | None = None) -> np.ndarray:
    """Returns the new number of every old one that an input may hold, -1 where it is pruned.

    The input is one of those that `trace(..., index_inputs=)` names, such as token ids. The map is
    that of the keep: after `jp.save` and `jp.restore` the keep of `jp.keep_from_spec` gives the
    same one. `np.nonzero(map >= 0)[0]` is the way back.

    Args:
      graph: the channel graph.
      keep: {group: bool[n]}, concrete.
      input: the input, by its path or position; not needed where there is one, or all are alike.

    Returns:
      int32[size], by old number.

    Raises:
      KeepError: the keep does not fit, or the graph has no such input, or several unlike ones.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> fn = lambda v, ids: v["table"][ids] @ v["w"]
      >>> v = {"table": np.ones((6, 2)), "w": np.ones((2, 3))}
      >>> graph = jp.trace(fn, v, np.array([0, 1]), index_inputs={0: 6})
      >>> keep = {"table[0]": np.array([1, 0, 1, 1, 0, 0], bool)}
      >>> new = jp.reindex(graph, keep)
      >>> new.tolist()
      [0, -1, 1, 2, -1, -1]
      >>> jp.reindexed(new, [3, 0]).tolist(), jp.reindexed(new, [3, 1], unknown=2).tolist()
      ([2, 0], [2, 1])
    """
    masks = check_keep(graph, keep)
    known = {path: _table(space, masks) for path, space in graph.index_inputs.items()}
    if input is not None:
        wanted = _path(graph, str(input))
        if wanted not in known:
            raise KeepError(
                f"input {input!r} does not point into an axis; those that do are {list(known)}.\n"
                "Fix: trace(..., index_inputs={input: size})."
            )
        return known[wanted]
    tables = list(known.values())
    if not tables or any(not np.array_equal(table, tables[0]) for table in tables):
        raise KeepError(
            f"which input is meant? Those that point into an axis are {list(known)}.\n"
            "Fix: reindex(graph, keep, input=...); trace(..., index_inputs={input: size})."
        )
    return tables[0]


def reindexed(table: Any, ids: Any, *, unknown: int | None = None) -> np.ndarray:
    """Returns ids by their new numbers; checked on the host, as a look-up in JAX fills silently.

    Args:
      table: int32[size], what `jp.reindex` returned.
      ids: integers of any shape, concrete, each from 0 to size - 1.
      unknown: the old id that stands for pruned ones, such as that of an unknown word; None: a
        pruned id is an error.

    Raises:
      KeepError: an id is pruned, or is none, or ids are traced; or the table is not one.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> jp.reindexed(np.array([0, -1, 1, 2]), [[3, 0]]).tolist()
      [[2, 0]]
    """
    if isinstance(ids, Tracer):
        raise KeepError(
            "ids are traced, so that nobody can see whether they are pruned.\n"
            "Fix: reindex before jax.jit, where batches are made."
        )
    table = _integers(table, "table", "jp.reindex(graph, keep)")
    if table.ndim != 1 or not table.size:
        raise KeepError(
            f"table must be int[size], got {kind_of(table)}.\nFix: jp.reindex(graph, keep)."
        )
    given = _integers(ids, "ids", "ids.astype(int)")
    outside = given[(given < 0) | (given >= table.size)]
    if outside.size:
        raise KeepError(
            f"ids must be from 0 to {table.size - 1}, got {_some(outside)}.\n"
            "Fix: ids as they were before pruning, of the input that the table is of."
        )
    if unknown is not None:
        table = np.where(table == PRUNED, _known(table, unknown), table)
    new = table[given]
    if (new == PRUNED).any():
        raise KeepError(
            f"ids {_some(given[new == PRUNED])} are pruned.\nFix: unknown=, an id that stays and "
            "stands for them; or keep them."
        )
    return new.astype(given.dtype)


def inputs_at(
    graph: ChannelGraph, keep: Keep, inputs: Sequence[Any], keywords: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the inputs of a call with new ids in the place of old ones.

    Raises:
      KeepError: an id is pruned.
    """
    if not graph.index_inputs:
        return tuple(inputs), dict(keywords)
    leaves = dict(call_inputs.named(inputs, keywords))
    for path in graph.index_inputs.keys() & leaves.keys():
        table = reindex(graph, keep, input=path)
        if (table != np.arange(table.size)).any():
            leaves[path] = jnp.asarray(reindexed(table, leaves[path]))
    treedef = jax.tree.structure((tuple(inputs), dict(keywords)))
    return jax.tree.unflatten(treedef, [*leaves.values()])


def _table(space: ax.Space, masks: Keep) -> np.ndarray:
    kept = np.asarray(ax.select(space, masks))
    return np.where(kept, np.cumsum(kept) - 1, PRUNED).astype(np.int32)


def _path(graph: ChannelGraph, name: str) -> str:
    """The path of an input that may go by its name where it was given by position."""
    names = call_inputs.parameters(graph.fn)
    position = str(names.index(name)) if name in names else name
    return name if name in graph.index_inputs else position


def _known(table: np.ndarray, unknown: Any) -> int:
    """The new number of the id that stands for pruned ones."""
    if not is_integer(unknown) or not 0 <= plain(unknown) < table.size:
        raise KeepError(
            f"unknown must be an id from 0 to {table.size - 1}, got {unknown!r}.\n"
            "Fix: unknown=1, an old id that stays."
        )
    if table[plain(unknown)] == PRUNED:
        raise KeepError(f"unknown={unknown} is pruned itself.\nFix: keep it, or another id.")
    return int(table[plain(unknown)])


def _integers(values: Any, what: str, way: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:  # a ragged list
        array = None
    if array is None or array.dtype.kind not in "iu":
        raise KeepError(f"{what} must be integers, got {kind_of(values)}.\nFix: {way}.")
    return array


def _some(ids: np.ndarray) -> list[int]:
    return np.unique(ids)[:5].tolist()
