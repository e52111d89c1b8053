"""From the entries of variables to one number per channel."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_callable, is_array, kind_of
from jaxprune.arguments.dtypes import wide
from jaxprune.errors import ScoreError, TreeError
from jaxprune.graph import ChannelGraph, Slot, check_graph

Array = Any  # a numpy array outside `jax.jit`, a traced one inside


class Reduce(Protocol):
    """Combines the members of a group, f32[..., members] -> f32[...]: jnp.sum, jnp.max, ..."""

    def __call__(self, members: Array, /, *, axis: int) -> Array:
        """Returns the members combined along their axis."""
        ...


def total(members: Array, /, *, axis: int) -> Array:
    """Returns the sum of the members, computed where they are: on the host, or in the program."""
    return members.sum(axis=axis)


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
    `reduce` then combines the members. Concrete arrays are fetched
    and the work is done by numpy, because eager JAX would compile a program for every shape;
    inside `jax.jit` all stays in the program.

    Raises:
      TreeError: `variables` lack a leaf of the graph, or one has another shape.
    """
    check_graph(graph)
    check_callable(reduce, "reduce", "reduce=jnp.sum, called with axis=1.", ScoreError)
    members = {
        name: slots
        for name, group in graph.groups.items()
        if (slots := [slot for slot in group.slots if wanted(slot)])
    }
    wanted_paths = [slot.path for slots in members.values() for slot in slots]
    leaves = leaves_at(graph, variables, wanted_paths)
    scores = {}
    for name, slots in members.items():
        columns = [finish(owned(leaves[slot.path], slot, entry)) for slot in slots]
        scores[name] = reduce(_numpy_of(columns).stack(columns, axis=-1), axis=-1)
    return scores


def owned(leaf: Array, slot: Slot, entry: Callable[[Array], Array]) -> Array:
    """Returns the sum of `entry` over the entries of `leaf` that each channel owns.

    It is f32[n], and f32[layers, n] where every layer of a stack has its own channels.
    """
    return slot.owned(slot.along(entry(wide(leaf))))


def found(scores: dict[str, Array], *, by: str, fix: str) -> dict[str, Array]:
    """Returns the scores.

    Raises:
      ScoreError: there is none; `by` says what was looked for.
    """
    if not scores:
        raise ScoreError(f"{by}, so no group has a score.\nFix: {fix}")
    return scores


def leaves_at(graph: ChannelGraph, variables: Any, wanted: Iterable[str]) -> dict[str, Array]:
    """Returns {path: leaf} of the wanted variables, concrete ones on the host.

    Raises:
      TreeError: one is absent, has another shape, or is a shape.
    """
    named, _ = paths.flatten(variables)
    wanted = dict.fromkeys(wanted)
    failures = [
        f"{path}: the graph has shape {graph.variables[path].shape}, the variables have {found}"
        for path in wanted
        if (found := shape_in(named, path)) != graph.variables[path].shape
    ]
    if failures:
        fix = "Fix: pass the variables that the graph was traced from, or trace it again."
        raise TreeError("\n".join(["variables do not mirror the graph.", *failures, fix]))
    if shapes := [path for path in wanted if isinstance(named[path], jax.ShapeDtypeStruct)]:
        raise TreeError(
            f"variables {shapes[:5]} are shapes, which have no scores.\n"
            "Fix: pass arrays, or scores.random(graph, key)."
        )
    return _on_host({path: named[path] for path in wanted})


def shape_in(leaves: Mapping[str, Any], path: str) -> Any:
    """Returns the shape of a leaf, or in words what is there in its place."""
    if path not in leaves:
        return "no such leaf"
    return np.shape(leaves[path]) if is_array(leaves[path]) else kind_of(leaves[path])


def here(values: Any) -> Array:
    """Returns `wide` values: traced ones in the program, others on the host."""
    return wide(values if isinstance(values, Tracer) else np.asarray(jax.device_get(values)))


def _on_host(leaves: Mapping[str, Array]) -> dict[str, Array]:
    concrete = {k: v for k, v in leaves.items() if not isinstance(v, Tracer)}
    return {**leaves, **jax.device_get(concrete)}


def _numpy_of(arrays: Iterable[Array]) -> Any:
    return jnp if any(isinstance(array, Tracer) for array in arrays) else np
