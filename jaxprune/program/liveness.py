"""What of a program is needed for some of its outputs, where operands of sums are taken out."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxprune.program import jaxpr
from jaxprune.program.flat_program import INLINED
from jaxprune.program.interpret import every_op, steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.traits import Form

Cuts = Mapping[Op, Mapping[int, Any]]
"""{sum: {operand: True where it is taken out, bool[steps] of a sum in the body of a scan}}."""

Faded = Mapping[Op, Mapping[int, Any]]
"""{scan: {result: bool[steps], in which steps it is not needed}}; of these something is cut."""


class Run(NamedTuple):
    """Steps of a scan that have the same operations: from `start` to before `stop`.

    cuts: {sum: the operand that is taken out}. idle: the operations that nothing needs. reads: of
    every input of the body whether it is needed.
    """

    start: int
    stop: int
    cuts: Mapping[Op, int]
    idle: frozenset[Op]
    reads: tuple[bool, ...]


class Live:
    """What a program needs for the outputs that are `wanted`.

    Attributes:
      reads: of every input whether it is needed.
      ops: the operations that are needed; those in a scan, in all of its steps.
      sometimes: those too that only some steps of a scan need.
      runs: {scan: its steps}, of the scans in which something is taken out.
      carries: {scan: of every carry whether it is needed}.
      cuts: {sum: the operand that is taken out}, outside of such scans.
    """

    def __init__(
        self, walk: Walk, wanted: Sequence[bool], cuts: Cuts, faded: Faded = MappingProxyType({})
    ):
        self._faded = faded
        self._cuts = {op: sides for op, sides in cuts.items() if sides}
        self._around = {around for op in self._cuts for around in op.around}
        self.ops: set[Op] = set()
        self.sometimes: set[Op] = set()
        self.runs: dict[Op, list[Run]] = {}
        self.carries: dict[Op, list[bool]] = {}
        self._values: dict[int, set[Any]] = {}
        whole = {op: sides for op, sides in self._cuts.items() if not op.scans}
        self.cuts = {op: next(iter(sides)) for op, sides in whole.items()}
        self.reads = self._walk(walk, wanted, self.cuts, self.ops)
        self.sometimes |= self.ops

    def values(self, walk: Walk) -> set[Any] | None:
        """Returns the values that are needed; None of a program that is evaluated as a whole."""
        return self._values.get(id(walk))

    def idle(self, walk: Walk) -> frozenset[Op]:
        """Returns the operations that no step needs, but those inside of others."""
        return frozenset(op for op in every_op(walk) if op not in self.sometimes)

    def _walk(
        self, walk: Walk, wanted: Sequence[bool], cuts: Mapping[Op, int], needed: set[Op]
    ) -> list[bool]:
        """Returns which inputs are needed, and adds the operations that are to `needed`."""
        program = walk.program
        live = _named(program.outvars, wanted)
        for op in reversed(walk.ops):
            outs = [var in live for var in op.eqn.outvars]
            if not any(outs):
                continue
            needed.add(op)
            if op in cuts:
                given = [i != cuts[op] for i in range(len(op.eqn.invars))]
            elif op.form in INLINED:
                given = self._walk(op.inner[0], outs, cuts, needed)
            elif op.form is Form.SCAN:
                given = self._scan(op, outs, cuts, needed)
            else:
                needed.update(inner for walk in op.inner for inner in every_op(walk))
                given = [True] * len(op.eqn.invars)
            live |= _named(op.eqn.invars, given)
        self._values.setdefault(id(walk), set()).update(live)
        return [var in live for var in program.invars]

    def _scan(
        self, op: Op, outs: Sequence[bool], cuts: Mapping[Op, int], needed: set[Op]
    ) -> list[bool]:
        """A carry is needed if a step needs it, or it is needed after the last one."""
        n, m = steps(op)
        carry = list(outs[:m])
        while True:
            pieces = [
                self._run(op, start, stop, [*carry, *outs[m:]], cuts)
                for start, stop in self._pieces(op)
            ]
            reads = [any(flags) for flags in zip(*(run.reads for run, _ in pieces), strict=True)]
            wider = [a or b for a, b in zip(carry, reads[n : n + m], strict=True)]
            if wider == carry:
                break
            carry = wider
        self.carries[op] = carry
        if op in self._around:
            self.runs[op] = [run for run, _ in pieces]
        needed |= set.intersection(*(ops for _, ops in pieces))
        self.sometimes |= set.union(*(ops for _, ops in pieces))
        return [*reads[:n], *carry, *reads[n + m :]]

    def _run(
        self, op: Op, start: int, stop: int, wanted: Sequence[bool], outside: Mapping[Op, int]
    ) -> tuple[Run, set[Op]]:
        cuts = dict(outside)
        for inner, sides in self._cuts.items():
            if op not in inner.around:
                continue
            gone = [side for side, which in sides.items() if _at(which, start)]
            if gone:
                cuts[inner] = gone[0]
        needed: set[Op] = set()
        ends = self._faded.get(op, {})
        wanted = [flag and not (i in ends and ends[i][start]) for i, flag in enumerate(wanted)]
        reads = self._walk(op.inner[0], wanted, cuts, needed)
        idle = frozenset(item for item in every_op(op.inner[0]) if item not in needed)
        return Run(start, stop, cuts, idle, tuple(reads)), needed

    def _pieces(self, op: Op) -> list[tuple[int, int]]:
        """The steps of a scan, from change to change of what is taken out."""
        length = op.params["length"]
        ends = {length}
        for inner, sides in self._cuts.items():
            for which in sides.values() if op in inner.around else ():
                ends.update(_changes(which))
        stops = sorted(ends)
        return list(zip([0, *stops[:-1]], stops, strict=True))


def _changes(which: Any) -> Iterable[int]:
    return (np.flatnonzero(np.diff(which)) + 1).tolist() if np.ndim(which) else ()


def _at(which: Any, step: int) -> bool:
    return bool(which[step] if np.ndim(which) else which)


def _named(atoms: Sequence[Any], flags: Sequence[bool]) -> set[Any]:
    pairs = zip(atoms, flags, strict=True)
    return {atom for atom, flag in pairs if flag and not jaxpr.is_literal(atom)}


def tainted(walk: Walk, gone: set[Op], cuts: Mapping[Op, int]) -> list[bool]:
    """For every output of a program whether an operation that is `gone` is among what makes it."""
    return _tainted(walk, [False] * len(walk.program.invars), gone, cuts)


def _tainted(walk: Walk, ins: Sequence[bool], gone: set[Op], cuts: Mapping[Op, int]) -> list[bool]:
    program = walk.program
    bad = _named(program.invars, ins)
    for op in walk.ops:
        given = [not jaxpr.is_literal(x) and x in bad for x in op.eqn.invars]
        if op in gone:
            outs = [True] * len(op.eqn.outvars)
        elif op in cuts:
            outs = [given[1 - cuts[op]]]
        elif op.form in INLINED:
            outs = _tainted(op.inner[0], given, gone, cuts)
        elif op.form is Form.SCAN:
            outs = _in_steps(op, given, gone, cuts)
        else:
            outs = [any(given)] * len(op.eqn.outvars)
        bad |= _named(op.eqn.outvars, outs)
    return [not jaxpr.is_literal(x) and x in bad for x in program.outvars]


def _in_steps(op: Op, given: list[bool], gone: set[Op], cuts: Mapping[Op, int]) -> list[bool]:
    n, m = steps(op)
    while True:
        outs = _tainted(op.inner[0], given, gone, cuts)
        wider = [a or b for a, b in zip(given[n : n + m], outs[:m], strict=True)]
        if wider == given[n : n + m]:
            return outs
        given = [*given[:n], *wider, *given[n + m :]]
