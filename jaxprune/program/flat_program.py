"""A program without calls: what is called is a part of it, and only what counts is left."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jaxprune.program import jaxpr
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.traits import Form, Trait

INLINED = (Form.CALL, Form.REMAT)
"""Forms whose programs are a part of the program around them."""


class Node(NamedTuple):
    """An operation; its operands are values, None for a number of the code."""

    op: Op
    ins: tuple[int | None, ...]
    outs: tuple[int, ...]


class FlatProgram:
    """A program whose calls are inlined.

    Attributes:
      nodes: the operations that its `results` need, in order; a loop is one of them.
      ins, outs: its inputs and outputs, None for a number. results: the outputs that count.
      used: for every value the places of the nodes that read it, with the operand.
      count: how many values there are.
    """

    def __init__(self, walk: Walk, counts: Sequence[bool]):
        self.count = 0
        self.nodes: list[Node] = []
        self.ins = [self._value() for _ in walk.program.invars]
        self.outs = self._flatten(walk, self.ins)
        pairs = zip(self.outs, counts, strict=True)
        self.results = {value for value, counted in pairs if counted and value is not None}
        self._drop_unused()
        self.used: dict[int, list[tuple[int, int]]] = {}
        for place, node in enumerate(self.nodes):
            for side, value in enumerate(node.ins):
                if value is not None:
                    self.used.setdefault(value, []).append((place, side))

    def single_use(self, value: int) -> tuple[int, int] | None:
        """Returns the node that alone reads a value, with the operand."""
        users = self.used.get(value, ())
        return users[0] if len(users) == 1 and value not in self.results else None

    def is_read(self, value: int) -> bool:
        """True if a node reads a value, or it is a result."""
        return value in self.used or value in self.results

    def _value(self) -> int:
        self.count += 1
        return self.count - 1

    def _flatten(self, walk: Walk, ins: Sequence[int | None]) -> list[int | None]:
        """Adds the operations of a program; those of its calls are among them."""
        program = walk.program
        env: dict[Any, int | None] = dict(zip(program.invars, ins, strict=True))
        env.update((var, self._value()) for var in program.constvars)

        def read(atoms: Iterable[Any]) -> list[int | None]:
            return [None if jaxpr.is_literal(atom) else env[atom] for atom in atoms]

        for op in walk.ops:
            given = read(op.eqn.invars)
            if op.form in INLINED:
                env.update(zip(op.eqn.outvars, self._flatten(op.inner[0], given), strict=True))
                continue
            outs = tuple(self._value() for _ in op.eqn.outvars)
            env.update(zip(op.eqn.outvars, outs, strict=True))
            self.nodes.append(Node(op, tuple(given), outs))
        return read(program.outvars)

    def _drop_unused(self) -> None:
        live, kept = set(self.results), []
        for node in reversed(self.nodes):
            if not live.isdisjoint(node.outs):
                live.update(value for value in node.ins if value is not None)
                kept.append(node)
        self.nodes = kept[::-1]


def is_sum(op: Op) -> bool:
    """True of the sum or the difference of two activations of one shape."""
    if op.rule is None or op.rule.weights not in ((1, 1), (1, -1)):
        return False
    left, right = map(jaxpr.shape, op.eqn.invars)
    return left == right and all(source is None for source in op.sources)


def sides(op: Op) -> tuple[int, ...]:
    """Returns which operands of a sum can go: not that from which another one is subtracted."""
    return (0, 1) if op.rule is not None and op.rule.weights == (1, 1) else (1,)


def moves(op: Op) -> bool:
    """True if the result is the operand, in another place or of another type."""
    if not op.traits & (Trait.AS_IS | Trait.MOVES):
        return False
    return op.ins[0] == [] or _size(op.ins[0]) == _size(op.outs[0])


def scales(op: Op, operand: int) -> bool:
    """True if an operand that is zero makes the result zero, entry by entry."""
    multiplies = Trait.MULTIPLIES in op.traits and Trait.ENTRYWISE in op.traits
    return multiplies or (Trait.DIVIDES in op.traits and operand == 0)


def is_layer(op: Op) -> bool:
    """True of a contraction of an activation with a variable, or what holds one."""
    return any(map(_with_variable, _all(op)))


def contracts(op: Op) -> bool:
    """True of a contraction, or what holds one."""
    return any(Trait.CONTRACTS in item.traits for item in _all(op))


def pairs_activations(op: Op) -> bool:
    """True of a contraction of two activations, or what holds one."""
    return any(
        Trait.CONTRACTS in item.traits and all(source is None for source in item.sources)
        for item in _all(op)
    )


def kernels(op: Op) -> set[int]:
    """Returns the variables that a layer contracts, as places in the tree."""
    layers = filter(_with_variable, _all(op))
    return {i for layer in layers for source in layer.sources for i in source or ()}


def _with_variable(op: Op) -> bool:
    return Trait.CONTRACTS in op.traits and None in op.sources and any(op.sources)


def _all(op: Op) -> list[Op]:
    return [op, *(item for walk in op.inner for item in every_op(walk))]


def _size(axes: Sequence[Any]) -> int:
    size = 1
    for space in axes:
        size *= space.size
    return size
