"""What every selection obeys, and which groups are in its scope: checked here for all packages."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict

from jaxprune.arguments.checks import check_flag, check_options
from jaxprune.arguments.numbers import is_count, is_number, plain
from jaxprune.errors import BudgetError, PatternError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.array_widths import ArrayWidth
from jaxprune.groups.kinds import Kind, matching
from jaxprune.keep.check import check_keep

Groups = str | Kind | Iterable[str | Kind]
"""Channel groups: a name, a pattern, a `jp.Kind`, or several of them."""


Multiple = int | ArrayWidth
"""What a kept count is a multiple of, or what the width of its arrays is."""


class Constraints(TypedDict, total=False):
    """What every selector obeys exactly; where that is impossible, it raises.

    Floors that fall between reachable counts are rounded up, and a group smaller than
    `min_channels` stays whole.
    """

    min_channels: int  # a group keeps at least so many, and never less than the default, 1
    min_keep_ratio: float  # a group keeps at least this share of its channels; default 0.0
    max_prune_ratio: float  # a group loses at most this share of its channels; default 1.0
    multiple_of: (
        Multiple | Mapping[str | Kind, Multiple]
    )  # a kept count is a multiple of it, or the
    # full size; `jp.select.ArrayWidth(8)`: the width of its arrays is one; {pattern or kind: ...}
    # says it by group, of which a later one wins; default 1
    equal: Iterable[Groups]  # the groups that match one entry (a pattern, a kind, or a list of
    # them) keep the same count and lose channels together, scored by their mean; default none
    protect: Groups  # names, patterns or kinds of groups that stay whole; default none
    only: Groups | None  # of the only groups that may lose channels, at least one; default all
    strict: bool  # True: a group without scores is an error; default False, it stays whole
    within: Mapping[str, Any]  # keep of an earlier pruning: ratios and floors are of what it left


class Limits(NamedTuple):
    """`Constraints` with their defaults."""

    min_channels: int = 1
    min_keep_ratio: float = 0.0
    max_prune_ratio: float = 1.0
    multiple_of: Multiple | Mapping[str | Kind, Multiple] = 1
    equal: Iterable[Groups] = ()
    protect: Groups = ()
    only: Groups | None = None
    strict: bool = False
    within: Mapping[str, Any] = MappingProxyType({})


def check_constraints(graph: ChannelGraph, constraints: Constraints, where: str) -> Limits:
    """Returns the constraints with their defaults, numbers plain and the keep on the host.

    Raises:
      JaxpruneError: an unknown constraint, named with near names; `strict` is not a bool.
      BudgetError: a number makes no sense.
      KeepError: `within` does not fit the graph.
    """
    check_options(constraints, Constraints, where)
    limits = Limits(**{name: plain(value) for name, value in constraints.items()})
    several = isinstance(limits.multiple_of, Mapping)
    multiples = limits.multiple_of if isinstance(limits.multiple_of, Mapping) else {}
    counts = {"min_channels": limits.min_channels}
    counts |= {f"multiple_of of {key!r}": value for key, value in multiples.items()}
    counts |= {} if several else {"multiple_of": limits.multiple_of}
    bad = [
        f"{name} must be an int, at least 1, got {value!r}"
        for name, value in counts.items()
        if not is_count(value) and not isinstance(value, ArrayWidth)
    ]
    bad += [
        f"{name} must be in [0, 1], got {value!r}"
        for name in ("min_keep_ratio", "max_prune_ratio")
        if not (is_number(value := getattr(limits, name)) and 0 <= value <= 1)
    ]
    bad += ["multiple_of={} says nothing of any group"] if several and not multiples else []
    if bad:
        raise BudgetError("\n".join([*bad, "Fix: leave a constraint out to have its default."]))
    check_flag(limits.strict, "strict")
    if isinstance(limits.multiple_of, Mapping):
        whole = {key: plain(value) for key, value in limits.multiple_of.items()}
        for key in whole:
            matching(graph, [key], graph.groups, what="multiple_of pattern")
        limits = limits._replace(multiple_of=whole)
    return limits._replace(within=check_keep(graph, limits.within))


def multiples(graph: ChannelGraph, limits: Limits) -> dict[str, Multiple]:
    """Returns {group: what its kept count, or the width of its arrays, is a multiple of}."""
    if not isinstance(limits.multiple_of, Mapping):
        return dict.fromkeys(graph.groups, limits.multiple_of)
    by_group: dict[str, Multiple] = dict.fromkeys(graph.groups, 1)
    for key, multiple in limits.multiple_of.items():
        names = matching(graph, [key], graph.groups, what="multiple_of pattern")
        by_group |= dict.fromkeys(names, multiple)
    return by_group


def scope(
    graph: ChannelGraph,
    names: Sequence[str],
    *,
    only: Groups | None = None,
    protect: Groups = (),
    purpose: str = "to prune",
) -> list[str]:
    """Returns those of `names` that `only` chooses and `protect` does not, in order, never none.

    Raises:
      PatternError: a pattern or a kind matches nothing, or nothing is left.
    """
    whole = matching(graph, protect, graph.groups, what="protect pattern")
    chosen = set(names) if only is None else matching(graph, only, names, what="only pattern")
    inside = [name for name in names if name in chosen and name not in whole]
    if not inside:
        raise PatternError(
            f"protect={protect!r} and only={only!r} leave no group {purpose}.\n"
            f"Fix: the groups are {few(names)}; leave only out to take all."
        )
    return inside


def few(items: Sequence[Any]) -> str:
    """Returns the first of the items, in words."""
    return ", ".join(map(str, items[:5])) + (", ..." if len(items) > 5 else "")
