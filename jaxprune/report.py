"""Tables and explanations in plain text."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxprune import axes as ax
from jaxprune import cost, flow, masks, paths
from jaxprune._jaxpr import Op
from jaxprune.axes import Atom, Prod, Space
from jaxprune.flow import Node
from jaxprune.graph import ChannelGraph, Group, Slot, Variable
from jaxprune.reasons import INEXACT, Explained, explained
from jaxprune.walk import Walk

_ROLES = ("out", "in", "vector")


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
    symbols: tuple[str, ...] = ()
    """The names in symbolic sizes, which count as 1."""

    def __str__(self) -> str:
        """The groups, then the totals, with before, after and the share that stays."""
        totals = (self.channels, self.macs, self.params, self.activation_bytes)
        head = ("group", "before", "after", "kept")
        rows = [_change(change) for change in (*self.groups, *totals)]
        lines = _table([head, *rows], numbers={1, 2, 3})
        note = [f"MACs and activation bytes are those{at}."] if (at := _at(self.symbols)) else []
        return "\n".join([*_ruled(lines, after=(0, len(self.groups))), *note])


def compare(graph: ChannelGraph, keep: Mapping[str, Any]) -> Comparison:
    """Returns the widths and costs before and after; `print` it for a table.

    Args:
      graph: what `jaxprune.trace` returned.
      keep: {group: bool[n]}; absent groups are whole.

    Raises:
      KeepError: `keep` does not fit the graph.
    """
    masks.check_keep(graph, keep)
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
        symbols=tuple(graph.symbols),
    )


def explain(graph: ChannelGraph, path: str | None = None) -> str:
    """Returns in words what is pruned together and by what it is tied, and what cannot be and why.

    Args:
      graph: what `jaxprune.trace` returned.
      path: a variable, a group, a module with all below it, or a pattern over them; a leading
        `params/` may be left out. None explains every group and sums up what is frozen.

    Raises:
      PatternError: `path` matches no variable and no group.
    """
    if path is None:
        blocks = [_headline(graph), *_blocks(graph, graph.groups)]
        return "\n\n".join([*blocks, *_frozen(graph)])
    short = {name: name.removeprefix("params/") for name in graph.variables}
    names = dict.fromkeys([*graph.groups, *short.values(), *short])
    below = {name for name in names if name.startswith(f"{path.rstrip('/')}/")}
    found = below or paths.require([path], names, what="path")
    variables = [v for name, v in graph.variables.items() if {name, short[name]} & found]
    shown = {v.path for v in variables}
    groups = [
        name
        for name, group in graph.groups.items()
        if name in found or any(slot.path in shown for slot in group.slots)
    ]
    axes = ["\n".join(_axes(graph, variable)) for variable in variables]
    return "\n\n".join([*axes, *_blocks(graph, groups)])


def graph_table(graph: ChannelGraph) -> str:
    """Returns one line per group, and how many axes are frozen for which reason."""
    per_macs, per_params = _channel_costs(graph)
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
    lines = _table([head, *rows], numbers={1, 2, 3, 4})
    reasons = Counter(frozen.reason for frozen in graph.frozen).most_common()
    frozen = [f"frozen: {n:,} x {reason}" for reason, n in reasons]
    note = "MACs and params are those of one channel; jaxprune.explain(graph) says more."
    return "\n".join([_headline(graph), *_ruled(lines, after=(0, len(rows))), *frozen, note])


def _headline(graph: ChannelGraph) -> str:
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


def _channel_costs(graph: ChannelGraph) -> tuple[dict[str, int], dict[str, int]]:
    return cost.channel_cost(graph, cost.macs), cost.channel_cost(graph, cost.params)


def _blocks(graph: ChannelGraph, names: Iterable[str]) -> Iterator[str]:
    """Yields a paragraph for each group: its costs, what ties it, and everything that goes."""
    per_macs, per_params = _channel_costs(graph)
    nodes = flow.nodes(graph)
    for name in names:
        group = graph.groups[name]
        head = f"group {name}: {_size(group)}, {_exactness(group)}"
        price = f"  one channel is {per_macs[name]:,} MACs and {per_params[name]:,} parameters:"
        found = [*_ties(nodes, name), *_shared(nodes, group), *_joined(graph.walk, group)]
        ties = _few(found, 8, "    ")
        lines = [head, *_streams(graph, name), price, *_slots(graph, group)]
        yield "\n".join([*lines, "  tied by:", *ties] if ties else lines)


def _size(group: Group) -> str:
    each = f" in each of {group.layers} layers" if group.layers else ""
    return f"{group.size:,} channels{each}"


def _slots(graph: ChannelGraph, group: Group) -> list[str]:
    """What goes together: what makes the channels, what reads them, then vectors by module."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for slot in sorted(group.slots, key=lambda slot: _ROLES.index(slot.role)):
        path = slot.path.removeprefix("params/").removeprefix("batch_stats/")
        module, _, leaf = path.rpartition("/")
        vector = slot.role == "vector" and len(graph.variables[slot.path].shape) == 1 and module
        what = f"{module}: " if vector else f"{slot.path} axis {slot.axis}"
        rows.setdefault((slot.role, what, _where(slot)), []).extend([leaf] if vector else [])
    return _table(
        [(f"    {role}", what + ", ".join(leaves), at) for (role, what, at), leaves in rows.items()]
    )


def _ties(nodes: Sequence[Node], name: str) -> Iterator[str]:
    """Says which operations make the channels of several layers one group, and of which."""
    for node in nodes:
        met = [nodes[i] for i in node.sources if name in nodes[i].groups]
        if name in node.ties and (node.kernels or len(met) > 1):
            yield f"{_call(node)}: {', '.join(map(_call, met))}"


def _call(node: Node) -> str:
    if node.kernels:
        return node.kernels[0].removeprefix("params/")
    return f"{node.name} at {node.place}" if node.place else node.name


def _shared(nodes: Sequence[Node], group: Group) -> Iterator[str]:
    """Says which kernels of a group are used more than once."""
    for path in dict.fromkeys(slot.path for slot in group.slots):
        places = [node.place for node in nodes if path in node.kernels]
        if len(places) > 1:
            yield f"{path}, used at {', '.join(places)}"


def _joined(walk: Walk, group: Group) -> Iterator[str]:
    """Says which reshape makes one channel of several positions, where kernels have them."""
    if not any(slot.role == "out" and slot.positions.shape[1] > 1 for slot in group.slots):
        return
    atom = group.slots[0].atom
    for op in _ops(walk):
        if op.name == "reshape" and (whole := _laid_apart(atom, op)) is not None:
            each = whole.size // atom.size
            yield f"{op!r} at {op.place}: {each} positions of an axis are one channel"
            return


def _ops(walk: Walk) -> Iterator[Op]:
    for op in walk.ops:
        yield op
        for inner in op.inner:
            yield from _ops(inner)


def _laid_apart(atom: Atom, op: Op) -> Space | None:
    """The product from which a reshape makes `atom` an axis of its own, if it does."""
    before, after = ([ax.resolve(space) for space in axes] for axes in (op.ins[0], op.outs[0]))
    if atom not in after or atom in before:
        return None
    return next((s for s in before if type(s) is Prod and atom in s.factors), None)


def _few(lines: Sequence[str], limit: int, indent: str = "") -> list[str]:
    """At most `limit` lines, and how many more there are."""
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return [indent + line for line in [*lines[:limit], *more]]


def _streams(graph: ChannelGraph, name: str) -> Iterator[str]:
    """Says of which streams the group is a reader's own choice."""
    for reading in graph.readings:
        if any(atom.name == name for atom in ax.atoms(reading.reader)):
            stream = dict.fromkeys(atom.name or "frozen axes" for atom in ax.atoms(reading.stream))
            yield f"  the channels that {reading.name} keeps of the stream: {', '.join(stream)}"


def _exactness(group: Group) -> str:
    if not group.inexact:
        return "exact"
    out = next((out for key, out in INEXACT.items() if key in group.inexact), "")
    return f"inexact (masked and sliced differ): {group.inexact}{_way_out(out, '  ')}"


def _where(slot: Slot) -> str:
    """Says which positions of the axis the channels own, where that is not simply channel i."""
    positions = np.asarray(slot.positions)
    each = positions.shape[1]
    if each > 1:
        return f"{each} positions per channel"
    first, last = positions[0, 0], positions[-1, 0]
    if first == 0:
        return ""
    return f"positions {first} to {last}"


def _axes(graph: ChannelGraph, variable: Variable) -> Iterator[str]:
    """Yields a headline, and for each axis of `variable` what it goes with or why it stays."""
    yield f"variable {variable.path}, shape {variable.shape}"
    for axis, (size, space) in enumerate(zip(variable.shape, variable.axes, strict=True)):
        here = (variable.path, axis)
        uses = [
            f"goes with group {group.name} ({slot.role})"
            for group in graph.groups.values()
            for slot in group.slots
            if (slot.path, slot.axis) == here
        ]
        parts: dict[Explained, list[int]] = {}
        for atom in dict.fromkeys(ax.atoms(space)):
            if atom.reason is not None and atom.size > 1:
                parts.setdefault(explained(atom.reason), []).append(atom.size)
        for why, sizes in parts.items():
            part = "" if sizes == [size] else f"a part of size {' x '.join(map(str, sizes))} "
            uses.append(f"{part}cannot be pruned: {why.words}{_way_out(why.way_out, '    ')}")
        uses = uses or ["cannot be pruned: it is a single index"]
        yield f"  axis {axis}, size {size}: " + ";\n    ".join(uses)


def _way_out(text: str, indent: str) -> str:
    return f"\n{indent}way out: {text}" if text else ""


def _frozen(graph: ChannelGraph) -> list[str]:
    """What is frozen, summed up by reason; where each axis is named if that is not plain."""
    found: dict[Explained, list[str]] = {}
    for variable in graph.variables.values():
        for axis, space in enumerate(variable.axes):
            for atom in dict.fromkeys(ax.atoms(space)):
                if atom.reason is not None and atom.size > 1:
                    axes = found.setdefault(explained(atom.reason, brief=True), [])
                    axes.append(f"{variable.path} axis {axis}")
    lines = []
    for why, axes in found.items():
        lines.append(f"  {_axes_of(len(axes))}: {why.words}{_way_out(why.way_out, '    ')}")
        lines.append("    " + ", ".join(_few(axes, 3)))
    return ["\n".join(["cannot be pruned:", *lines])] if lines else []


def _axes_of(count: int) -> str:
    return "1 axis" if count == 1 else f"{count} axes"


def _change(change: Change) -> tuple[str, ...]:
    return change.name, f"{change.before:,}", f"{change.after:,}", f"{100 * change.ratio:.1f} %"


def _table(rows: Sequence[Sequence[str]], *, numbers: Iterable[int] = ()) -> list[str]:
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
