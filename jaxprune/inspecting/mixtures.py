"""Where what experts give is mixed: the place behind which nobody can tell them apart.

The last matrix of an expert, with its bias, is linear in what the experts add, whatever sends
tokens there and back: one-hot products, sorted rows, look-ups, buffers of a capacity. So what
expert e adds is the mixture with the last matrices of all others at zero.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.cached import once
from jaxprune.inspecting.routing import Routing, routings
from jaxprune.program import jaxpr
from jaxprune.program import spaces as ax
from jaxprune.program.flat_program import FlatProgram, Node
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Sources, Walk
from jaxprune.program.rules import contraction
from jaxprune.program.traits import Form, Trait

Edge = tuple[int, int]
"""The place of an operation in its program, and one of its operands."""


class Mixture(NamedTuple):
    """Where the outputs of the experts of a group are mixed.

    op, result: what makes the mixture, the features along its last axis.
    last: the variables that the experts give their outputs with, in which the mixture is linear.
    sums: of those among them that are matrices, over how many entries they sum.
    inner: the operands (operation, place) that hold what each last matrix meets, before the router
      weighs it; `weighed_before` says that the router weighs what goes into the experts.
    scan: the loop in whose body it stands.
    """

    op: Op
    result: int
    last: tuple[str, ...]
    sums: Mapping[str, int]
    inner: tuple[tuple[Op, int], ...]
    weighed_before: bool
    scan: Op | None


class _UnclearError(Exception):
    """Why nobody can say where experts are mixed."""


@once
def mixtures(graph: ChannelGraph) -> Mapping[str, Mixture | str]:
    """Returns {group: its mixture, or why there is none} of groups that are chosen from.

    >>> import jax, numpy as np
    >>> from jaxprune import trace
    >>> v = {"router": np.ones((2, 4)), "up": np.ones((4, 2, 3)), "down": np.ones((4, 3, 2))}
    >>> def fn(v, x):
    ...     sent = jax.nn.one_hot((x @ v["router"]).argmax(-1), 4)
    ...     hidden = jax.nn.relu(jax.numpy.einsum("td,edh->teh", x, v["up"]))
    ...     return jax.numpy.einsum("te,teh,ehd->td", sent, hidden, v["down"])
    >>> (mixture,) = mixtures(trace(fn, v, np.ones((5, 2)))).values()
    >>> mixture.last, mixture.sums
    (('down',), {'down': 3})
    """
    levels = list(_levels(graph))
    result: dict[str, Mixture | str] = {}
    for name, routing in routings(graph).items():
        try:
            result[name] = _mixture(graph, name, routing, levels)
        except _UnclearError as error:
            result[name] = str(error)
    return result


def _levels(graph: ChannelGraph) -> Iterator["_Level"]:
    """Yields the program and the bodies of its loops, each without calls."""
    names = len(graph.variables)
    outside = [None] * (len(graph.walk.ins) - names)
    top: list[Sources] = [*(frozenset({i}) for i in range(names)), *outside]
    left: list[tuple[Walk, list[Sources], Op | None]] = [(graph.walk, top, None)]
    while left:
        walk, sources, scan = left.pop()
        level = _Level(walk, sources, scan)
        yield level
        loops = [node.op for node in level.nodes if node.op.form is Form.SCAN]
        left += [(op.inner[0], list(op.sources), op) for op in loops]


class _Level:
    """A program without calls: which variables every value is made of.

    fed: by any way. weighed: by numbers alone, not by positions and truths.
    """

    def __init__(self, walk: Walk, sources: Sequence[Sources], scan: Op | None):
        self.flat = flat = FlatProgram(walk, [True] * len(walk.program.outvars))
        self.nodes = flat.nodes
        self.scan = scan
        self.fed: list[frozenset[int]] = [frozenset()] * flat.count
        self.variables: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self.maker: dict[int, int] = {}
        for value, source, var in zip(flat.ins, sources, walk.program.invars, strict=True):
            self.fed[value] = source or frozenset()
            if source is not None and len(source) == 1:
                self.variables[value] = min(source)
                self.sizes[min(source)] = prod(jaxpr.shape(var))
        self.weighed = list(self.fed)
        for place, node in enumerate(self.nodes):
            read = [value for value in node.ins if value is not None]
            fed = frozenset[int]().union(*(self.fed[value] for value in read))
            weighed = frozenset[int]().union(*(self.weighed[value] for value in read))
            for value, var in zip(node.outs, node.op.eqn.outvars, strict=True):
                self.maker[value] = place
                self.fed[value] = fed
                real = np.dtype(bool) if not hasattr(var.aval, "dtype") else var.aval.dtype
                self.weighed[value] = weighed if _is_real(real) else frozenset()

    def reads(self, variable: int) -> bool:
        """True if anything but a loop reads a variable here."""
        values = [value for value, i in self.variables.items() if i == variable]
        places = [at for value in values for at, _ in self.flat.used.get(value, ())]
        return any(self.nodes[at].op.form is not Form.SCAN for at in places)

    def linear(self, variables: Collection[int], ours: Collection[int]) -> set[int]:
        """The values that are linear in some variables together, up to layers of others."""
        values = {value for value, i in self.variables.items() if i in variables}
        for node in self.nodes:
            if not values.isdisjoint(node.ins) and self._passes(node, values, variables, ours):
                values.update(node.outs)
        return values

    def ends(self, values: set[int]) -> set[int]:
        """Those of some values that are read by what gives none of them, or are results."""
        return {
            value
            for value in values
            if value in self.flat.results
            or any(
                values.isdisjoint(self.nodes[at].outs) for at, _ in self.flat.used.get(value, ())
            )
        }

    def _passes(
        self, node: Node, values: set[int], variables: Collection[int], ours: Collection[int]
    ) -> bool:
        """True if the results are linear in those operands that are."""
        op = node.op
        if op.form is not None or op.rule is None:
            return False
        sides = [i for i, value in enumerate(node.ins) if value in values]
        others = [i for i in range(len(node.ins)) if i not in sides]
        bent = [i for i in others if not self._fed(node, i).isdisjoint(variables)]
        if bent or not set(sides) <= set(range(len(node.ins))[op.rule.values]):
            return False
        if op.rule.weights:
            return not others
        if op.traits & (Trait.MULTIPLIES | Trait.CONTRACTS):
            return len(sides) == 1 and not self._is_layer(node, others[0], ours)
        if op.traits & (Trait.LINEAR | Trait.PARTS | Trait.AS_IS | Trait.CHOOSES | Trait.WRITES):
            return True
        first = Trait.MOVES | Trait.LOOKS_UP | Trait.STARTS | Trait.DIVIDES
        return bool(op.traits & first) and sides == [0]

    def _is_layer(self, node: Node, other: int, ours: Collection[int]) -> bool:
        """True if another operand is made of variables alone, of which some are not `ours`."""
        source = node.op.sources[other]
        return bool(source) and not frozenset(source or ()) <= frozenset(ours)

    def _fed(self, node: Node, operand: int) -> frozenset[int]:
        value = node.ins[operand]
        return frozenset() if value is None else self.fed[value]

    def before_weighing(self, edge: Edge, routers: Collection[int]) -> Edge | None:
        """The operand that is weighed on the way to an operand; None if a layer comes between."""
        place, side = edge
        while (value := self.nodes[place].ins[side]) is not None:
            if self.weighed[value].isdisjoint(routers):
                return place, side
            if value not in self.maker:
                return None
            place = self.maker[value]
            node = self.nodes[place]
            plain = [
                i
                for i, given in enumerate(node.ins)
                if given is None or self.weighed[given].isdisjoint(routers)
            ]
            weighs = bool(node.op.traits & (Trait.MULTIPLIES | Trait.CONTRACTS))
            moves = bool(node.op.traits & (Trait.MOVES | Trait.AS_IS))
            if weighs and len(plain) == 1 and node.op.form is None:
                side = plain[0]
            elif moves and len(node.ins) == 1:
                side = 0
            else:
                return None
        return None


def _is_real(dtype: object) -> bool:
    return getattr(dtype, "kind", "V") not in "biu"


def _mixture(graph: ChannelGraph, name: str, routing: Routing, levels: Sequence[_Level]) -> Mixture:
    names = list(graph.variables)
    experts = [names.index(path) for path in routing.experts]
    routers = [names.index(path) for path in routing.routers]
    here = [level for level in levels if any(map(level.reads, experts))]
    if len(here) != 1 or not all(map(here[0].reads, experts)):
        raise _UnclearError("its experts are read in several programs")
    (level,) = here
    if level.scan is not None and level.scan.scans:
        raise _UnclearError("its experts stand in a loop inside of a loop")
    ours = {*experts, *routers}
    kernels = {i: edge for i in experts if (edge := _kernel(graph, name, level, i, ours))}
    last = _last(level, kernels, experts)
    for i in experts:  # a bias is added to what the matrices give; a scale has ends of its own
        if i not in kernels and i not in last:
            joined = level.ends(level.linear([*last, i], ours))
            last += [i] if len(joined) == 1 else []
    end = _end(level, level.linear(last, ours), [names[i] for i in last])
    edges = [kernels[i] for i in last if i in kernels]
    inner = [level.before_weighing(edge, routers) for edge in edges]
    place = level.maker[end]
    return Mixture(
        op=level.nodes[place].op,
        result=level.nodes[place].outs.index(end),
        last=tuple(names[i] for i in last),
        sums={names[i]: _summed(graph, name, level, i, kernels[i]) for i in last if i in kernels},
        inner=tuple(
            (level.nodes[at].op, side)
            for at, side in (edge or before for edge, before in zip(inner, edges, strict=True))
        ),
        weighed_before=None in inner,
        scan=level.scan,
    )


def _kernel(
    graph: ChannelGraph, name: str, level: _Level, variable: int, ours: Collection[int]
) -> Edge | None:
    """Where an axis of a variable is summed that is not that of the experts, if anywhere."""
    own = _own(graph, name, variable)
    values = level.linear([variable], ours)
    for place, node in enumerate(level.nodes):
        for side, value in enumerate(node.ins[:2]):
            if value in values and Trait.CONTRACTS in node.op.traits:
                pairs = contraction.pairs(node.op)
                if any(_of(node.op.ins[side][pair[side]], own) for pair in pairs):
                    return place, 1 - side
    return None


def _last(level: _Level, kernels: Mapping[int, Edge], experts: Sequence[int]) -> list[int]:
    """The matrices that no other one reads; without matrices, the variables themselves."""
    if not kernels:
        return [*experts]
    read: set[int] = set()
    for i, (place, side) in kernels.items():
        value = level.nodes[place].ins[side]
        read |= frozenset() if value is None else level.fed[value] - {i}
    return [i for i in kernels if i not in read]


def _end(level: _Level, values: set[int], last: Sequence[str]) -> int:
    """The one value that the outputs of all experts end in."""
    ends = level.ends(values)
    if len(ends) != 1 or not ends <= level.maker.keys():
        readers = sorted({at for value in ends for at, _ in level.flat.used.get(value, ())})
        places = [f"{level.nodes[at].op.name} at {level.nodes[at].op.place}" for at in readers[:4]]
        raise _UnclearError(
            f"what its experts give ({', '.join(last) or 'none'}) is not mixed in one place: it is "
            f"read by {', '.join(places) or 'nothing'}"
        )
    return min(ends)


def _own(graph: ChannelGraph, name: str, variable: int) -> set[ax.Atom]:
    """The atoms of the axes of a variable that do not count the experts."""
    axes = list(graph.variables.values())[variable].axes
    return {atom for space in axes for atom in ax.atoms(space) if atom.name != name}


def _of(space: ax.Space, own: Collection[ax.Atom]) -> bool:
    atoms = set(ax.atoms(space))
    return bool(atoms) and atoms <= set(own)


def _summed(graph: ChannelGraph, name: str, level: _Level, variable: int, edge: Edge) -> int:
    """Over how many entries of its own a matrix is summed."""
    op, side = level.nodes[edge[0]].op, 1 - edge[1]
    own = _own(graph, name, variable)
    entry = list(graph.variables.values())[variable]
    whole = level.sizes[variable] // graph.groups[name].size
    mine = [i for i, space in enumerate(op.ins[side]) if _of(space, own)]
    if prod(op.ins[side][i].size for i in mine) != whole:
        where = f"{op!r} at {op.place}"
        raise _UnclearError(f"the axes of {entry.path!r} cannot be followed to {where}")
    summed = [pair[side] for pair in contraction.pairs(op) if pair[side] in mine]
    return prod(op.ins[side][i].size for i in summed)
