"""Residual sums: the additions `y = a + b` of which one operand can go, so that y is the other.

An operand b is a branch if it is made from the stream a through a contraction with a variable, or
is a term of a sum that is. It must be all that some such contraction is there for: what else reads
the layers of b would not be the same without the sum. And a layer must read y, or y be a result,
before y meets another activation in a contraction: a bias of attention scores is not a branch.
In the body of a scan every step that has layers of its own has its branch.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxprune.program import flat_program
from jaxprune.program.flat_program import FlatProgram, Node
from jaxprune.program.interpret import every_op, steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.post_dominators import PostDominators
from jaxprune.program.relate import Walk
from jaxprune.program.traits import Form

Edge = tuple[int, int]
"""The place of a sum, and one of its operands."""


class Removable(NamedTuple):
    """An operand of a sum that can go.

    op, side: the addition, and which of its operands goes.
    within: the addition and the operand whose term it is; None where it is added to a stream.
    kernels: of the last layers before the sum the variables, as places in the tree.
    layers: the contractions that are there for it alone, products of activations among them.
    inputs: the inputs of the program (of a scan: of its body) that are there for it alone.
    scan: the loop in whose body it stands, every step having its own.
    """

    op: Op
    side: int
    within: tuple[Op, int] | None
    kernels: tuple[int, ...]
    layers: tuple[Op, ...]
    inputs: tuple[int, ...]
    scan: Op | None


class Other(NamedTuple):
    """A sum of two activations of which no operand can go, and why."""

    op: Op
    why: str


SCORES = "what it gives meets another activation in a contraction before a layer reads it"
APART = "neither operand is made from the other through a layer"
SHARED = "no layer is there for one operand alone: something else reads it too"
STEPS = "all steps of the loop share these layers"
CLOSED = "it stands inside of an operation that is evaluated as a whole"


def find(walk: Walk, counts: Sequence[bool]) -> tuple[list[Removable], list[Other]]:
    """Returns the branches of a program in its order, and the sums that have none.

    `counts` says which outputs count: what only updates a variable does not keep a layer.
    """
    return _find(walk, counts, None)


def _find(
    walk: Walk, counts: Sequence[bool], scan: Op | None
) -> tuple[list[Removable], list[Other]]:
    flat = FlatProgram(walk, counts)
    branches, others = _Sums(flat, scan).branches()
    for node in flat.nodes:
        if node.op.form is Form.SCAN and scan is None:
            carried = steps(node.op).carry
            read = [i < carried or flat.is_read(value) for i, value in enumerate(node.outs)]
            within = _find(node.op.inner[0], read, node.op)
            branches, others = branches + within[0], others + within[1]
        else:
            inner = [op for item in node.op.inner for op in every_op(item)]
            summed = [op for op in inner if flat_program.is_sum(op)]
            if any(map(flat_program.is_layer, inner)):
                others += [Other(op, CLOSED) for op in summed]
    return branches, others


class _Sums:
    """The sums of one program without calls, with what stands before and behind each."""

    def __init__(self, flat: FlatProgram, scan: Op | None):
        self.flat = flat
        self.scan = scan
        self.nodes = flat.nodes
        self.layer = [flat_program.is_layer(node.op) for node in flat.nodes]
        self.before = _Before(flat, self.layer)
        self.alone = _alone(flat)
        self.onward = self._reaches_layers()
        self.kinds: dict[Edge, Edge | None] = {}

    def branches(self) -> tuple[list[Removable], list[Other]]:
        """Returns the branches and the other sums, each in the order of the program."""
        others = []
        for place in reversed(range(len(self.nodes))):
            node = self.nodes[place]
            if flat_program.is_sum(node.op) and (why := self._refusal(place)):
                others.append(Other(node.op, why))
        return [self._branch(*edge) for edge in sorted(self.kinds)], others[::-1]

    def _refusal(self, place: int) -> str | None:
        """Enters the branches of a sum; returns why there are none, where one may ask."""
        node = self.nodes[place]
        why = None
        for side in flat_program.sides(node.op):
            stream, value = node.ins[1 - side], node.ins[side]
            assert stream is not None
            assert value is not None
            if not self.before.behind[value] & self.before.chain[stream]:
                continue
            why = self._missing(place, side)
            if why is None:
                self.kinds[place, side] = None
                return None
        if why is None and self._terms(place):
            return None
        left, right = (self.before.last[value] for value in node.ins if value is not None)
        layers = left and right and left != right
        return why or (APART if layers and node.outs[0] in self.onward else None)

    def _missing(self, place: int, side: int) -> str | None:
        """Why an operand that is made from its stream is not a branch."""
        if self.nodes[place].outs[0] not in self.onward:
            return SCORES
        alone = self.alone.get((place, side))
        if alone is None or not any(self.layer[at] for at in alone.contractions):
            return SHARED
        if self.scan is not None and not self._stacked(alone.inputs):
            return STEPS
        return None

    def _stacked(self, inputs: Sequence[int]) -> bool:
        """True if a variable of which every step has its own is among the inputs."""
        assert self.scan is not None
        return any(i >= sum(steps(self.scan)) and self.scan.sources[i] for i in inputs)

    def _terms(self, place: int) -> bool:
        """Enters both terms of a sum that is a branch of another sum."""
        node = self.nodes[place]
        whole = self._joins(node.outs[0])
        edges = [(place, side) for side in flat_program.sides(node.op)]
        if whole not in self.kinds or len(edges) < 2 or any(self._missing(*e) for e in edges):
            return False
        self.kinds.update(dict.fromkeys(edges, whole))
        return True

    def _joins(self, value: int) -> Edge | None:
        """The operand of a sum that a value becomes, by way of factors and moves."""
        while (edge := self.flat.single_use(value)) is not None:
            node = self.nodes[edge[0]]
            if flat_program.is_sum(node.op):
                return edge
            if not (flat_program.moves(node.op) or flat_program.scales(node.op, edge[1])):
                return None
            value = node.outs[0]
        return None

    def _reaches_layers(self) -> set[int]:
        """The values that a layer reads, or that are results, before they meet an activation."""
        values = set(self.flat.results)
        for node, layer in zip(reversed(self.nodes), reversed(self.layer), strict=True):
            onward = not values.isdisjoint(node.outs)
            if layer or (onward and not flat_program.pairs_activations(node.op)):
                values.update(value for value in node.ins if value is not None)
        return values

    def _branch(self, place: int, side: int) -> Removable:
        alone, whole = self.alone[place, side], self.kinds[place, side]
        value = self.nodes[place].ins[side]
        assert value is not None
        layers = {layer for layer in alone.contractions if self.layer[layer]}
        last = set(_bits(self.before.last[value])) & layers or layers
        kernels = (
            i for layer in sorted(last) for i in sorted(flat_program.kernels(self.nodes[layer].op))
        )
        return Removable(
            op=self.nodes[place].op,
            side=side,
            within=None if whole is None else (self.nodes[whole[0]].op, whole[1]),
            kernels=tuple(dict.fromkeys(kernels)),
            layers=tuple(self.nodes[at].op for at in sorted(alone.contractions)),
            inputs=tuple(sorted(alone.inputs)),
            scan=self.scan,
        )


class _Alone(NamedTuple):
    """What is there for one operand of a sum alone: contractions, inputs of the program."""

    contractions: list[int]
    inputs: list[int]


def _alone(flat: FlatProgram) -> dict[Edge, _Alone]:
    """For every operand of a sum what is there for it alone, if there is anything."""
    alone: dict[Edge, _Alone] = {}
    tree = PostDominators()
    ways = {value: [tree.EXIT] for value in flat.results}
    for place in reversed(range(len(flat.nodes))):
        node = flat.nodes[place]
        here = tree.meet(way for value in node.outs for way in ways.get(value, ()))
        summed = flat_program.is_sum(node.op)
        for side, value in enumerate(node.ins):
            if value is not None:
                ways.setdefault(value, []).append(tree.add(here, (place, side)) if summed else here)
        if flat_program.contracts(node.op):
            for edge in tree.through(here):
                alone.setdefault(edge, _Alone([], [])).contractions.append(place)
    for i, value in enumerate(flat.ins):
        for edge in tree.through(tree.meet(ways[value])) if value in ways else ():
            alone.setdefault(edge, _Alone([], [])).inputs.append(i)
    return alone


class _Before:
    """What stands before every value, as sets of bits.

    chain: the values that it is, or is a sum of. made: those that it is made of. behind: those
    that it is made of through a layer. last: the places of the layers that it is made of with no
    other layer between.
    """

    def __init__(self, flat: FlatProgram, layer: Sequence[bool]):
        self.chain = [1 << value for value in range(flat.count)]
        self.made = [1 << value for value in range(flat.count)]
        self.behind, self.last = [0] * flat.count, [0] * flat.count
        for place, node in enumerate(flat.nodes):
            given = [value for value in node.ins if value is not None]
            made = _union(self.made, given)
            behind = made if layer[place] else _union(self.behind, given)
            last = 1 << place if layer[place] else _union(self.last, given)
            chain = _union(self.chain, _streams(node))
            for value in node.outs:
                self.made[value] |= made
                self.behind[value], self.last[value] = behind, last
                self.chain[value] |= chain


def _streams(node: Node) -> list[int]:
    """The operands that go on in the result of a sum, or of what only moves them."""
    if flat_program.is_sum(node.op):
        going_on = node.ins if len(flat_program.sides(node.op)) == 2 else node.ins[:1]
    else:
        going_on = node.ins[:1] if flat_program.moves(node.op) else ()
    return [value for value in going_on if value is not None]


def _union(sets: Sequence[int], values: Sequence[int]) -> int:
    bits = 0
    for value in values:
        bits |= sets[value]
    return bits


def _bits(value: int) -> Iterator[int]:
    while value:
        low = value & -value
        yield low.bit_length() - 1
        value ^= low
