"""Groups that keep the same count: what `equal` of the constraints asks for."""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from jaxprune.arguments import paths
from jaxprune.errors import BudgetError, PatternError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.kinds import matching

Unit = tuple[str, ...]
"""Groups that lose channels together, in graph order."""


def units(graph: ChannelGraph, names: Sequence[str], equal: Any) -> list[Unit]:
    """Returns the groups `names`, each with those that keep the same count, in graph order.

    Groups that several entries of `equal` match are equal to all of these.

    Raises:
      PatternError: an entry matches nothing or is the name of one group, or some of its groups may
        lose channels and others may not.
      BudgetError: its groups have unlike numbers of channels.
    """
    found: dict[str, set[str]] = {name: {name} for name in names}
    failures: list[str] = []
    for entry in paths.listed(equal, "equal"):
        matched = _matched(graph, entry)
        outside = [name for name in graph.groups if name in matched and name not in found]
        inside = [name for name in names if name in matched]
        if outside and inside:
            failures.append(
                f"equal {_shown(entry)}: group {inside[0]!r} may lose channels, but {outside[0]!r} "
                "stays whole: it is protected, not among only, or has no scores"
            )
        elif inside:
            joined = set().union(*(found[name] for name in inside))
            found.update(dict.fromkeys(joined, joined))
    if failures:
        fix = "Fix: match only groups that may lose channels, or protect all that it matches."
        raise PatternError("\n".join([*failures, fix]))
    leaders = {id(found[name]): found[name] for name in names}
    found_units = [tuple(name for name in names if name in unit) for unit in leaders.values()]
    _check_sizes(graph, found_units)
    return found_units


def _matched(graph: ChannelGraph, entry: Any) -> set[str]:
    """The groups of one entry.

    Raises:
      PatternError: it matches nothing, or is the name of a single group.
    """
    patterns = paths.listed(entry, "equal") if isinstance(entry, Iterable) else [entry]
    matched = matching(graph, patterns, graph.groups, what="equal pattern")
    if not matched:
        raise PatternError(f"equal has an entry without groups: {entry!r}.\nFix: leave it out.")
    if set(patterns) == matched and len(matched) == 1:
        raise PatternError(
            f"equal {_shown(entry)} is one group, which is equal to nothing.\nFix: groups that "
            f"keep the same count stand in one entry: equal=[[{patterns[0]!r}, 'another']], or a "
            "pattern of all of them."
        )
    return matched


def _shown(entry: Any) -> str:
    return str(entry) if isinstance(entry, Enum) else repr(entry)


def _check_sizes(graph: ChannelGraph, found: Sequence[Unit]) -> None:
    """Raises BudgetError where one of the groups cannot keep all of its channels beside another."""
    failures = []
    for unit in found:
        sizes = {graph.groups[name].size: name for name in reversed(unit)}
        if len(sizes) > 1:
            shown = ", ".join(f"{name!r} has {size}" for size, name in sorted(sizes.items()))
            failures.append(f"groups of unlike numbers of channels cannot keep one count: {shown}")
    if failures:
        fix = "Fix: one entry of equal for each size, such as equal=['stage_1/*', 'stage_2/*']."
        raise BudgetError("\n".join([*failures, fix]))
