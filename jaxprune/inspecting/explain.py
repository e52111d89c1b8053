"""Explanations in plain text: what goes together and why, and what cannot be pruned."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxprune.arguments import paths
from jaxprune.errors import PatternError
from jaxprune.graph import ChannelGraph, Group, Slot, Variable, check_graph
from jaxprune.groups import dataflow
from jaxprune.groups.dataflow import Node
from jaxprune.groups.kinds import kinds
from jaxprune.inspecting import explain_branches
from jaxprune.inspecting.aligned import table
from jaxprune.inspecting.tables import channel_costs, headline
from jaxprune.inspecting.why_frozen import Explained, explained, immovable
from jaxprune.keep.check import BRANCH
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.spaces import Atom, Prod, Space
from jaxprune.program.traits import Trait

_ROLES = ("out", "in", "vector")


def explain(graph: ChannelGraph, path: str | None = None) -> str:
    """Returns in words what is pruned together and by what it is tied, and what cannot be and why.

    Args:
      graph: what `jaxprune.trace` returned.
      path: a variable, a group, a module with all below it, or a pattern over them; a leading
        `params/` may be left out. A branch (`jp.branches`), or a pattern over them that starts with
        "+"; "+" alone explains all, and why other sums have none. None explains every group and
        sums up what is frozen.

    Raises:
      PatternError: `path` matches no variable and no group.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> for line in jp.explain(graph, "b").splitlines()[:3]:
      ...     print(line)
      variable b, shape (4, 3)
        axis 0, size 4: goes with group a (in)
        axis 1, size 3: cannot be pruned: it is an axis of the output
    """
    check_graph(graph)
    if path is None:
        blocks = [headline(graph), *_blocks(graph, graph.groups)]
        return "\n\n".join([*blocks, *_frozen(graph)])
    if not isinstance(path, str):
        raise PatternError(f"path must be a string, got {path!r}.\nFix: print(graph) lists names.")
    if path.startswith(BRANCH):
        return explain_branches.explained(graph, path)
    short = {name: name.removeprefix("params/") for name in graph.variables}
    names = dict.fromkeys([*graph.groups, *short.values(), *short])
    below = {name for name in names if name.startswith(f"{path.rstrip('/')}/")}
    matched = below or paths.require([path], names, what="path")
    variables = [v for name, v in graph.variables.items() if {name, short[name]} & matched]
    shown = {v.path for v in variables}
    groups = [
        name
        for name, group in graph.groups.items()
        if name in matched or any(slot.path in shown for slot in group.slots)
    ]
    uses = _uses(graph)
    axes = ["\n".join(_axes(variable, uses)) for variable in variables]
    return "\n\n".join([*axes, *_blocks(graph, groups)])


def _blocks(graph: ChannelGraph, names: Iterable[str]) -> Iterator[str]:
    """Yields a paragraph for each group: its costs, what ties it, and everything that goes."""
    per_macs, per_params = channel_costs(graph)
    places, ties, streams, every = _Places(), _Ties(graph), _streams(graph), kinds(graph)
    for name in names:
        group = graph.groups[name]
        head = f"group {name}: {_size(group)} ({every[name].value}), {_exactness(group)}"
        price = f"  one channel is {per_macs[name]:,} MACs and {per_params[name]:,} parameters:"
        tied = _few(list(ties.of(group, places)), 8, "    ")
        lines = [head, *streams.get(name, ()), price, *_slots(graph, group, places)]
        yield "\n".join([*lines, "  tied by:", *tied] if tied else lines)


def _size(group: Group) -> str:
    each = f" in each of {group.layers} layers" if group.layers else ""
    return f"{group.size:,} channels{each}"


def _slots(graph: ChannelGraph, group: Group, places: "_Places") -> list[str]:
    """What goes together: what makes the channels, what reads them, then vectors by module."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for slot in sorted(group.slots, key=lambda slot: _ROLES.index(slot.role)):
        path = slot.path.removeprefix("params/").removeprefix("batch_stats/")
        module, _, leaf = path.rpartition("/")
        vector = slot.role == "vector" and len(graph.variables[slot.path].shape) == 1 and module
        what = f"{module}: " if vector else f"{slot.path} axis {slot.axis}"
        rows.setdefault((slot.role, what, places.text(slot)), []).extend([leaf] if vector else [])
    rows |= {("state", what, ""): [] for what in _in_state(graph, group)}
    return table(
        [
            (f"    {role}", what + ", ".join(leaves), place)
            for (role, what, place), leaves in rows.items()
        ]
    )


def _in_state(graph: ChannelGraph, group: Group) -> Iterator[str]:
    """Yields the axes of state that go with a group."""
    for name, state in graph.state.items():
        for path, variable in state.variables.items():
            for axis, space in enumerate(variable.axes):
                if any(atom.name == group.name for atom in ax.atoms(space)):
                    yield f"{name}/{path} axis {axis}".replace("/ ", " ")


class _Ties:
    """What makes the channels of several layers one group, by the group."""

    def __init__(self, graph: ChannelGraph):
        self.nodes = dataflow.nodes(graph)
        self.groups = [frozenset(node.groups) for node in self.nodes]
        self.meeting: dict[str, list[Node]] = {}
        self.using: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.ties:
                self.meeting.setdefault(name, []).append(node)
            for path in node.kernels:
                self.using.setdefault(path, []).append(node)
        self.joining = _joining(graph.walk)

    def of(self, group: Group, places: "_Places") -> Iterator[str]:
        """Says which operations tie a group, and of which layers."""
        for node in self.meeting.get(group.name, ()):
            met = [self.nodes[i] for i in node.sources if group.name in self.groups[i]]
            if node.kernels or len(met) > 1:
                yield f"{_call(node)}: {', '.join(map(_call, met))}"
        for path in dict.fromkeys(slot.path for slot in group.slots):
            used = [node.place for node in self.using.get(path, ())]
            if len(used) > 1:
                yield f"{path}, used at {', '.join(used)}"
        apart = (slot for slot in group.slots if slot.role == "out" and places.of(slot).each > 1)
        if any(apart) and group.slots[0].atom in self.joining:
            yield self.joining[group.slots[0].atom]


def _call(node: Node) -> str:
    if node.kernels:
        return node.kernels[0].removeprefix("params/")
    return f"{node.name} at {node.place}" if node.place else node.name


def _joining(walk: Walk) -> dict[Atom, str]:
    """Says for an atom which reshape makes one channel of several positions."""
    texts: dict[Atom, str] = {}
    for op in every_op(walk):
        if Trait.ORDERED in op.traits:
            for atom, whole in _laid_apart(op):
                text = f"{whole.size // atom.size} positions of an axis are one channel"
                texts.setdefault(atom, f"{op!r} at {op.place}: {text}")
    return texts


def _laid_apart(op: Op) -> Iterator[tuple[Atom, Space]]:
    """The atoms of which a reshape makes axes of their own, with the products they come from."""
    before, after = ([ax.resolve(space) for space in axes] for axes in (op.ins[0], op.outs[0]))
    for space in before:
        for atom in space.factors if type(space) is Prod else ():
            if type(atom) is Atom and atom in after and atom not in before:
                yield atom, space


def _few(lines: Sequence[str], limit: int, indent: str = "") -> list[str]:
    """At most `limit` lines, and how many more there are."""
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return [indent + line for line in [*lines[:limit], *more]]


def _streams(graph: ChannelGraph) -> dict[str, list[str]]:
    """Says of which streams a group is a reader's own choice."""
    lines: dict[str, list[str]] = {}
    for reading in graph.readings:
        stream = dict.fromkeys(atom.name or "frozen axes" for atom in ax.atoms(reading.stream))
        text = f"  the channels that {reading.name} keeps of the stream: {', '.join(stream)}"
        for name in dict.fromkeys(atom.name for atom in ax.atoms(reading.reader)):
            if name is not None:
                lines.setdefault(name, []).append(text)
    return lines


def _exactness(group: Group) -> str:
    if not group.inexact:
        return "exact"
    text = f"inexact (masked and sliced differ): {group.inexact}"
    return text + _way_out(group.way_out, "  ")


class _Place(NamedTuple):
    """Which positions of an axis belong to an atom: the first, the last, how many to an index."""

    first: int
    last: int
    each: int


class _Places:
    """The places of all atoms of a space, found together and once."""

    def __init__(self) -> None:
        self.known: dict[Space, dict[Atom, _Place]] = {}

    def of(self, slot: Slot) -> _Place:
        """Returns the place of a slot's channels on its axis."""
        if slot.space not in self.known:
            self.known[slot.space] = _places(slot.space)
        return self.known[slot.space][slot.atom]

    def text(self, slot: Slot) -> str:
        """Says which positions the channels own, where that is not simply channel i."""
        first, last, each = self.of(slot)
        if each > 1:
            return f"{each} positions per channel"
        return f"positions {first} to {last}" if first else ""


def _places(space: Space) -> dict[Atom, _Place]:
    """What `axes.positions` says of every atom of a space, in short."""
    space = ax.find(space)
    if type(space) is Atom:
        return {space: _Place(0, space.size - 1, 1)}
    places: dict[Atom, _Place] = {}
    if type(space) is ax.Sum:
        start = 0
        for part in space.parts:
            for atom, (first, last, each) in _places(part).items():
                before = places.get(atom, _Place(start + first, start + last, 0))
                places[atom] = before._replace(each=before.each + each)
            start += part.size
        return places
    size, both = 1, set()
    for item in space.factors:
        inner = _places(item)
        places = {
            atom: _Place(first * item.size, last * item.size, each * item.size)
            for atom, (first, last, each) in places.items()
        }
        both |= places.keys() & inner.keys()
        places |= {atom: place._replace(each=place.each * size) for atom, place in inner.items()}
        size *= item.size
    for atom in both:  # some positions are counted twice
        rows = ax.positions(space, atom)
        places[atom] = _Place(int(rows[0, 0]), int(rows[-1, 0]), rows.shape[1])
    return places


def _uses(graph: ChannelGraph) -> dict[tuple[str, int], list[str]]:
    """Says for every axis of a variable with which groups it goes."""
    uses: dict[tuple[str, int], list[str]] = {}
    for group in graph.groups.values():
        for slot in group.slots:
            text = f"goes with group {group.name} ({slot.role})"
            uses.setdefault((slot.path, slot.axis), []).append(text)
    return uses


def _axes(variable: Variable, uses: Mapping[tuple[str, int], Sequence[str]]) -> Iterator[str]:
    """Yields a headline, and for each axis of `variable` what it goes with or why it stays."""
    yield f"variable {variable.path}, shape {variable.shape}"
    for axis, (size, space) in enumerate(zip(variable.shape, variable.axes, strict=True)):
        said = list(uses.get((variable.path, axis), ()))
        parts: dict[Explained, list[int]] = {}
        for part, reason in immovable(space):
            parts.setdefault(explained(reason), []).append(part)
        for why, sizes in parts.items():
            part = "" if sizes == [size] else f"a part of size {' x '.join(map(str, sizes))} "
            said.append(f"{part}cannot be pruned: {why.words}{_way_out(why.way_out, '    ')}")
        said = said or ["cannot be pruned: it is a single index"]
        yield f"  axis {axis}, size {size}: " + ";\n    ".join(said)


def _way_out(text: str, indent: str) -> str:
    return f"\n{indent}way out: {text}" if text else ""


def _frozen(graph: ChannelGraph) -> list[str]:
    """What is frozen, summed up by reason; where each axis is named if that is not plain."""
    by_reason: dict[Explained, list[str]] = {}
    for variable in graph.variables.values():
        for axis, space in enumerate(variable.axes):
            for _, reason in immovable(space):
                axes = by_reason.setdefault(explained(reason, brief=True), [])
                axes.append(f"{variable.path} axis {axis}")
    lines = []
    for why, axes in by_reason.items():
        lines.append(f"  {_axes_of(len(axes))}: {why.words}{_way_out(why.way_out, '    ')}")
        lines.append("    " + ", ".join(_few(axes, 3)))
    return ["\n".join(["cannot be pruned:", *lines])] if lines else []


def _axes_of(count: int) -> str:
    return "1 axis" if count == 1 else f"{count} axes"
