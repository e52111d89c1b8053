"""Scores to keep: which channels stay, under floors, rounding and budgets.

Every selector walks the removal order of `removal.py`, from the lowest score of the network up;
they differ only in how far they go. The constraints hold at every point of it.

A group whose stacked layers have their own channels (`Group.layers`) has scores f32[layers, n] and
a keep bool[layers, n], with the same count in every layer: each loses its own lowest channels. Its
counts and floors are those of one layer.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np

from jaxprune.arguments import paths
from jaxprune.arguments.bounds import Bound, typed_bounds, typed_costs
from jaxprune.arguments.checks import check_callable, check_mapping, kind_of
from jaxprune.arguments.functions import by_name
from jaxprune.arguments.numbers import is_number, plain
from jaxprune.errors import BudgetError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.constraints import Constraints
from jaxprune.groups.scored import Scores
from jaxprune.inspecting import cost
from jaxprune.select.removal import (
    Keep,
    Order,
    down,
    floor,
    keep_of,
    limit_of,
    removal_order,
    share,
    widths_after,
)
from jaxprune.select.ties import Ties, check_ties, exact_count, removed

_RELAX = "relax min_channels, min_keep_ratio, max_prune_ratio, multiple_of, equal, protect or only"


class _Bound(NamedTuple):
    label: str
    cost: cost.Cost
    limit: Any
    dense: Any


@by_name("jp.select.global_ratio(graph, scores, prune_ratio=0.5)")
def global_ratio(
    graph: ChannelGraph,
    scores: Scores,
    *,
    prune_ratio: float,
    ties: Ties = exact_count,
    quota: cost.Cost | None = None,
    **constraints: Unpack[Constraints],
) -> Keep:
    """Returns the keep that removes the lowest scores of the whole network.

    floor(N * prune_ratio) of the N channels in scope (scored, not protected, among `only`) go. Of
    those that floors hold back, the next lowest go instead; with `multiple_of` the count is the
    first reachable one at or beyond that along the removal order. Ties: graph order, then channel.

    Args:
      graph: what `jaxprune.trace` returned.
      scores: {group: f32[n]}, higher means keep; groups without scores stay whole.
      prune_ratio: share to remove, in [0, 1).
      ties: from the sorted scores and the count to the number removed: `exact_count`,
        `lua_author` or `pytorch_author`.
      quota: measure the removed share in this cost of the whole network, such as
        `jaxprune.cost.macs`, not in channels; at least `prune_ratio` of it then goes. The cost
        must not rise when a channel goes.
      **constraints: see `Constraints`.

    Returns:
      {group: bool[n]} for every group in `scores`.

    Raises:
      BudgetError: a ratio or a constraint makes no sense, or the ratio is out of reach: the
        message names the largest ratio that can be reached.
      ScoreError: NaN, a wrong length, an unknown group.
      PatternError: a pattern matches nothing.

    >>> from jaxprune import trace
    >>> v = {"first": np.ones((2, 4)), "second": np.ones((4, 3))}
    >>> graph = trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 2)))
    >>> global_ratio(graph, {"first": [3.0, 1.0, 2.0, 4.0]}, prune_ratio=0.5)
    {'first': array([ True, False, False,  True])}
    """
    prune_ratio = plain(prune_ratio)
    _check_ratios({"prune_ratio": prune_ratio})
    check_ties(ties)
    if quota is not None and not callable(quota):
        raise BudgetError(
            f"quota must be a cost, (graph, widths) -> number, got {kind_of(quota)}.\n"
            "Fix: quota=jp.cost.macs, or leave it out to count channels."
        )
    order = removal_order(graph, scores, constraints)
    layers = {name: sum(each.values()) for name, each in order.layers.items()}
    at_once = np.array([*layers.values()])
    gone = np.concatenate([[0], np.cumsum(order.removed * at_once[order.owner])])
    ascending = [np.repeat(joint, layers[name]) for name, joint in order.joint.items()]
    ascending = np.sort(np.concatenate(ascending))
    if quota is None:
        wanted = share(ascending.size, prune_ratio)
    else:
        cost.warn_uncounted(graph, [quota], stacklevel=3)
        _check_symbols(graph, [quota])
        dense = quota(graph, widths_after(order, 0))
        label = f"prune_ratio={prune_ratio} of {getattr(quota, '__name__', 'the quota')}"
        bound = _Bound(label, quota, dense - share(dense, prune_ratio), dense)
        wanted = int(gone[_walk(graph, order, [bound])])
    wanted = removed(ties, ascending, wanted)
    if wanted > gone[-1]:
        raise BudgetError(
            f"prune_ratio={prune_ratio} asks for {wanted} of {ascending.size} channels, but under "
            f"the constraints at most {gone[-1]} can go: the largest reachable ratio is "
            f"{down(gone[-1] / ascending.size)}.\nFix: lower prune_ratio, or {_RELAX}."
        )
    return keep_of(order, widths_after(order, int(np.searchsorted(gone, wanted))))


@by_name("jp.select.per_group(graph, scores, prune_ratio=0.5)")
def per_group(
    graph: ChannelGraph,
    scores: Scores,
    *,
    prune_ratio: float | Mapping[str, float],
    **constraints: Unpack[Constraints],
) -> Keep:
    """Returns the keep that removes the lowest floor(n * ratio) channels of every group.

    The kept count is the largest reachable one at or below n - floor(n * ratio). A floor wins over
    the ratio: the group then keeps its floor, the smallest reachable count.

    Args:
      graph: what `jaxprune.trace` returned.
      scores: {group: f32[n]}, higher means keep; groups without scores stay whole.
      prune_ratio: share of each group to remove, in [0, 1); or {pattern: share}, where a later
        pattern overrides an earlier one, and groups that none matches stay whole.
      **constraints: see `Constraints`.

    Returns:
      {group: bool[n]} for every group in `scores`.

    Raises:
      BudgetError: a ratio or a constraint makes no sense, or `multiple_of` is so large that a
        group could lose nothing; every such group is named.
      ScoreError: NaN, a wrong length, an unknown group.
      PatternError: a pattern matches nothing.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> scores = {"a": np.array([3.0, 1.0, 2.0, 4.0])}
      >>> jp.select.per_group(graph, scores, prune_ratio=0.25)["a"].tolist()
      [True, False, True, True]
    """
    given = prune_ratio if isinstance(prune_ratio, Mapping) else {"*": prune_ratio}
    ratios = {pattern: plain(ratio) for pattern, ratio in given.items()}
    _check_ratios({f"prune_ratio of {pattern!r}": ratio for pattern, ratio in ratios.items()})
    order = removal_order(graph, scores, constraints)
    paths.require(ratios, order.scores, what="prune_ratio pattern")
    widths, failures = {}, []
    for name, counts in order.counts.items():
        size = int(counts[0])
        unit = order.units[name]
        asked = {member: _ratio(ratios, member) for member in unit}
        if len(set(asked.values())) > 1:
            raise BudgetError(
                f"equal groups should lose unlike shares: {asked}.\n"
                "Fix: one prune_ratio for all that an entry of equal matches."
            )
        most = size - share(size, asked[name])
        width = next((int(n) for n in counts if n <= most), int(counts[-1]))
        widths |= dict.fromkeys(unit, width)
        if width == size > max(most, floor(size, order.limits)):
            failures.append(f"group {name!r}: at most {most} of {size} channels should stay")
    if failures:
        raise BudgetError(
            f"multiple_of={order.limits.multiple_of} leaves no count but the full size:\n"
            + "\n".join(failures)
            + "\nFix: a smaller multiple_of, or protect= for these groups."
        )
    return keep_of(order, widths)


def _ratio(ratios: Mapping[str, float], name: str) -> float:
    """The share that a group is to lose."""
    return next((r for p, r in reversed([*ratios.items()]) if paths.matches(p, name)), 0.0)


@by_name("jp.select.budget(graph, scores, keep_macs=0.5)")
def budget(
    graph: ChannelGraph,
    scores: Scores,
    *,
    keep_macs: Bound | None = None,
    keep_params: Bound | None = None,
    keep_weights: Bound | None = None,
    keep_bytes: Bound | None = None,
    bounds: Mapping[cost.Cost, Bound] | None = None,
    **constraints: Unpack[Constraints],
) -> Keep:
    """Returns the keep whose costs are the nearest at or below every bound.

    It is the first point of the removal order, from the lowest score of the whole network up, at
    which all bounds hold. Scores of different groups are compared as they are: raw norms may empty
    single layers, `jp.scores.normalized` makes them comparable. A symbolic batch counts as 1: a
    bound is that of one example.

    Args:
      graph: what `jaxprune.trace` returned.
      scores: {group: f32[n]}, higher means keep; groups without scores stay whole.
      keep_macs: multiply-accumulates: below 1 the share of dense that stays, above 1 a count;
        `jp.Share` and `jp.Absolute` say which it is.
      keep_params: parameters, likewise.
      keep_weights: entries of the kernels, likewise.
      keep_bytes: bytes of activations, likewise.
      bounds: {cost: bound} of any costs, (graph, widths) -> number, such as
        `jp.cost.state_bytes()` or one of yours, which must not rise when a channel goes.
      **constraints: see `Constraints`.

    Returns:
      {group: bool[n]} for every group in `scores`.

    Raises:
      BudgetError: a bound or a constraint makes no sense, or a bound is out of reach: the message
        names the smallest cost that can be reached.
      ScoreError: NaN, a wrong length, an unknown group.
      PatternError: a pattern matches nothing.

    Warns:
      UncountedWarning: a bound is of a cost that leaves out operations (`jp.cost.uncounted`).

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> scores = {"a": np.array([3.0, 1.0, 2.0, 4.0])}
      >>> jp.select.budget(graph, scores, keep_macs=0.5)["a"].tolist()
      [True, False, False, True]
    """
    asked = {
        "keep_macs": (cost.macs, keep_macs),
        "keep_params": (cost.params, keep_params),
        "keep_weights": (cost.weights, keep_weights),
        "keep_bytes": (cost.activation_bytes, keep_bytes),
    }
    given = {name: bound for name, (_, bound) in asked.items() if bound is not None}
    asked = {name: (asked[name][0], bound) for name, bound in typed_bounds(given).items()}
    others = {} if bounds is None else check_mapping(bounds, "bounds", _BOUNDS, BudgetError)
    for price in others:
        check_callable(price, "bounds: a cost", "bounds={jp.cost.macs: 0.5}.", BudgetError)
    asked |= {
        f"bound {i} of {getattr(price, '__name__', 'a cost')}": (price, bound)
        for i, (price, bound) in enumerate(typed_costs(others).items())
    }
    if not asked:
        raise BudgetError(
            "budget has no bound: give keep_macs, keep_params, keep_weights, keep_bytes or "
            "bounds.\n"
            "Fix: keep_macs=0.5 keeps half."
        )
    _check_symbols(graph, [price for price, _ in asked.values()])
    cost.warn_uncounted(graph, [price for price, _ in asked.values()], stacklevel=3)
    order = removal_order(graph, scores, constraints)
    limits = []
    for name, (price, bound) in asked.items():
        dense = price(graph, None)
        limits.append(_Bound(f"{name}={bound.value}", price, limit_of(bound, dense, name), dense))
    return keep_of(order, widths_after(order, _walk(graph, order, limits)))


_BOUNDS = "{cost: bound}"


@by_name("jp.select.threshold(graph, scores, threshold=1e-3)")
def threshold(
    graph: ChannelGraph,
    scores: Scores,
    *,
    threshold: float,
    **constraints: Unpack[Constraints],
) -> Keep:
    """Returns the keep of the scores above a threshold.

    A channel stays if its score is higher than `threshold`, or if a floor or `multiple_of` needs
    it: no channel above the threshold ever goes.

    Args:
      graph: what `jaxprune.trace` returned.
      scores: {group: f32[n]}, higher means keep; groups without scores stay whole.
      threshold: in the units of the scores.
      **constraints: see `Constraints`.

    Returns:
      {group: bool[n]} for every group in `scores`.

    Raises:
      BudgetError: the threshold is not a number, or a constraint makes no sense.
      ScoreError: NaN, a wrong length, an unknown group.
      PatternError: a pattern matches nothing.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> scores = {"a": np.array([3.0, 1.0, 2.0, 4.0])}
      >>> jp.select.threshold(graph, scores, threshold=1.5)["a"].tolist()
      [True, False, True, True]
    """
    threshold = plain(threshold)
    if not is_number(threshold) or math.isnan(threshold):
        raise BudgetError(f"threshold must be a number, got {threshold!r}.\nFix: threshold=1e-3.")
    order = removal_order(graph, scores, constraints, across=np.max)
    steps = int(np.searchsorted(order.highest, threshold, side="right"))
    return keep_of(order, widths_after(order, steps))


def _walk(graph: ChannelGraph, order: Order, bounds: Sequence[_Bound]) -> int:
    """Returns the least number of steps after which every bound holds."""
    end = len(order.owner)
    least = [bound.cost(graph, widths_after(order, end)) for bound in bounds]
    failures = [
        f"{bound.label} allows {bound.limit:,} of {bound.dense:,}, but under the constraints the "
        f"smallest reachable is {reached:,}: a share of {-down(-reached / bound.dense)} stays, "
        f"at most {down(1 - reached / bound.dense)} can go"
        for bound, reached in zip(bounds, least, strict=True)
        if reached > bound.limit
    ]
    if failures:
        raise BudgetError("\n".join([*failures, f"Fix: a looser bound, or {_RELAX}."]))

    def holds(steps: int) -> bool:
        widths = widths_after(order, steps)
        return all(bound.cost(graph, widths) <= bound.limit for bound in bounds)

    return bisect.bisect_left(range(end), True, key=holds)


def _check_symbols(graph: ChannelGraph, prices: Sequence[cost.Cost]) -> None:
    """Raises if what is left of a cost depends on a size that has no number yet."""
    check_graph(graph)
    unknown = [name for name, batch in graph.symbols.items() if not batch]
    if unknown and set(prices) - {cost.params, cost.weights}:
        raise BudgetError(
            f"what is left of the cost depends on {', '.join(unknown)}: a symbolic size, and not "
            "only a batch, the leading axis of inputs.\nFix: trace with the numbers that you will "
            "run, or bound keep_params or keep_weights."
        )


def _check_ratios(ratios: Mapping[str, Any]) -> None:
    bad = [f"{k} must be in [0, 1), got {v!r}" for k, v in ratios.items() if not _is_ratio(v)]
    if not ratios:
        bad = ["prune_ratio={} says nothing of any group"]
    if bad:
        raise BudgetError("\n".join([*bad, "Fix: prune_ratio=0.7 removes 70 % and keeps 30 %."]))


def _is_ratio(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1
