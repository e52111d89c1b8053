"""Scores among the arguments: {group: f32[n]}, higher means keep; checked here for all packages."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import check_mapping, kind_of
from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.paths import near
from jaxprune.errors import ScoreError
from jaxprune.graph import ChannelGraph, Group, check_graph

Scores = Mapping[str, Any]
_SCORES = "{group: f32[n]}, a number for each channel where higher means keep"
_FIX = "Fix: recompute the scores on the variables that this graph was traced from."


def check_scores(
    graph: ChannelGraph, scores: Scores, *, strict: bool = False
) -> dict[str, np.ndarray]:
    """Returns the scores as float64[*layers, n] on the host, in the order of the graph.

    Args:
      graph: the channel graph.
      scores: what is checked.
      strict: whether every group must have some.

    Raises:
      ScoreError: a group is unknown, has none under `strict`, has scores of the wrong shape, or
        that are NaN or no real numbers; every failure is listed.
    """
    check_graph(graph)
    values = host_scores(scores)
    failures = [
        f"scores name {name!r}, which is not a group of the graph; near: {near(name, graph.groups)}"
        for name in values
        if name not in graph.groups
    ]
    for name, group in graph.groups.items():
        if name in values:
            if why := _problem(scores[name], values[name], group):
                failures.append(f"scores for group {name!r} {why}")
        elif strict:
            failures.append(f"group {name!r} has no scores, and strict=True")
    if not values:
        failures.append("scores hold no group, so there is nothing to choose from")
    if failures:
        raise ScoreError("\n".join([*failures, _FIX]))
    return {
        name: np.broadcast_to(score, group.shape)
        for name, group in graph.groups.items()
        if (score := values.get(name)) is not None
    }


def host_scores(scores: Any) -> dict[Any, np.ndarray | None]:
    """Returns {group: float64 array on the host}, None for what is not real numbers."""
    given = dict(check_mapping(scores, "scores", _SCORES, ScoreError))
    if traced := [name for name, value in given.items() if isinstance(value, Tracer)]:
        raise ScoreError(
            f"scores for groups {traced[:5]} are traced, but they decide which channels stay.\n"
            "Fix: return them from the jitted function, and select outside of it."
        )
    arrays = {name: value for name, value in given.items() if isinstance(value, jax.Array)}
    try:
        given |= fetch(arrays)
    except (TypeError, ValueError, RuntimeError):  # keys, deleted arrays
        given |= dict.fromkeys(arrays)
    return {name: real(value) for name, value in given.items()}


def real(value: Any) -> np.ndarray | None:
    """Returns real numbers as float64 on the host, None for anything else."""
    try:
        array = np.asarray(fetch(value))
        number = array.dtype.kind in "iuf" or jax.numpy.issubdtype(array.dtype, np.floating)
        return array.astype(np.float64) if number or array.size == 0 else None
    except (TypeError, ValueError):  # ragged lists, objects
        return None


def shape_of_numbers(values: Any) -> list[int] | None:
    """Returns the shape of an array of real numbers, traced or not; None for anything else."""
    if isinstance(values, Tracer):
        return list(values.shape)
    if isinstance(values, jax.Array):  # what is large is not fetched to be looked at
        kinds = jax.numpy.integer, jax.numpy.floating
        numbers = any(jax.numpy.issubdtype(values.dtype, kind) for kind in kinds)
        return list(values.shape) if numbers or not values.size else None
    shown = real(values)
    return None if shown is None else list(shown.shape)


def _problem(given: Any, values: np.ndarray | None, group: Group) -> str | None:
    """Says what is wrong with the scores of one group."""
    if values is None:
        return f"are {kind_of(given)}, not real numbers: scores are {_SCORES}"
    if values.shape not in {(group.size,), group.shape}:
        layers = f" in each of {group.layers} layers" if group.layers else ""
        return f"have shape {values.shape}, the group has {group.size} channels{layers}"
    if (bad := np.isnan(values)).any():
        channels = np.unique(np.nonzero(bad)[-1]).tolist()
        shown = ", ".join(map(str, channels[:5])) + (", ..." if len(channels) > 5 else "")
        return f"are NaN at channels {shown}"
    return None


def where_left(
    graph: ChannelGraph, scores: Any, within: Mapping[str, Any], gone: float
) -> dict[str, Any]:
    """Returns the scores with the number `gone` for channels that are gone, where shapes allow."""
    left: dict[str, Any] = {}
    for name, values in host_scores(scores).items():
        if values is None:
            left[name] = scores[name]
        elif name in within and values.shape == graph.groups[name].shape:
            left[name] = np.where(within[name], values, gone)
        else:
            left[name] = values
    return left
