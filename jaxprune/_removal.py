"""The removal order: one sequence of steps from the full network down to its floors.

Within a group channels leave by (score, channel). A kept count is reachable if it respects the
floors and `multiple_of` (a multiple, or the full size); one step takes a group from a reachable
count to the next lower one. The steps of all groups are sorted by (highest score that leaves,
group order): the order of a threshold that rises, where a block of channels goes once all of it is
passed.

In a group of stacked layers every layer loses one channel at a time, its lowest; what they lose
together is scored by the mean over the layers (`threshold`: the highest).

So floors, rounding and budgets never fight: at every point of the order the constraints hold, and
every cost falls along it. A channel under a floor is in no step, which is how a quota goes on to
the next lowest channel elsewhere.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np

from jaxprune import stacks
from jaxprune.errors import BudgetError, PatternError, ScoreError
from jaxprune.graph import ChannelGraph
from jaxprune.kinds import Kind, matching
from jaxprune.masks import check_keep

Keep = dict[str, np.ndarray]
Scores = Mapping[str, Any]


class Constraints(TypedDict, total=False):
    """What every selector obeys exactly; where that is impossible, it raises.

    Floors that fall between reachable counts are rounded up, and a group smaller than
    `min_channels` stays whole.
    """

    min_channels: int  # a group keeps at least so many, and never less than the default, 1
    min_keep_ratio: float  # a group keeps at least this share of its channels; default 0.0
    max_prune_ratio: float  # a group loses at most this share of its channels; default 1.0
    multiple_of: int  # a kept count is a multiple of this, or the full size; default 1
    protect: Sequence[str | Kind]  # patterns or kinds of groups that stay whole; default none
    only: Sequence[str | Kind]  # of the only groups that may lose channels; default all
    strict: bool  # True: a group without scores is an error; default False, it stays whole
    within: Mapping[str, Any]  # keep of an earlier pruning: ratios and floors are of what it left


class Limits(NamedTuple):
    """`Constraints` with their defaults."""

    min_channels: int = 1
    min_keep_ratio: float = 0.0
    max_prune_ratio: float = 1.0
    multiple_of: int = 1
    protect: Sequence[str | Kind] = ()
    only: Sequence[str | Kind] = ()
    strict: bool = False
    within: Mapping[str, Any] = MappingProxyType({})


class Order(NamedTuple):
    """The removal order. Groups in scope are those with scores that may lose channels."""

    limits: Limits
    scores: dict[str, np.ndarray]  # every scored group, in graph order: float64[*layers, n]
    present: dict[str, np.ndarray]  # which channels are there: bool[*layers, n]
    ranked: dict[
        str, np.ndarray
    ]  # groups in scope: their channels, lowest score first: [*layers, m]
    joint: dict[str, np.ndarray]  # groups in scope: float64[m], ascending, what goes together
    layers: dict[str, int]  # groups in scope: how many layers lose channels together
    counts: dict[str, np.ndarray]  # groups in scope: reachable kept counts, from the full size down
    owner: np.ndarray  # int[steps]: index of the group in scope that a step narrows
    removed: np.ndarray  # int[steps]: how many channels leave every layer
    highest: np.ndarray  # float64[steps], ascending: the highest score that leaves


def removal_order(
    graph: ChannelGraph,
    scores: Scores,
    constraints: Constraints,
    across: Callable[..., np.ndarray] = np.mean,
) -> Order:
    """Returns the removal order of the groups in scope.

    `across` joins the scores of what stacked layers lose together, called with `axis=0`.

    Raises:
      BudgetError: a constraint makes no sense.
      ScoreError: NaN, a wrong length, an unknown group, no group at all.
      PatternError: a pattern matches nothing, or nothing is left in scope.
    """
    limits = Limits(**constraints)
    _check_limits(limits)
    check_keep(graph, limits.within)
    checked = _checked_scores(graph, scores, limits)
    scope = _scope(graph, checked, limits)
    present = {name: np.ones(values.shape, bool) for name, values in checked.items()}
    present |= {
        name: np.broadcast_to(kept, graph.groups[name].shape).copy()
        for name, kept in limits.within.items()
    }
    ranked = {name: _ranked(checked[name], present[name]) for name in scope}
    joint = {name: _joint(checked[name], ranked[name], across) for name in scope}
    counts = {name: _reachable(joint[name].size, limits) for name in scope}
    highest = [joint[name][c[0] - c[1:] - 1] for name, c in counts.items()]
    owner = np.repeat(np.arange(len(scope)), [len(steps) for steps in highest])
    removed = np.concatenate([-np.diff(c) for c in counts.values()])
    by_score = np.argsort(np.concatenate(highest), kind="stable")
    return Order(
        limits=limits,
        scores=checked,
        present=present,
        ranked=ranked,
        joint=joint,
        layers={name: graph.groups[name].layers or 1 for name in scope},
        counts=counts,
        owner=owner[by_score],
        removed=removed[by_score],
        highest=np.concatenate(highest)[by_score],
    )


def widths_after(order: Order, steps: int) -> dict[str, int]:
    """Returns the kept count of each scored group after the first `steps` of the order."""
    gone = np.zeros(len(order.counts), int)
    np.add.at(gone, order.owner[:steps], order.removed[:steps])
    present = {name: int(kept.sum(axis=-1).flat[0]) for name, kept in order.present.items()}
    return present | {
        name: int(counts[0] - n)
        for (name, counts), n in zip(order.counts.items(), gone, strict=True)
    }


def keep_of(order: Order, widths: Mapping[str, int]) -> Keep:
    """Returns {group: bool[n]} of what is left at the widths; the highest scores of each stay."""
    keep = {name: kept.copy() for name, kept in order.present.items()}
    for name, ranked in order.ranked.items():
        gone = ranked[..., : ranked.shape[-1] - widths[name]]
        np.put_along_axis(keep[name], gone, False, axis=-1)
    return keep


def _ranked(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Returns the channels that are present, the lowest score first."""
    channels = stacks.rows(present)
    by_score = np.argsort(np.take_along_axis(scores, channels, axis=-1), axis=-1, kind="stable")
    return np.take_along_axis(channels, by_score, axis=-1)


def _joint(scores: np.ndarray, ranked: np.ndarray, across: Callable[..., np.ndarray]) -> np.ndarray:
    """Returns the scores of the channels that are present, of all layers together."""
    ascending = np.take_along_axis(scores, ranked, axis=-1)
    return ascending if ascending.ndim == 1 else across(ascending, axis=0)


def _reachable(size: int, limits: Limits) -> np.ndarray:
    """Returns the counts that a group may keep, descending from its size."""
    multiple = limits.multiple_of
    lower = np.arange((size - 1) // multiple * multiple, floor(size, limits) - 1, -multiple)
    return np.concatenate([[size], lower])


def floor(size: int, limits: Limits) -> int:
    """Returns the least count that a group of `size` must keep, rounding apart."""
    kept = -share(-size, limits.min_keep_ratio)
    return min(size, max(limits.min_channels, kept, size - share(size, limits.max_prune_ratio)))


def share(total: int, ratio: float) -> int:
    """Returns floor(total * ratio), and 29 for 29 % of 100 although 100 * 0.29 is below it."""
    return math.floor(total * ratio + 1e-6)


def down(ratio: float) -> float:
    """Returns `ratio` cut after four digits: a share that is reachable stays so as printed."""
    return math.floor(1e4 * ratio) / 1e4


def is_number(value: Any) -> bool:
    """True for a real number that is no bool."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def is_count(value: Any) -> bool:
    """True for an integer of at least 1 that is no bool."""
    return is_number(value) and isinstance(value, int | np.integer) and bool(value >= 1)


def _check_limits(limits: Limits) -> None:
    bad = [
        f"{name} must be an int, at least 1, got {value!r}"
        for name in ("min_channels", "multiple_of")
        if not is_count(value := getattr(limits, name))
    ]
    bad += [
        f"{name} must be in [0, 1], got {value!r}"
        for name in ("min_keep_ratio", "max_prune_ratio")
        if not (is_number(value := getattr(limits, name)) and 0 <= value <= 1)
    ]
    if bad:
        raise BudgetError("\n".join([*bad, "Fix: leave a constraint out to have its default."]))


def _checked_scores(graph: ChannelGraph, scores: Scores, limits: Limits) -> dict[str, np.ndarray]:
    """Returns the scores as float64 on the host, in the order of the graph."""
    values = {k: np.asarray(v, np.float64) for k, v in jax.device_get(dict(scores)).items()}
    failures = [
        f"scores name {name!r}, which is no group of the graph; near: "
        f"{difflib.get_close_matches(name, graph.groups, cutoff=0.3)}"
        for name in values
        if name not in graph.groups
    ]
    for name, group in graph.groups.items():
        if name not in values:
            if limits.strict:
                failures.append(f"group {name!r} has no scores, and strict=True")
        elif values[name].shape not in {(group.size,), group.shape}:
            shape = values[name].shape
            layers = f" in each of {group.layers} layers" if group.layers else ""
            failures.append(
                f"scores for group {name!r} have shape {shape}, the group has {group.size} "
                f"channels{layers}"
            )
        elif np.isnan(values[name]).any():
            channels = np.unique(np.nonzero(np.isnan(values[name]))[-1]).tolist()
            failures.append(f"scores for group {name!r} are NaN at channels {_few(channels)}")
    if not values:
        failures.append("scores hold no group, so there is nothing to choose from")
    if failures:
        fix = "Fix: recompute the scores on the variables that this graph was traced from."
        raise ScoreError("\n".join([*failures, fix]))
    return {
        name: np.broadcast_to(values[name], group.shape)
        for name, group in graph.groups.items()
        if name in values
    }


def _few(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items[:5])) + (", ..." if len(items) > 5 else "")


def _scope(graph: ChannelGraph, scores: Iterable[str], limits: Limits) -> list[str]:
    """Returns the scored groups that may lose channels."""
    scored = list(scores)
    protected = matching(graph, limits.protect, graph.groups, what="protect pattern")
    chosen = matching(graph, limits.only, scored, what="only pattern") if limits.only else scored
    scope = [name for name in scored if name in chosen and name not in protected]
    if not scope:
        raise PatternError(
            f"protect={limits.protect!r} and only={limits.only!r} leave no group to prune.\n"
            f"Fix: the groups with scores are {_few(scored)}."
        )
    return scope
