"""Two programs side by side: every equation must be the traced one at the sizes of now."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import compress, islice, zip_longest
from typing import Any, NamedTuple, NoReturn

import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.without_branches import Without
from jaxprune.keep.kept import Kept
from jaxprune.program import jaxpr, removed_values, stream_readers, used_values
from jaxprune.program.interpret import steps
from jaxprune.program.jaxpr import Op, Program
from jaxprune.program.relate import Walk
from jaxprune.program.rules import random, repeated
from jaxprune.program.spaces import Space
from jaxprune.program.static import Static
from jaxprune.program.stream_readers import Reading
from jaxprune.program.traits import NOTHING, Form, Trait
from jaxprune.program.used_values import Live
from jaxprune.running import contraction_order, values, wrapped_indices
from jaxprune.running.compared import Changed
from jaxprune.running.paired import Both


class _DifferenceError(Exception):
    """An equation that differs: (operation or None, what differs)."""


def widths(kept: Kept) -> str:
    """Returns which widths they are, in a word."""
    return "kept" if prunes(kept) else "traced"


def prunes(kept: Kept) -> bool:
    """True if any channel goes."""
    return not all(mask.all() for mask in kept.keep.values())


class Outcome(NamedTuple):
    """How far a program is the traced one.

    steps: how many operations agree. difference: the first operation that differs, None for what
    is returned, and what differs; None if nothing does. changed, draws: in what it may differ.
    """

    steps: int
    difference: tuple[Op | None, str] | None
    changed: list[Changed]
    draws: list[str]


def beside(graph: ChannelGraph, kept: Kept, program: Program, *, partial: bool = False) -> Outcome:
    """Returns how far a program is that of the graph at the kept sizes.

    A `partial` one ends where the code raised. Zeros in the place of what was removed are followed.
    """
    run = _Lockstep(graph, kept, partial=partial)
    if kept.without is not None:
        program, _ = removed_values.folded(program, graph.rules)
    difference = run.difference(program)
    return Outcome(run.steps, difference, run.changed, run.draws)


_IN_PART = (Form.CALL, Form.REMAT, Form.SCAN)
"""Of what these run a part may be left."""
_SAME_IN_PART = ("reverse", "unroll", "policy", "prevent_cse")


class _Lockstep:
    """Two programs, operation by operation; a `partial` one ends where the code raised."""

    def __init__(self, graph: ChannelGraph, kept: Kept, *, partial: bool = False):
        self.graph = graph
        self.kept = kept
        self.partial = partial
        self.steps = 0
        self.walk: Walk | None = None
        self.static: Static | None = None
        self.live = Live(None)
        self.widths = widths(kept)
        self.changed: list[Changed] = []
        self.draws: list[str] = []
        self.twins: dict[Any, Any] = {}
        self.readings: dict[Any, Reading] = {}
        self.taken: dict[Any, tuple[Any, np.ndarray | None]] = {}
        self.paths = list(graph.variables)
        self.near = ""
        self.without: Without | None = kept.without
        self.cuts = kept.cuts

    def difference(self, program: Program) -> tuple[Op | None, str] | None:
        """Compares with a program; returns the first operation that differs, and what differs."""
        both = None
        if self.without is not None:
            both = Both.left(self.graph, self.without, program)
        try:
            self.programs(self.graph.walk, program, None, both)
        except _DifferenceError as difference:
            op, text = difference.args
            return op, text + (contraction_order.hint(op) if op else "") + self.near
        if self.changed and not prunes(self.kept):
            first = self.changed[0]
            return first.op, f"reads the constant {first.after:.6g}, it was {first.before:.6g}"
        return None

    def shape(self, axes: list[Space]) -> tuple[int, ...]:
        return tuple(map(self.kept.size, axes))

    def programs(
        self, walk: Walk, other: Program, caller: Op | None, both: Both | None = None
    ) -> None:
        """Compares what the results in use, by default all, depend on."""
        outside, self.walk = (self.walk, self.static, self.live), walk
        other = repeated.joined(other)
        self.static = Static(other, self.graph.rules, {})
        ins, outs = both or Both.of(walk.program, other)
        used = None
        if not self.partial:
            used = self.needed(walk, outs[0]) | _live(other, outs[1])
        self.live = Live(used)
        ours, other = self.live.without_dead(walk.program), self.live.without_dead(other)
        pairs = zip(compress(ours.invars, ins[0]), compress(other.invars, ins[1]), strict=False)
        self.twins.update(pairs)
        self.constants(walk, ours, other, caller)
        self.readings.update(stream_readers.readings(walk))
        ops, eqns = self.that_compute(walk), self.equations_that_compute(other)
        for op, eqn in zip_longest(ops, eqns):
            if op is None:
                _refuse(walk.ops[-1] if walk.ops else caller, f"is followed by {_show(eqn)}")
            if eqn is None:
                _refuse(op, "is missing")
            noted = len(self.changed)
            try:
                self.equation(op, eqn)
            except _DifferenceError:
                if (lengths := self.reordered(ours, other, op, eqn)) is None:
                    raise
                del self.changed[noted:]
                for items, length in zip((ops, eqns), lengths, strict=True):
                    deque(islice(items, length - 1), maxlen=0)
        results, theirs = (
            list(compress(ours.outvars, outs[0])),
            list(compress(other.outvars, outs[1])),
        )
        if len(results) != len(theirs):
            _refuse(caller, f"gave {len(results)} results, now {len(theirs)}")
        for a, b in zip(results, theirs, strict=True):
            self.operand(walk.ops[-1] if walk.ops else caller, None, a, b)
        self.walk, self.static, self.live = outside

    def needed(self, walk: Walk, wanted: Sequence[bool]) -> set[Any]:
        """The values of the traced program that the results in use depend on."""
        live = None if self.without is None else self.without.live.values(walk)
        return _live(walk.program, wanted) if live is None else live

    def that_compute(self, walk: Walk) -> Iterator[Op]:
        """Yields the operations that compute at the kept widths."""
        for op in walk.ops:
            if self.live.is_dead(op.eqn):
                continue
            if op in self.cuts:
                self.is_operand(op, 1 - self.cuts[op])
            elif self.repeats_once(op.eqn, *map(self.shape, (*op.ins[:1], *op.outs[:1]))):
                self.is_operand(op, 0)
            elif Trait.MARKS not in op.traits:
                yield op

    def is_operand(self, op: Op, i: int) -> None:
        """Notes that the result of an operation is one of its operands."""
        a, b = op.eqn.invars[i], op.eqn.outvars[0]
        self.twins[b] = self.twins.get(a)
        if a in self.readings:
            self.readings[b] = self.readings[a]

    def equations_that_compute(self, other: Program) -> Iterator[Any]:
        """Yields the equations that compute; notes which channels the others take."""
        for eqn in other.eqns:
            if self.repeats_once(eqn, *map(jaxpr.shape, (*eqn.invars[:1], *eqn.outvars[:1]))):
                self.taken[eqn.outvars[0]] = self.taken.get(eqn.invars[0], (eqn.invars[0], None))
            elif Trait.MARKS not in self.traits(eqn):
                yield eqn
            else:
                root, taken = self.taken.get(eqn.invars[0], (eqn.invars[0], None))
                indices = eqn.params["indices"]
                indices = None if indices is None else np.asarray(indices)
                self.taken[eqn.outvars[0]] = root, stream_readers.compose(taken, indices)

    def repeats_once(self, eqn: Any, *shapes: tuple[int, ...]) -> bool:
        """True for a broadcast that changes nothing: JAX leaves it out where a width is 1."""
        broadcasts = Trait.BROADCASTS in self.traits(eqn)
        return broadcasts and len(shapes) == 2 and shapes[0] == shapes[1]

    def traits(self, eqn: Any) -> Trait:
        """What an equation of either program does with values."""
        rule = self.graph.rules.get(jaxpr.name(eqn))
        return NOTHING if rule is None else rule.traits

    def constants(self, walk: Walk, ours: Program, other: Program, caller: Op | None) -> None:
        if len(ours.constvars) != len(other.constvars) and not self.partial:
            _refuse(caller, f"has {len(ours.consts)} constants, now {len(other.consts)}")
        self.twins.update(zip(ours.constvars, other.constvars, strict=not self.partial))
        spaces = dict(zip(walk.program.constvars, walk.consts, strict=True))
        axes = [spaces[var] for var in ours.constvars]
        for a, b, where in zip(ours.consts, other.consts, axes, strict=not self.partial):
            if a is not b and not np.array_equal(self.cut(a, where), values.host(b)):
                text = f"has a constant of shape {np.shape(a)}, now {np.shape(b)} or other values"
                _refuse(caller, text)

    def cut(self, constant: Any, axes: list[Space]) -> np.ndarray:
        """A constant at the kept sizes; whole where every layer keeps its own channels."""
        array = values.host(constant)
        for axis, indices in enumerate(map(self.kept.indices, axes)):
            if indices is not None and indices.ndim == 1:
                array = np.take(array, indices, axis)
        return array

    def equation(self, op: Op, eqn: Any) -> None:
        for source in op.sources:
            if source is not None and len(source) == 1:
                self.near = f" (near the variable {self.paths[min(source)]})"
        if self.without is not None and op.form in _IN_PART and op.name == jaxpr.name(eqn):
            self.in_part(op, eqn)
            return
        if op.name != jaxpr.name(eqn) or len(op.ins) != len(eqn.invars):
            _refuse(op, f"became {_show(eqn)}")
        if len(op.outs) != len(eqn.outvars):
            _refuse(op, f"gave {len(op.outs)} results, now {len(eqn.outvars)}")
        self.operands(op, eqn)
        used = self.either(op.eqn.outvars, eqn.outvars)
        expected = self.results(op, eqn, (used, used))
        self.parameters(op, eqn)
        self.draw(op, expected)
        self.twins.update(zip(op.eqn.outvars, eqn.outvars, strict=True))
        self.steps += 1
        inner = jaxpr.programs(eqn)
        if len(inner) != len(op.inner):
            _refuse(op, f"calls {len(op.inner)} programs, now {len(inner)}")
        wanted = map(_any, self.live.results(op.eqn), self.live.results(eqn))
        for walk, program, outs in zip(op.inner, inner, wanted, strict=True):
            whole = Both.of(walk.program, program)
            self.programs(walk, program, op, whole._replace(outs=(outs, outs)))

    def results(self, op: Op, eqn: Any, used: tuple[Sequence[bool], Sequence[bool]]) -> list[Any]:
        """Compares the shapes of the results in use, and returns those of the traced one."""
        expected = [self.shape(axes) for axes in compress(op.outs, used[0])]
        shapes = [jaxpr.shape(var) for var in compress(eqn.outvars, used[1])]
        if expected != shapes:
            here = f"at the {self.widths} widths"
            _refuse(op, f"should give {_list(expected)} {here}, gives {_list(shapes)}")
        return expected

    def in_part(self, op: Op, eqn: Any) -> None:
        """Compares a call of which only a part may be left, with what that reads and gives."""
        (walk,), (program,) = op.inner, jaxpr.programs(eqn)
        wanted = self.live.reads(op.eqn.outvars), self.live.reads(eqn.outvars)
        carry = range(0)
        if op.form is Form.SCAN:
            n, m = steps(op)
            carry = range(n, n + m)
            wanted = [True] * m + wanted[0][m:], [True] * m + wanted[1][m:]
        needed = self.needed(walk, wanted[0]), _live(program, wanted[1])
        ours, theirs = (
            [i in carry or var in values for i, var in enumerate(each.invars)]
            for each, values in zip((walk.program, program), needed, strict=True)
        )
        given = ours, theirs
        read = [
            list(compress(each.invars, flags))
            for each, flags in zip((op.eqn, eqn), given, strict=True)
        ]
        if len(read[0]) != len(read[1]):
            _refuse(op, f"reads {len(read[0])} values, now {len(read[1])}")
        for i, (a, b) in enumerate(zip(*read, strict=True)):
            self.operand(op, i, a, b)
        self.results(op, eqn, wanted)
        self.parameters(op, eqn)
        outs = (
            compress(each.outvars, flags) for each, flags in zip((op.eqn, eqn), wanted, strict=True)
        )
        self.twins.update(zip(*outs, strict=True))
        self.steps += 1
        self.programs(walk, program, op, Both(given, wanted))

    def either(self, ours: Sequence[Any], theirs: Sequence[Any]) -> list[bool]:
        """Which values anything depends on, in one of the programs."""
        return _any(self.live.reads(ours), self.live.reads(theirs))

    def reordered(self, ours: Program, other: Program, op: Op, eqn: Any) -> tuple[int, int] | None:
        """How long the chains of contractions are that begin here and compute the same, if any."""
        theirs = list(contraction_order.chains(other, self.graph.rules, eqn))
        for run, product in contraction_order.chains(ours, self.graph.rules, op.eqn):
            for twins, computed in theirs:
                if contraction_order.same(product, computed, self.alike):
                    self.twins[run[-1].outvars[0]] = twins[-1].outvars[0]
                    self.steps += len(run)
                    return len(run), len(twins)
        return None

    def alike(self, a: Any, b: Any) -> bool:
        """True if a chain of contractions reads the same value."""
        if jaxpr.is_literal(a) or jaxpr.is_literal(b):
            return np.array_equal(jaxpr.literal(a), jaxpr.literal(b))
        try:
            self.value(None, a, b)
        except _DifferenceError:
            return False
        return True

    def draw(self, op: Op, shapes: list[tuple[int, ...]]) -> None:
        """Notes what the resized network draws anew: it has other numbers, not only fewer."""
        if Trait.DRAWS in op.traits and any(
            self.kept.mask(space) is not None for space in random.drawn(op)
        ):
            self.draws.append(f"{op!r} at {op.place} became {_list(shapes)}")

    def operands(self, op: Op, eqn: Any) -> None:
        follow = wrapped_indices.following(op, self.kept)
        read = self.either(op.eqn.invars, eqn.invars)
        for i, (a, b) in enumerate(zip(op.eqn.invars, eqn.invars, strict=True)):
            if i in follow:
                self.start(op, follow[i], b)
            elif read[i]:
                self.operand(op, i, a, b)

    def operand(self, op: Op | None, position: int | None, a: Any, b: Any) -> None:
        if not jaxpr.is_literal(a):
            self.value(op, a, b)
            return
        if not jaxpr.is_literal(b):
            _refuse(op, "reads a value where it read a constant")
        before, after = jaxpr.literal(a), jaxpr.literal(b)
        if np.array_equal(before, after, equal_nan=values.is_float(before)):
            return
        if op and self.walk and wrapped_indices.may_follow(self.walk, op, before, after, self.kept):
            return
        numbers = values.is_float(before) and values.is_float(after)
        if not numbers or (op and Trait.COMPARES in op.traits):  # a bound, such as a capacity
            _refuse(op, f"reads the constant {after}, it was {before}")
        self.changed.append(Changed(op, position, float(before), float(after)))

    def start(self, op: Op, expected: Any, b: Any) -> None:
        place = self.static and self.static.value(b)
        if place is None or not np.array_equal(place, expected):
            here = f"at the {self.widths} widths"
            _refuse(op, f"should start its window at {expected} {here}, starts it at {place}")

    def value(self, op: Op | None, a: Any, b: Any) -> None:
        reading = None if jaxpr.is_literal(b) else self.readings.get(a)
        root, taken = (b, None) if jaxpr.is_literal(b) else self.taken.get(b, (b, None))
        if self.twins.get(reading.root if reading else a) is not root:
            _refuse(op, "reads another value than before")
        wanted = reading.positions(self.kept.keep) if reading else None
        if (None if taken is None else tuple(taken.tolist())) != wanted:
            _refuse(op, f"should read the channels {wanted} of its stream, reads {taken}")

    def parameters(self, op: Op, eqn: Any) -> None:
        counts = Trait.COUNTS in op.traits and op.points[0] is None
        counts = counts and not op.tracer.diagonals.counted & {*op.eqn.outvars}
        if counts and self.kept.indices(op.outs[0][op.params["dimension"]]) is not None:
            _refuse(op, "counts along channels that are pruned, of which it would count anew")
        expected = op.eqn.params | (op.rule.params(op, self.kept.size) if op.rule else {})
        if self.without is not None and op.form in _IN_PART:
            expected = {key: expected[key] for key in _SAME_IN_PART if key in expected}
        if op.form is Form.SCAN and self.without is not None:
            expected["length"] = self.kept.length(op)
        for key, value in expected.items():
            other = eqn.params.get(key)
            if values.plain(value) and values.plain(other) and not values.same(value, other):
                here = f"at the {self.widths} widths"
                _refuse(op, f"should have {key}={value} {here}, has {other}")


def _any(a: Sequence[bool], b: Sequence[bool]) -> list[bool]:
    return [x or y for x, y in zip(a, b, strict=False)]


def _live(program: Program, wanted: Sequence[bool]) -> set[Any]:
    return used_values.live(program, compress(program.outvars, wanted))


def _refuse(op: Op | None, text: str) -> NoReturn:
    raise _DifferenceError(op, text)


def _show(eqn: Any) -> str:
    return f"{Op(eqn)!r} at {jaxpr.place(eqn, '')}"


def _list(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes)
