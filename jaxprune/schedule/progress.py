"""How far a pruning in rounds has come: what is cut out, what is masked, what is left."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import numpy as np

from jaxprune.arguments.bounds import Share
from jaxprune.arguments.checks import check_callable, check_names, kind_of
from jaxprune.errors import BudgetError, JaxpruneError, KeepError, ScoreError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.constraints import Constraints
from jaxprune.groups.scored import Scores, host_scores
from jaxprune.inspecting import cost, spec
from jaxprune.inspecting.compose import compose
from jaxprune.keep.check import check_keep
from jaxprune.schedule.phase import Prune, Quota
from jaxprune.select import quota
from jaxprune.select import selectors as select
from jaxprune.select.removal import Keep, removal_order
from jaxprune.select.ties import Ties, check_ties

_QUOTAS = {Quota.CHANNELS: None, Quota.MACS: cost.macs, Quota.WEIGHTS: cost.weights}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a pruning in rounds stands. Between commits channels are masked, a commit cuts them.

    Attributes:
      graph: of the network as it is: the original, or what the last commit left.
      keep: {group: bool[n]} of its channels, every group: the masks of a training step.
      original: the graph of the network before any pruning.
      committed: {group: bool[n]} of the original's channels: what the last commit left.
      constraints: what every pruning obeys, in the sizes of the original.
      members, rule: as of `jaxprune.select.of_remaining`.
    """

    graph: ChannelGraph = field(repr=False)
    keep: Mapping[str, np.ndarray]
    original: ChannelGraph = field(repr=False)
    committed: Mapping[str, np.ndarray]
    constraints: Constraints
    members: Mapping[str, int] | None = None
    ties: Ties | None = None

    @property
    def total(self) -> Keep:
        """{group: bool[n]} of the original's channels: what is left of them in all."""
        return compose(self.committed, self.keep, graphs=(self.original, self.graph))

    def left(self, cost: cost.Cost = cost.macs) -> float:
        """Returns the share of a cost of the original that is left."""
        check_callable(cost, "cost", "cost=jp.cost.macs.")
        return cost(self.original, self.total) / cost(self.original, None)

    def prune(
        self, prune: Prune, scores: Scores, groups: Collection[str] | None = None
    ) -> "Progress":
        """Returns the progress with a round more of transforms.

        Args:
          prune: how far it goes.
          scores: {group: f32[n]} of `self.graph`, higher means keep.
          groups: the only ones that lose channels, with those that `equal=` ties to them:
            `prune_ratio` is then the share of the channels of each, as of `jp.select.per_group`.

        Raises:
          BudgetError: the constraints do not let it go so far, or `prune` is not a share of the
            channels where there are `groups`.
          KeepError: one of `groups` is unknown.
          ScoreError: NaN, a wrong length, an unknown group, no score for a group that was pruned.
        """
        if not isinstance(prune, Prune):
            raise JaxpruneError(
                f"prune must be a Prune, got {kind_of(prune)}.\nFix: phase.prune, or "
                "jp.schedule.Prune(prune_ratio=0.01)."
            )
        total = self.total
        scores = _scattered(self, scores)
        scores = quota.sunk(self.original, scores, total)
        order = removal_order(self.original, scores, self.constraints)
        quota.taken(order, total)
        keep = None
        if groups is not None:
            share = _only_a_ratio(prune)
            units = [unit for unit in order.units.values() if {*unit} & {*_known(self, groups)}]
            each = select.per_group(self.original, scores, prune_ratio=share, **self.constraints)
            keep = {name: each[name] for unit in units for name in unit}
        elif prune.prune_ratio is not None:
            keep = _by_share(self, prune.prune_ratio, prune.of, scores)
        if prune.keep_macs is not None:
            share = Share(float(prune.keep_macs))
            bound = select.budget(self.original, scores, keep_macs=share, **self.constraints)
            keep = {name: kept | keep[name] for name, kept in bound.items()} if keep else bound
        keep = quota.joined(keep or {}, total)
        return replace(self, keep=_restricted(keep, self.committed, self.graph))

    def commit(self, graph: ChannelGraph) -> "Progress":
        """Returns the progress after what is masked was cut out.

        Args:
          graph: of the cut network: `jaxprune.trace` of the resized one.

        Raises:
          KeepError: the graph is not that of the cut network.
        """
        check_graph(graph)
        total = self.total
        _check_cut(graph, total)
        return replace(self, graph=graph, keep=_whole(graph), committed=total)

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON value from which `restored` makes this progress again."""
        return {
            "committed": spec.kept_to_json(self.original, self.committed),
            "total": spec.kept_to_json(self.original, self.total),
        }

    def restored(self, value: Mapping[str, Any], graph: ChannelGraph | None = None) -> "Progress":
        """Returns the progress of a JSON value; `self` is what `begin` gave for that run.

        Args:
          value: what `to_json` returned.
          graph: that of the network which the last commit left; None if there was no commit.

        Raises:
          KeepError: the graph is not that of this network.
        """
        if not isinstance(value, Mapping) or not {"committed", "total"} <= value.keys():
            raise KeepError(
                f"this is not the value of a progress: {kind_of(value)}.\n"
                "Fix: pass what progress.to_json() returned."
            )
        committed = check_keep(self.original, spec.keep_from_spec(value["committed"]))
        graph = self.original if graph is None else graph
        check_graph(graph)
        _check_cut(graph, committed)
        total = check_keep(self.original, spec.keep_from_spec(value["total"]))
        keep = _restricted(total, committed, graph)
        return replace(self, graph=graph, keep=keep, committed=committed)


def begin(
    graph: ChannelGraph,
    *,
    keep_macs: float | Share | None = None,
    members: Mapping[str, int] | None = None,
    ties: Ties | None = None,
    **constraints: Unpack[Constraints],
) -> Progress:
    """Returns the progress before the first round.

    Args:
      graph: what `jaxprune.trace` returned.
      keep_macs: the share of the MACs that the procedure aims at; checked here, before anything
        trains.
      members: as of `jaxprune.select.of_remaining`.
      ties: likewise.
      **constraints: see `Constraints`, without `within`; ratios and floors are of this network.
        Gate Decorator has `min_keep_ratio=0.1`. `only=` names the groups that will have scores,
        if these are not all.

    Raises:
      BudgetError: a constraint makes no sense, or they do not allow `keep_macs`; the message names
        what can be reached.
      KeepError: `within` is given.
      PatternError: a pattern matches nothing.
    """
    if "within" in constraints:
        raise KeepError("within is what a progress keeps.\nFix: progress.restored(value).")
    check_graph(graph)
    members = None if members is None else quota.check_members(graph, members)
    if ties is not None:
        check_ties(ties)
    zeros = {name: np.zeros(group.shape) for name, group in graph.groups.items()}
    removal_order(graph, zeros, constraints)
    if keep_macs is not None:
        share = keep_macs if isinstance(keep_macs, Share) else Share(keep_macs)
        select.budget(graph, zeros, keep_macs=share, **constraints)
    return Progress(
        graph=graph,
        keep=_whole(graph),
        original=graph,
        committed=_whole(graph),
        constraints=constraints,
        members=members,
        ties=ties,
    )


def _by_share(progress: Progress, share: float, of: Quota, scores: Scores) -> Keep:
    graph, constraints = progress.original, progress.constraints
    if of != Quota.LEFT:
        price = _QUOTAS[of]
        return select.global_ratio(graph, scores, prune_ratio=share, quota=price, **constraints)
    again: Constraints = {**constraints, "within": progress.total}
    members, ties = progress.members, progress.ties
    return quota.of_remaining(graph, scores, prune_ratio=share, members=members, ties=ties, **again)


def _only_a_ratio(prune: Prune) -> float:
    if prune.prune_ratio is None or prune.keep_macs is not None or prune.of != Quota.CHANNELS:
        raise BudgetError(
            f"of some groups only a share of their channels can be pruned, got {prune}.\n"
            "Fix: jp.schedule.Prune(prune_ratio=0.5, of=jp.schedule.Quota.CHANNELS)."
        )
    return prune.prune_ratio


def _known(progress: Progress, groups: Collection[str]) -> list[str]:
    names = check_names(groups, "groups", KeepError)
    if unknown := [name for name in names if name not in progress.original.groups]:
        some = list(progress.original.groups)[:5]
        raise KeepError(f"the network has no groups {unknown[:5]}.\nFix: names of {some}.")
    return names


def _whole(graph: ChannelGraph) -> Keep:
    return {name: np.ones(group.shape, bool) for name, group in graph.groups.items()}


def _scattered(progress: Progress, scores: Scores) -> dict[str, np.ndarray]:
    """Returns the scores of the present network in the places of the original's channels."""
    scattered, failures = {}, []
    for name, score in host_scores(scores).items():
        group = progress.graph.groups.get(name)
        if group is None:
            failures.append(f"scores name {name!r}, which is not a group of the present network")
        elif score is None:
            failures.append(f"scores for group {name!r} are {kind_of(scores[name])}, no numbers")
        elif score.shape != group.shape:
            failures.append(
                f"scores for group {name!r} have shape {score.shape}, the group has {group.size} "
                "channels"
            )
        else:
            kept = progress.committed[name]
            scattered[name] = np.zeros(kept.shape)
            scattered[name][kept] = score.reshape(-1)
    if failures:
        fix = "Fix: compute the scores with progress.graph."
        raise ScoreError("\n".join([*failures[:8], fix]))
    return scattered


def _restricted(total: Keep, committed: Mapping[str, Any], graph: ChannelGraph) -> Keep:
    """Returns the keep of the original's channels as one of those that are committed."""
    return {
        name: total[name][committed[name]].reshape(group.shape)
        for name, group in graph.groups.items()
    }


def _check_cut(graph: ChannelGraph, kept: Mapping[str, np.ndarray]) -> None:
    """Raises KeepError unless the groups of the graph are what `kept` leaves."""
    widths = {name: int(mask.sum(axis=-1).flat[0]) for name, mask in kept.items()}
    failures = [
        f"group {name!r}: the graph has {group.size} channels, the keep leaves {widths.get(name)}"
        for name, group in graph.groups.items()
        if group.size != widths.get(name)
    ]
    failures += [
        f"group {name!r}: the graph has none, the keep leaves {width} channels"
        for name, width in widths.items()
        if width > 1 and name not in graph.groups
    ]
    if failures:
        raise KeepError(
            "\n".join(["this is not the graph of the cut network.", *failures[:8]])
            + "\nFix: trace the network at jp.linen.resize(model, progress.original, "
            "progress.total), with the variables of jp.slice."
        )
