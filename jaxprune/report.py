"""Tables in plain text: what a graph holds, and what pruning changes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flax.nnx import Module

from jaxprune import cost, masks, nnx, untied
from jaxprune._arguments import kind_of
from jaxprune.errors import JaxpruneError
from jaxprune.graph import ChannelGraph


class Change(NamedTuple):
    """One quantity before and after pruning."""

    name: str
    before: int
    after: int

    @property
    def ratio(self) -> float:
        """What stays, as a share of what was."""
        return self.after / self.before if self.before else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A network before and after pruning; `str()` is a table."""

    groups: tuple[Change, ...]
    channels: Change
    macs: Change
    params: Change
    activation_bytes: Change
    uncounted: tuple[cost.Uncounted, ...] = ()
    symbols: tuple[str, ...] = ()
    """The names in symbolic sizes, which count as 1."""
    follows: tuple[str, ...] = ()
    """The constants of the resized network that follow a width, before and after."""
    draws: tuple[str, ...] = ()
    """What the resized network draws at random over pruned channels."""

    def __str__(self) -> str:
        """The groups, then the totals, with before, after and the share that stays."""
        totals = (self.channels, self.macs, self.params, self.activation_bytes)
        head = ("group", "before", "after", "kept")
        rows = [_change(change) for change in (*self.groups, *totals)]
        lines = table([head, *rows], numbers={1, 2, 3})
        lines = _ruled(lines, after=(0, len(self.groups)))
        note = [f"MACs and activation bytes are those{at}."] if (at := _at(self.symbols)) else []
        note += [f"follows a width: {text}" for text in self.follows]
        note += [f"draws its own: {text}" for text in self.draws]
        return "\n".join([*lines, *_uncounted(self.uncounted), *note])


def compare(graph: ChannelGraph, keep: Mapping[str, Any], *, resized: Any = None) -> Comparison:
    """Returns the widths and costs before and after; `print` it for a table.

    Args:
      graph: what `jaxprune.trace` returned.
      keep: {group: bool[n]}; absent groups are whole.
      resized: what `jp.linen.resize`, `jp.nnx.resize` or `jp.resize` gave for `keep`, of which the
        constants that follow a width are listed too.

    Raises:
      KeepError: `keep` does not fit the graph.
    """
    masks.check_keep(graph, keep)
    follows, draws = _apart(graph, keep, resized)
    dense, kept = masks.widths(graph), masks.widths(graph, keep)

    def change(name: str, price: cost.Cost) -> Change:
        return Change(name, price(graph, dense), price(graph, kept))

    def channels(widths: masks.Widths) -> int:
        return sum((group.layers or 1) * widths[name] for name, group in graph.groups.items())

    return Comparison(
        groups=tuple(Change(name, size, kept[name]) for name, size in dense.items()),
        channels=Change("channels", channels(dense), channels(kept)),
        macs=change("MACs", cost.macs),
        params=change("parameters", cost.params),
        activation_bytes=change("activation bytes", cost.activation_bytes),
        uncounted=cost.uncounted(graph),
        symbols=tuple(graph.symbols),
        follows=follows,
        draws=draws,
    )


def _apart(
    graph: ChannelGraph, keep: Mapping[str, Any], resized: Any
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """In what a resized network differs from the masked one."""
    if resized is None:
        return (), ()
    if isinstance(resized, Module):
        return nnx.follows(graph, keep), nnx.draws(graph, keep)
    if not (hasattr(resized, "follows") and hasattr(resized, "draws")):
        raise JaxpruneError(
            f"resized must be a resized network, got {kind_of(resized)}.\nFix: pass what "
            "jp.linen.resize, jp.nnx.resize or jp.resize returned."
        )
    return resized.follows, resized.draws


def graph_table(graph: ChannelGraph) -> str:
    """Returns one line per group, and how many axes are frozen for which reason."""
    per_macs, per_params = channel_costs(graph)
    head = ("group", "channels", "slots", "MACs", "params", "")
    rows = [
        (
            name,
            f"{group.layers} x {group.size:,}" if group.layers else f"{group.size:,}",
            f"{len(group.slots)}",
            f"{per_macs[name]:,}",
            f"{per_params[name]:,}",
            "inexact" if group.inexact else "exact",
        )
        for name, group in graph.groups.items()
    ]
    lines = table([head, *rows], numbers={1, 2, 3, 4})
    reasons = Counter(frozen.reason for frozen in graph.frozen).most_common()
    frozen = [f"frozen: {n:,} x {reason}" for reason, n in reasons]
    frozen += _uncounted(cost.uncounted(graph))
    note = "MACs and params are those of one channel; jaxprune.explain(graph) says more."
    frozen += [untied.line(graph)] if graph.unread else []
    return "\n".join([headline(graph), *_ruled(lines, after=(0, len(rows))), *frozen, note])


def headline(graph: ChannelGraph) -> str:
    """Returns the totals of a graph, in one line."""
    channels = sum((group.layers or 1) * group.size for group in graph.groups.values())
    return (
        f"{len(graph.groups)} channel groups with {channels:,} channels, "
        f"{len(graph.frozen)} frozen axes; {cost.macs(graph):,} MACs{_at(graph.symbols)}, "
        f"{cost.params(graph):,} parameters"
    )


def _at(symbols: Iterable[str]) -> str:
    """Says what symbolic sizes count as."""
    at = ", ".join(f"{name} = 1" for name in symbols)
    return f" at {at}" if at else ""


def channel_costs(graph: ChannelGraph) -> tuple[dict[str, int], dict[str, int]]:
    """Returns {group: MACs of one channel} and {group: its parameters}."""
    return cost.channel_cost(graph, cost.macs), cost.channel_cost(graph, cost.params)


def _uncounted(items: Iterable[cost.Uncounted]) -> Iterator[str]:
    """Says for every kind of operation that no cost counts how many there are, and where."""
    places: dict[str, list[str]] = {}
    for item in items:
        places.setdefault(item.name, []).append(item.place)
    for name, found in places.items():
        where = list(dict.fromkeys(found))
        more = f" and {len(where) - 3} more places" if len(where) > 3 else ""
        yield f"not counted: the MACs of {len(found):,} x {name}, at {', '.join(where[:3])}{more}"


def _change(change: Change) -> tuple[str, ...]:
    return change.name, f"{change.before:,}", f"{change.after:,}", f"{100 * change.ratio:.1f} %"


def table(rows: Sequence[Sequence[str]], *, numbers: Iterable[int] = ()) -> list[str]:
    """Returns aligned lines; the columns in `numbers` are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = set(numbers)
    return [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _ruled(lines: Sequence[str], *, after: Iterable[int]) -> Iterator[str]:
    rule = "-" * max(map(len, lines))
    after = set(after)
    for index, line in enumerate(lines):
        yield line
        if index in after:
            yield rule
