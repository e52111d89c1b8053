"""From the entries of variables to one number per channel."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_callable, is_array, kind_of
from jaxprune.arguments.dtypes import wide
from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.reduction import reduced
from jaxprune.arguments.stored_arrays import StoredArray, in_memory
from jaxprune.errors import ScoreError, TreeError
from jaxprune.graph import ChannelGraph, Slot, check_graph, sums_along

Array = Any  # a numpy array outside `jax.jit`, a traced one inside


_AT_ONCE = 2**23
"""Entries of an array on the host that are widened at a time."""
_OF_FILES = 2**20
"""The same of an array in a file, of which there may be less memory than of the others."""


class Reduce(Protocol):
    """Combines the members of a group, f32[..., members] -> f32[...]: jnp.sum, jnp.max, ..."""

    def __call__(self, members: Array, /, *, axis: int) -> Array:
        """Returns the members combined along their axis."""
        ...


def total(members: Array, /, *, axis: int) -> Array:
    """Returns the sum of the members, computed where they are: on the host, or in the program."""
    return members.sum(axis=axis)


def as_they_are(entries: Array) -> Array:
    """Returns the entries, for their plain sum."""
    return entries


def collect(
    graph: ChannelGraph,
    variables: Any,
    *,
    wanted: Callable[[Slot], bool],
    entry: Callable[[Array], Array],
    finish: Callable[[Array], Array] = lambda sums: sums,
    reduce: Reduce = total,
) -> dict[str, Array]:
    """Returns {group: f32[n] or f32[layers, n]} for the groups with a wanted slot.

    A wanted slot is a member: it gives every channel `finish(sum of entry(w))` over the entries w
    that the channel owns there, in float32 or wider (float64 variables give float64 scores);
    `reduce` then combines the members. Arrays on the host are read there by NumPy, a part at a
    time, and so are arrays in files (`jp.open_variables`); others are summed where they are, in a
    program for each shape and sharding, and the sums are fetched. Inside `jax.jit` all stays in the
    program.

    Raises:
      TreeError: `variables` lack a leaf of the graph, or a leaf has another shape.
    """
    check_graph(graph)
    check_callable(reduce, "reduce", "reduce=jnp.sum, called with axis=1.", ScoreError)
    members = members_of(graph, wanted)
    checked = isinstance(variables, Pairs)
    leaves = variables if checked else leaves_at(graph, variables, paths_of(members))
    scores = {}
    for name, slots in members.items():
        columns = [finish(owned(leaves[slot.path], slot, entry)) for slot in slots]
        scores[name] = reduce(numpy_of(columns).stack(columns, axis=-1), axis=-1)
    return scores


class Pair(NamedTuple):
    """A variable with what belongs to each of its entries: `combine(first, second)`."""

    first: Array
    second: Array
    combine: Callable[[Array, Array], Array]

    @property
    def value(self) -> Array:
        """What the two give: traced, or on the host."""
        return self.combine(here(self.first), here(self.second))


class Pairs(dict[str, Pair]):
    """{path: the pair of a variable}, checked."""


def owned(leaf: Array | Pair, slot: Slot, entry: Callable[[Array], Array]) -> Array:
    """Returns the sum of `entry` over the entries of `leaf` that each channel owns.

    It is f32[n], and f32[layers, n] where every layer of a stack has its own channels.
    """
    if isinstance(leaf, Pair):
        parts, combine = (leaf.first, leaf.second), leaf.combine
    else:
        parts, combine = (leaf,), None
    summed = _Summed(slot.axis, slot.layer, entry, combine)
    if any(isinstance(part, StoredArray) for part in parts):
        return slot.owned(_of_stored(summed, parts))
    return slot.owned(reduced(summed, parts, on_host=partial(_in_parts, summed)))


class _Summed(NamedTuple):
    """The sums at every index of an axis, and of each layer, over entries made of arrays."""

    axis: int
    layer: int | None
    entry: Callable[[Array], Array]
    combine: Callable[[Array, Array], Array] | None

    def __call__(self, *parts: Array) -> Array:
        values = [wide(part) for part in parts]
        made = values[0] if self.combine is None else self.combine(*values)
        return sums_along(self.entry(made), self.axis, self.layer)


def _in_parts(summed: _Summed, parts: Sequence[np.ndarray], at_once: int = _AT_ONCE) -> np.ndarray:
    """Returns the sums with about so many entries widened at a time."""
    shape = parts[0].shape
    pieces = -(-math.prod(shape) // at_once)
    if pieces < 2:
        return summed(*parts)
    along = shape.index(max(shape))
    cuts = [np.array_split(part, pieces, axis=along) for part in parts]
    return _joined(summed, [summed(*piece) for piece in zip(*cuts, strict=True)], along)


def _of_stored(summed: _Summed, parts: Sequence[Array]) -> np.ndarray:
    """Returns the sums of arrays in files, of which a part is read at a time."""
    first = next(part for part in parts if isinstance(part, StoredArray))
    along = first.outer
    if along is None or not first.size:
        return _in_parts(summed, [np.asarray(fetch(in_memory(part))) for part in parts])
    ready = [
        part
        if isinstance(part, StoredArray) and part.outer == along
        else np.asarray(fetch(in_memory(part)))
        for part in parts
    ]
    sums = [
        _in_parts(summed, [_rows(part, along, start, stop) for part in ready], _OF_FILES)
        for start, stop in first.bounds()
    ]
    return _joined(summed, sums, along)


def _rows(part: Array, along: int, start: int, stop: int) -> np.ndarray:
    if isinstance(part, StoredArray):
        return part.part(start, stop)
    return part[(slice(None),) * along + (slice(start, stop),)]


def _joined(summed: _Summed, sums: Sequence[np.ndarray], along: int) -> np.ndarray:
    """Returns the sums of an array from those of its parts along an axis."""
    if along in (summed.axis, summed.layer):
        return np.concatenate(sums, axis=0 if along == summed.layer else -1)
    return np.add.reduce(sums)


def not_empty(scores: dict[str, Array], *, by: str, fix: str) -> dict[str, Array]:
    """Returns the scores.

    Raises:
      ScoreError: there is none; `by` says what was looked for.
    """
    if not scores:
        raise ScoreError(f"{by}, so no group has a score.\nFix: {fix}")
    return scores


def members_of(graph: ChannelGraph, wanted: Callable[[Slot], bool]) -> dict[str, list[Slot]]:
    """Returns {group: its wanted slots}, of groups that have some."""
    return {
        name: slots
        for name, group in graph.groups.items()
        if (slots := [slot for slot in group.slots if wanted(slot)])
    }


def paths_of(members: Mapping[str, Iterable[Slot]]) -> list[str]:
    """Returns the paths of the variables in which members are."""
    return [slot.path for slots in members.values() for slot in slots]


def leaves_at(graph: ChannelGraph, variables: Any, wanted: Iterable[str]) -> dict[str, Array]:
    """Returns {path: leaf} of the wanted variables, as they are and where they are.

    Raises:
      TreeError: a variable is absent, has another shape, or is a shape.
    """
    named, _ = paths.flatten(variables)
    wanted = dict.fromkeys(wanted)
    failures = [
        f"{path}: the graph has shape {graph.variables[path].shape}, the variables have {shape}"
        for path in wanted
        if (shape := shape_in(named, path)) != graph.variables[path].shape
    ]
    if failures:
        fix = "Fix: pass the variables that the graph was traced from, or trace it again."
        raise TreeError("\n".join(["variables do not mirror the graph.", *failures, fix]))
    if shapes := [path for path in wanted if isinstance(named[path], jax.ShapeDtypeStruct)]:
        raise TreeError(
            f"variables {shapes[:5]} are shapes, which have no scores.\n"
            "Fix: pass arrays, or scores.random(graph, key)."
        )
    return {path: named[path] for path in wanted}


def shape_in(leaves: Mapping[str, Any], path: str) -> Any:
    """Returns the shape of a leaf, or in words what is there in its place."""
    if path not in leaves:
        return "no such leaf"
    return np.shape(leaves[path]) if is_array(leaves[path]) else kind_of(leaves[path])


def here(values: Any) -> Array:
    """Returns `wide` values: traced ones in the program, others on the host."""
    return wide(values if isinstance(values, Tracer) else np.asarray(fetch(in_memory(values))))


def numpy_of(arrays: Iterable[Array]) -> Any:
    """Returns `jax.numpy` if one of the arrays is traced, else `numpy`."""
    return jnp if any(isinstance(array, Tracer) for array in arrays) else np
