"""What data says of channels, among the arguments: {group: array}, as `jp.stats` finds it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import check_mapping, kind_of
from jaxprune.arguments.reduction import reduced
from jaxprune.errors import ScoreError
from jaxprune.graph import ChannelGraph, Group, check_graph
from jaxprune.groups.members import Array, here, not_empty
from jaxprune.groups.scored import shape_of_numbers

Shape = Callable[[Group], tuple[int | str, ...]]


def of_channels(group: Group) -> tuple[int | str, ...]:
    """Returns the shape of one number of each channel."""
    return group.shape


def of_pairs(group: Group) -> tuple[int | str, ...]:
    """Returns the shape of one number of each pair of channels."""
    return (*group.shape, group.size)


def given(
    graph: ChannelGraph,
    values: Any,
    what: str,
    fix: str,
    shape: Shape = of_channels,
    entry: Callable[[Array], Array] | None = None,
) -> dict[str, Array]:
    """Returns {group: array} in the order of the graph, in float32 or wider.

    A word in a shape stands for any size; `entry` makes less of such arrays, where they are.

    Raises:
      ScoreError: a group is unknown, its numbers have another shape or are not finite, or there is
        none; every failure is listed.
    """
    check_graph(graph)
    mapping = check_mapping(values, what, "{group: f32[n]}", ScoreError)
    failures, ours = [], {}
    for name, value in mapping.items():
        group = graph.groups.get(name)
        if group is None:
            failures.append(f"group {name!r}: the graph has no such group")
            continue
        wanted, got = shape(group), shape_of_numbers(value)
        if got is None or not _fits(got, wanted):
            expected = ", ".join(map(str, wanted))
            shown = kind_of(value) if got is None else got
            failures.append(f"group {name!r}: expected {what} [{expected}], got {shown}")
            continue
        ours[name] = here(value) if entry is None else reduced(entry, [value])
        if not isinstance(value, Tracer) and not np.isfinite(ours[name]).all():
            failures.append(f"group {name!r}: {what} are not finite")
    if failures:
        raise ScoreError("\n".join([f"these are not {what}.", *failures[:8], f"Fix: {fix}"]))
    ours = {name: ours[name] for name in graph.groups if name in ours}
    return not_empty(ours, by=f"there are no {what}", fix=fix)


def _fits(got: list[int], wanted: tuple[int | str, ...]) -> bool:
    pairs = zip(got, wanted, strict=False)
    return len(got) == len(wanted) and all(isinstance(w, str) or g == w for g, w in pairs)
