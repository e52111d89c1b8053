"""What flows where: the layers of a traced function, and the operations at which they meet.

Of the equations of a program few matter to a reader: contractions with variables (layers) or of two
activations, and operations that join the outputs of different layers (a residual sum, a gate, a
concatenation). All others pass on what they are given.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jaxprune.graph import ChannelGraph
from jaxprune.program import jaxpr
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.rules import contraction
from jaxprune.program.rules.control import CALLS
from jaxprune.program.spaces import Space

Origins = frozenset[int]
"""Of an array: the nodes that it comes from."""


class Node(NamedTuple):
    """A layer, a place where layers meet, an input (`op` is None), or the output.

    kernels: paths of the variables that a layer contracts or indexes; else empty.
    groups: names of the groups of its result, in the order of its axes.
    ties: names of the groups that it makes the same for what comes in.
    sources: indices of the nodes that it reads, all earlier in the list.
    repeats: how often it runs, in loops of a known length.
    """

    name: str
    op: Op | None
    kernels: tuple[str, ...]
    groups: tuple[str, ...]
    ties: tuple[str, ...]
    sources: tuple[int, ...]
    shape: tuple[int, ...]
    repeats: int = 1

    @property
    def place(self) -> str:
        """The module path; outside of modules, the file and line."""
        return self.op.place if self.op else ""


def nodes(graph: ChannelGraph) -> list[Node]:
    """Returns the nodes in the order in which data flow."""
    flow = _Flow(list(graph.variables))
    outs = flow.start(graph.walk)
    free = [  # updated statistics are no output to a reader
        origins for origins, axes in zip(outs, graph.walk.outs, strict=True) if not _groups(axes)
    ]
    flow.node("output", None, (), frozenset().union(*free))
    return flow.nodes


def _groups(axes: Iterable[Space]) -> tuple[str, ...]:
    names = (atom.name for space in axes for atom in ax.atoms(space))
    return tuple(dict.fromkeys(name for name in names if name is not None))


class _Flow:
    """One pass over a walked program."""

    def __init__(self, paths: Sequence[str]):
        self.paths = paths
        self.nodes: list[Node] = []
        self.repeats = 1

    def start(self, walk: Walk) -> list[Origins]:
        given = len(self.paths)
        ins: list[Origins] = [frozenset()] * given
        for axes in walk.ins[given:]:
            shape = tuple(space.size for space in axes)
            ins.append(self.node("input", None, (), frozenset(), shape=shape))
        return self.walk(walk, ins)

    def walk(self, walk: Walk, ins: Sequence[Origins]) -> list[Origins]:
        """Returns the origins of the results of a program."""
        env = dict(zip(walk.program.invars, ins, strict=True))

        def read(atom: Any) -> Origins:
            return frozenset() if jaxpr.is_literal(atom) else env.get(atom, frozenset())

        for op in walk.ops:
            outs = self.apply(op, [read(atom) for atom in op.eqn.invars])
            env.update(zip(op.eqn.outvars, outs, strict=True))
        return [read(atom) for atom in walk.program.outvars]

    def apply(self, op: Op, ins: list[Origins]) -> Sequence[Origins]:
        """Returns the origins of the results of one operation."""
        if op.inner:
            return self.inside(op, ins)
        return [self.one(op, ins)] * len(op.out_shapes)

    def inside(self, op: Op, ins: list[Origins]) -> Sequence[Origins]:
        if op.name in CALLS or op.name == "shard_map":
            return self.walk(op.inner[0], ins)
        if op.name == "scan":
            times = op.params["length"]
            self.repeats *= times
            outs = self.walk(op.inner[0], ins)
            self.repeats //= max(times, 1)
            return outs
        if op.name == "while":
            return self.walk(op.inner[1], ins[op.params["cond_nconsts"] :])
        branches = [self.walk(walk, ins[1:]) for walk in op.inner]
        return [self.meet(op, list(outs)) for outs in zip(*branches, strict=True)]

    def one(self, op: Op, ins: list[Origins]) -> Origins:
        if op.name.startswith(("random_", "threefry", "rng_")):
            return frozenset()
        kernels = [self.paths[i] for source in op.sources for i in sorted(source or ())]
        table = op.name == "gather" and op.sources[0]
        if (op.name in contraction.RULES or table) and any(ins):
            name = op.name if not kernels else ""
            return self.node(name, op, tuple(dict.fromkeys(kernels)), frozenset().union(*ins))
        return self.meet(op, ins)

    def meet(self, op: Op, ins: list[Origins]) -> Origins:
        """A new node if what comes in has different origins."""
        found = {origins for origins in ins if origins}
        if len(found) < 2:
            return next(iter(found), frozenset())
        return self.node(op.name, op, (), frozenset().union(*found))

    def node(
        self,
        name: str,
        op: Op | None,
        kernels: tuple[str, ...],
        origins: Origins,
        shape: tuple[int, ...] = (),
    ) -> Origins:
        groups: tuple[str, ...] = ()
        ties: tuple[str, ...] = ()
        if op is not None:
            groups, ties, shape = _groups(op.outs[0]), _ties(op), op.out_shapes[0]
        sources = tuple(sorted(origins))
        self.nodes.append(Node(name, op, kernels, groups, ties, sources, shape, self.repeats))
        return frozenset({len(self.nodes) - 1})


def _ties(op: Op) -> tuple[str, ...]:
    """The groups that come in twice; of a grouped convolution, those that go through."""
    pairs = zip(op.ins, op.sources, strict=True)
    inputs = [_groups(axes) for axes, source in pairs if source is None]
    if op.name == "cond":
        inputs = [_groups(axes) for axes in op.outs]
    if op.params.get("feature_group_count", 1) > 1:
        inputs.append(_groups(op.outs[0]))
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for names in inputs:
        twice.update(dict.fromkeys(name for name in names if name in seen))
        seen.update(names)
    return tuple(twice)
