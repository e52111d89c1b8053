"""The state of several statistics: merged, checked, and finished on the host."""

from collections.abc import Mapping
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.fetching import fetch
from jaxprune.errors import JaxpruneError
from jaxprune.graph import ChannelGraph
from jaxprune.stats.curvatures import By, Curvature
from jaxprune.stats.statistic import Statistic, added

Array = Any


class State(NamedTuple):
    """What several statistics know by now: a tree of arrays.

    states: {statistic: {group: the state of every place}}; of weights {path: state}.
    bad: {statistic: {group: i32[]}}, the first batch with numbers that are not finite, from 1; 0 if
      there was none. batches: i32[], how many.
    """

    states: Any
    bad: Any
    batches: Array


def merge_of(item: Statistic | Curvature) -> Any:
    """Returns what makes one state of two: those of a curvature are added."""
    return added if isinstance(item, Curvature) else item.merge


def merged(statistics: Mapping[str, Any], ours: State, theirs: State) -> State:
    """Returns the state of the data of both, those of `ours` first."""
    states = {}
    for name, groups in ours.states.items():
        add = merge_of(statistics[name])
        states[name] = {
            group: tuple(add(a, b) for a, b in zip(place, theirs.states[name][group], strict=True))
            for group, place in groups.items()
        }
    later = jax.tree.map(lambda b: jnp.where(b > 0, b + ours.batches, 0), theirs.bad)
    bad = jax.tree.map(lambda a, b: jnp.where(a > 0, a, b), ours.bad, later)
    return State(states, bad, ours.batches + theirs.batches)


def finished(graph: ChannelGraph, statistics: Mapping[str, Any], state: State) -> dict[str, Any]:
    """Returns {statistic: {group: result}} on the host; of weights a tree, where they are.

    Raises:
      JaxpruneError: no data, or numbers that are not finite.
    """
    bad, batches = fetch((state.bad, state.batches))
    if not batches:
        raise JaxpruneError("the state holds no data.\nFix: update it with a batch.")
    broken = sorted(
        (int(number), name, group)
        for name, groups in bad.items()
        for group, number in groups.items()
        if number
    )
    if broken:
        lines = [
            f"batch {number} of {batches}: {name!r} of {group!r}" for number, name, group in broken
        ]
        raise JaxpruneError(
            "\n".join(["statistics read numbers that are not finite:", *lines[:8]])
            + "\nFix: look for NaN or infinity in this batch (they are counted from 1) and in the "
            "parameters of the first group named here; leave the batch out."
        )
    results: dict[str, Any] = {}
    for name, groups in state.states.items():
        item = statistics[name]
        if isinstance(item, Curvature):
            results[name] = _curvature(graph, item, groups, int(batches))
        else:
            results[name] = {g: _finalized(item, fetch(s)) for g, s in groups.items()}
    return results


def _finalized(item: Statistic, parts: tuple[Any, ...]) -> Any:
    if item.join is not None:
        return jax.tree.map(np.asarray, item.join([item.finalize(state) for state in parts]))
    return jax.tree.map(np.asarray, item.finalize(reduce(item.merge, parts)))


def _curvature(graph: ChannelGraph, item: Curvature, sums: Any, batches: int) -> Any:
    if item.by is By.GATES:
        return {group: np.asarray(fetch(leaf)) / batches for group, (leaf,) in sums.items()}
    leaves = [
        sums[path][0] / batches if path in sums else jnp.zeros(variable.shape)
        for path, variable in graph.variables.items()
    ]
    return jax.tree.unflatten(graph.treedef, leaves)
