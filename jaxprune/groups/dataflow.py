"""What flows where: the layers of a traced function, and the operations at which they meet.

Of the equations of a program few matter to a reader: contractions with variables (layers) or of two
activations, and operations that join the outputs of different layers (a residual sum, a gate, a
concatenation). All others pass on what they are given.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jaxprune.graph import ChannelGraph
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import Domain, Steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.spaces import Space
from jaxprune.program.traits import Form, Trait

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
    free = [  # updated statistics are not an output to a reader
        origins for origins, axes in zip(outs, graph.walk.outs, strict=True) if not _groups(axes)
    ]
    flow.node("output", None, (), frozenset().union(*free))
    return flow.nodes


def _groups(axes: Iterable[Space]) -> tuple[str, ...]:
    names = (atom.name for space in axes for atom in ax.atoms(space))
    return tuple(dict.fromkeys(name for name in names if name is not None))


class _Flow(Domain[Origins]):
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
        return self.run(walk, ins)

    def literal(self, value: Any, atom: Any, op: Op | None) -> Origins:
        """A number comes from nowhere."""
        del value, atom, op
        return frozenset()

    def constant(self, value: Any, var: Any, axes: Any) -> Origins:
        """A constant comes from nowhere."""
        del value, var, axes
        return frozenset()

    def scan(self, op: Op, ins: list[Origins], steps: Steps) -> Sequence[Origins]:
        """A scan repeats its layers."""
        del steps
        times = op.params["length"]
        self.repeats *= times
        outs = self.run(op.inner[0], ins)
        self.repeats //= max(times, 1)
        return outs

    def loop(self, op: Op, ins: list[Origins], steps: Steps) -> Sequence[Origins]:
        """What decides when a loop ends is not a layer."""
        del steps
        body = op.inner[1]
        return self.run(body, ins[-len(body.ins) :])

    def join(self, op: Op, cases: list[Origins]) -> Origins:
        """Branches meet."""
        return self.meet(op, cases)

    def compute(self, op: Op, ins: list[Origins]) -> Sequence[Origins]:
        """Returns the origins of the results of one operation."""
        return [self.origins(op, ins)] * len(op.out_shapes)

    def origins(self, op: Op, ins: list[Origins]) -> Origins:
        if Trait.RANDOM in op.traits:
            return frozenset()
        kernels = [self.paths[i] for source in op.sources for i in sorted(source or ())]
        table = Trait.LOOKS_UP in op.traits and op.sources[0]
        if (Trait.CONTRACTS in op.traits or table) and any(ins):
            name = op.name if not kernels else ""
            return self.node(name, op, tuple(dict.fromkeys(kernels)), frozenset().union(*ins))
        return self.meet(op, ins)

    def meet(self, op: Op, ins: list[Origins]) -> Origins:
        """A new node if what comes in has different origins."""
        different = {origins for origins in ins if origins}
        if len(different) < 2:
            return next(iter(different), frozenset())
        return self.node(op.name, op, (), frozenset().union(*different))

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
    if op.form is Form.COND:
        inputs = [_groups(axes) for axes in op.outs]
    if op.params.get("feature_group_count", 1) > 1:
        inputs.append(_groups(op.outs[0]))
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for names in inputs:
        twice.update(dict.fromkeys(name for name in names if name in seen))
        seen.update(names)
    return tuple(twice)
