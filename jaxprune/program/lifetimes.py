"""When the values of a program are alive in memory, as far as its order and fusion tell.

Most operations are fused: a compiler computes their results where they are read. Such a result is
kept only if what reads it cannot take it in, if several read it, or if it is an output.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxprune.program import jaxpr
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.liveness import Live, Run
from jaxprune.program.relate import Walk
from jaxprune.program.spaces import Space
from jaxprune.program.traits import Form, Trait

FUSED = Trait.ENTRYWISE | Trait.MOVES | Trait.PARTS | Trait.COUNTS
"""What is computed where it is read."""
TAKES_IN = FUSED | Trait.SUMS | Trait.MAXIMUM
"""What computes its operands as it reads them."""
AGAIN = Trait.BROADCASTS | Trait.COUNTS
"""What is computed again by each of several readers."""


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes: a factor times the sizes of spaces, equal to others by its `key`."""

    factor: int
    key: frozenset[Any]
    spaces: tuple[Space, ...] = field(compare=False)


class Time(NamedTuple):
    """What is alive at once: sizes with how often, and one of the times of a program inside."""

    sizes: frozenset[tuple[Size, int]]
    inside: tuple["Time", ...] = ()


class Part(NamedTuple):
    """What of a program runs: all but what is `idle`.

    cuts: {sum: the operand that is taken out}. runs: {scan: its steps, by what is taken out}.
    """

    idle: frozenset[Op]
    cuts: Mapping[Op, int]
    runs: Mapping[Op, Sequence[Run]]

    @classmethod
    def of(cls, live: Live, walk: Walk) -> "Part":
        """Returns what is live of a program."""
        return cls(live.idle(walk), live.cuts, live.runs)


def times(walk: Walk, part: Part, lost: Iterable[int] = ()) -> tuple[Time, ...]:
    """Returns what is alive at each time of a program whose inputs are its caller's.

    `lost`: places of outputs that are not made.
    """
    flat = _Flat(part)
    outs = flat.flatten(walk, list(map(flat.outer, walk.program.invars, walk.ins)))
    gone = set(lost)
    return _Lifetimes(flat, [out for i, out in enumerate(outs) if i not in gone]).times()


class _Node(NamedTuple):
    """An operation; its operands and results are places among the values."""

    op: Op
    ins: tuple[int, ...]
    outs: tuple[int, ...]


class _Flat:
    """A program whose calls are inlined; what moves nothing in memory is its operand.

    Attributes:
      nodes: its operations, in order. sizes: of its values. outside: the caller's values.
    """

    def __init__(self, part: Part):
        self.part = part
        self.nodes: list[_Node] = []
        self.sizes: list[Size] = []
        self.outside: set[int] = set()

    def value(self, atom: Any, axes: Sequence[Space]) -> int:
        """Adds a value."""
        self.sizes.append(_size(atom, axes))
        return len(self.sizes) - 1

    def outer(self, atom: Any, axes: Sequence[Space]) -> int:
        """Adds a value of the caller."""
        found = self.value(atom, axes)
        self.outside.add(found)
        return found

    def flatten(self, walk: Walk, ins: Sequence[int]) -> list[int]:
        """Adds the operations of a program; returns its results."""
        program = walk.program
        env: dict[Any, int] = dict(zip(program.invars, ins, strict=True))

        def read(atom: Any) -> int:
            if not jaxpr.is_literal(atom) and atom in env:
                return env[atom]
            return self.outer(atom, [ax.Atom(size) for size in jaxpr.shape(atom)])

        for op in walk.ops:
            if op in self.part.idle:
                continue
            given = tuple(map(read, op.eqn.invars))
            if op in self.part.cuts:
                outs = [given[1 - self.part.cuts[op]]]
            elif op.inner and op.form is not None and (op.form.calls or op.form is Form.SHARD_MAP):
                outs = self.flatten(op.inner[0], given)
            elif _in_place(op):
                outs = [given[0]]
            else:
                outs = list(map(self.value, op.eqn.outvars, op.outs))
                self.nodes.append(_Node(op, given, tuple(outs)))
            env.update(zip(op.eqn.outvars, outs, strict=True))
        return list(map(read, program.outvars))


class _Lifetimes:
    """The values of a program that are kept, each from its operation to the last that reads it.

    roots: for every value those kept that it is computed from, itself if it is kept.
    places: those of them that it is entrywise in.
    last: for every kept value the node that reads it last.
    """

    def __init__(
        self,
        flat: _Flat,
        made: Sequence[int],
        taken: Sequence[int] = (),
        given: Sequence[int] = (),
    ):
        """`made`: outputs that are kept; `taken`: those that are read; `given`: its own inputs."""
        self.flat, self.made = flat, made
        self.readers: dict[int, set[int]] = {}
        for i, node in enumerate(flat.nodes):
            for value in node.ins:
                self.readers.setdefault(value, set()).add(i)
        self.taken, self.forced = frozenset(taken), frozenset(made)
        self.given = [v for v in given if v in self.readers or v in {*made, *taken}]
        self.roots: dict[int, frozenset[int]] = {v: frozenset([v]) for v in self.given}
        self.places = dict(self.roots)
        self.last: dict[int, int] = {}
        for i, node in enumerate(flat.nodes):
            self._add(i, node)
        for value in (*made, *taken):
            self.last.update(dict.fromkeys(self._roots([value]), len(flat.nodes)))

    def _add(self, i: int, node: _Node) -> None:
        roots, entrywise = self._roots(node.ins), Trait.ENTRYWISE in node.op.traits
        places = self._places(node.ins if entrywise else ())
        kept = [out for out in node.outs if self._is_kept(node.op, out)]
        for out in node.outs:
            itself = frozenset([out])
            self.roots[out] = itself if out in kept else roots
            self.places[out] = itself if out in kept else places
        if kept:
            self.last.update(dict.fromkeys(roots, i))

    def _roots(self, values: Iterable[int]) -> frozenset[int]:
        return frozenset().union(*(self.roots.get(value, ()) for value in values))

    def _places(self, values: Iterable[int]) -> frozenset[int]:
        return frozenset().union(*(self.places.get(value, ()) for value in values))

    def _is_kept(self, op: Op, value: int) -> bool:
        readers = [self.flat.nodes[i].op for i in self.readers.get(value, ())]
        if not op.traits & FUSED or value in self.forced:
            return True
        if not all(reader.traits & TAKES_IN for reader in readers):
            return True
        return len(readers) + (value in self.taken) > 1 and not op.traits & AGAIN

    def times(self) -> tuple[Time, ...]:
        """Returns what is alive at each time."""
        alive = dict.fromkeys(self.given)
        found = [self._time(alive)]
        for i, node in enumerate(self.flat.nodes):
            kept = [out for out in node.outs if self.roots[out] == frozenset([out])]
            if not kept:
                continue
            if node.op.inner:
                found.append(self._around(i, node, alive))
                alive.update(dict.fromkeys(kept))
            else:
                self._replace(i, node, kept, alive)
                found.append(self._time(alive))
            for value in [v for v in alive if self.last.get(v, -1) <= i]:
                del alive[value]
        copies = [out for out in self.made if out in self.flat.outside]
        found.append(self._time([*alive, *copies]))
        return _distinct(found)

    def _replace(self, i: int, node: _Node, kept: Sequence[int], alive: dict[int, None]) -> None:
        """Adds results, in the place of operands where they may be."""
        updates = Trait.STARTS in node.op.traits and Trait.HOMOGENEOUS not in node.op.traits
        entrywise = Trait.ENTRYWISE in node.op.traits
        places = self._places(node.ins if entrywise else node.ins[:1] if updates else ())
        free = [v for v in alive if v in places and self.last[v] <= i]
        for out in kept:
            size = self.flat.sizes[out]
            if (old := next((v for v in free if self.flat.sizes[v] == size), None)) is not None:
                free.remove(old)
                del alive[old]
            alive[out] = None

    def _around(self, i: int, node: _Node, alive: Mapping[int, None]) -> Time:
        """What is alive while an operation runs its programs."""
        op = node.op
        if op.form is Form.COND:
            branches = (self._inside(walk, self.flat.part, len(walk.ins)) for walk in op.inner)
            return self._time(alive, tuple(time for branch in branches for time in branch))
        constants, carry = steps(op)
        moved = node.ins[constants : constants + carry]
        left = [v for v in alive if v not in moved or self.last[v] > i]
        if op.form is Form.SCAN:
            parts = [
                self.flat.part._replace(idle=self.flat.part.idle | run.idle, cuts=run.cuts)
                for run in self.flat.part.runs.get(op, ())
            ]
            bodies = (
                self._inside(op.inner[0], part, constants, carry)
                for part in parts or [self.flat.part]
            )
            stacked = node.outs[carry:]
            return self._time([*left, *stacked], tuple(t for body in bodies for t in body))
        first = op.params["cond_nconsts"]
        test = self._inside(op.inner[0], self.flat.part, first, hold=True)
        body = self._inside(op.inner[1], self.flat.part, constants - first)
        return self._time(left, (*test, *body))

    def _inside(
        self,
        walk: Walk,
        part: Part,
        constants: int,
        carry: int | None = None,
        *,
        hold: bool = False,
    ) -> tuple[Time, ...]:
        """The times of a program whose inputs after the constants are its own."""
        flat = _Flat(part)
        pairs = list(zip(walk.program.invars, walk.ins, strict=True))
        outer = [flat.outer(*pair) for pair in pairs[:constants]]
        given = [flat.value(*pair) for pair in pairs[constants:]]
        outs = flat.flatten(walk, [*outer, *given])
        made, taken = outs[:carry], [] if carry is None else outs[carry:]
        return _Lifetimes(flat, [*made, *(given if hold else ())], taken, given).times()

    def _time(self, values: Iterable[int], inside: tuple[Time, ...] = ()) -> Time:
        sizes = Counter(self.flat.sizes[value] for value in values)
        return Time(frozenset(sizes.items()), inside)


def _distinct(found: Iterable[Time]) -> tuple[Time, ...]:
    """Leaves out what is less than the time before it."""
    kept: list[Time] = []
    for time in found:
        if kept and _within(kept[-1], time):
            kept.pop()
        if not kept or not _within(time, kept[-1]):
            kept.append(time)
    return tuple(kept)


def _within(a: Time, b: Time) -> bool:
    more = Counter(dict(a.sizes))
    more.subtract(dict(b.sizes))
    return not a.inside and max(more.values(), default=0) <= 0


def _in_place(op: Op) -> bool:
    """True if the result lies in memory as the operand does."""
    if Trait.MOVES | Trait.ORDERED not in op.traits or Trait.MARKS in op.traits:
        return False
    return math.prod(jaxpr.shape(op.eqn.invars[0])) == math.prod(op.out_shapes[0])


def _size(atom: Any, axes: Sequence[Space]) -> Size:
    dtype = getattr(atom.aval, "dtype", None)
    factor, keys, spaces = (0 if dtype is None else dtype.itemsize), Counter[Any](), []
    left = list(axes)
    while left:
        space = ax.find(left.pop())
        if type(space) is ax.Prod:
            left.extend(space.factors)
        elif any(atom.name for atom in ax.atoms(space)):
            spaces.append(space)
            keys[_key(space)] += 1
        else:
            factor *= space.size
    return Size(factor, frozenset(keys.items()), tuple(spaces))


def _key(space: Space) -> Any:
    """What is equal for spaces of the same size at all widths."""
    space = ax.find(space)
    if type(space) is ax.Atom:
        return space.name or space.size
    if type(space) is ax.Sum:
        return ("+", *map(_key, space.parts))
    return ("*", *map(_key, space.factors))
