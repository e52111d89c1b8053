"""A network before and after pruning, as a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxprune.graph import ChannelGraph, Group
from jaxprune.inspecting import cost, without_branches
from jaxprune.inspecting.aligned import ruled, table
from jaxprune.inspecting.tables import at_symbols, uncounted_lines
from jaxprune.inspecting.without_branches import Without
from jaxprune.keep import check


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
    branches: tuple[Change, ...] = ()
    """The branches that the keep names, by how many steps have them; outside of scans 1 or 0."""
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
        rows = [_change(change) for change in (*self.groups, *self.branches, *totals)]
        lines = table([head, *rows], numbers={1, 2, 3})
        lines = ruled(lines, after=(0, len(self.groups) + len(self.branches)))
        note = (
            [f"MACs and activation bytes are those{sizes}."]
            if (sizes := at_symbols(self.symbols))
            else []
        )
        note += [f"follows a width: {text}" for text in self.follows]
        note += [f"draws its own: {text}" for text in self.draws]
        return "\n".join([*lines, *uncounted_lines(self.uncounted), *note])


def comparison(
    graph: ChannelGraph,
    keep: Mapping[str, Any],
    follows: tuple[str, ...] = (),
    draws: tuple[str, ...] = (),
) -> Comparison:
    """Returns what `jp.compare` does, for what a resized network says of itself.

    Raises:
      KeepError: `keep` does not fit the graph.
    """
    parts = without_branches.split(graph, keep)
    check.check_keep(graph, parts.channels)
    dense = check.widths(graph)
    gone = without_branches.without(graph, parts.branches) if parts.branches else None
    kept = check.widths(graph, parts.channels)
    kept |= {name: 0 for name, group in graph.groups.items() if not _layers(group, gone)}

    def change(name: str, price: cost.Cost) -> Change:
        return Change(name, price(graph, dense), price(graph, keep))

    before = sum((group.layers or 1) * group.size for group in graph.groups.values())
    after = sum(_layers(group, gone) * kept[name] for name, group in graph.groups.items())
    return Comparison(
        groups=tuple(Change(name, size, kept[name]) for name, size in dense.items()),
        channels=Change("channels", before, after),
        macs=change("MACs", cost.macs),
        params=change("parameters", cost.params),
        activation_bytes=change("activation bytes", cost.activation_bytes),
        branches=tuple(
            Change(name, mask.size, int(mask.sum())) for name, mask in parts.branches.items()
        ),
        uncounted=cost.uncounted(graph),
        symbols=tuple(graph.symbols),
        follows=follows,
        draws=draws,
    )


def _layers(group: Group, gone: Without | None) -> int:
    """How many layers of a group are left, 1 where it is not in stacked layers."""
    if gone is None:
        return group.layers or 1
    left = [slot.path for slot in group.slots if slot.path not in gone.variables]
    if not left or group.layers is None:
        return int(bool(left))
    counts = [gone.rows[path].sum() if path in gone.rows else group.layers for path in left]
    return int(max(counts))


def _change(change: Change) -> tuple[str, ...]:
    return change.name, f"{change.before:,}", f"{change.after:,}", f"{100 * change.ratio:.1f} %"
