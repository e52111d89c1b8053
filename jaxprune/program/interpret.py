"""One loop over a program for all that follows values through it, and over all its operations."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.spaces import Space
from jaxprune.program.traits import Form

T = TypeVar("T")


def every_op(walk: Walk) -> Iterator[Op]:
    """Yields the operations of a program in its order, each before those of its inner programs."""
    for op in walk.ops:
        yield op
        for inner in op.inner:
            yield from every_op(inner)


class Steps(NamedTuple):
    """How many operands of a loop are constants and carry; the rest is stacked, a row per step."""

    constants: int
    carry: int


def steps(op: Op) -> Steps:
    """Returns the constants and the carry of a scan, or of the body of a while loop."""
    if op.form is Form.SCAN:
        return Steps(op.params["num_consts"], op.params["num_carry"])
    before = op.params["cond_nconsts"] + op.params["body_nconsts"]
    return Steps(before, len(op.eqn.invars) - before)


class Domain(ABC, Generic[T]):
    """What is followed through a program: for every array a value of type T.

    A domain says what constants are and what operations make of their operands; programs inside of
    operations are run by the methods for their form, which a domain may replace.
    """

    @abstractmethod
    def literal(self, value: Any, atom: Any, op: Op | None) -> T:
        """Returns what a literal is, which an operation reads, or the program returns (None)."""

    @abstractmethod
    def constant(self, value: Any, var: Any, axes: Sequence[Space]) -> T:
        """Returns what a constant of a program is."""

    @abstractmethod
    def compute(self, op: Op, ins: list[T]) -> Sequence[T]:
        """Returns the results of an operation that is not its programs."""

    def run(self, walk: Walk, ins: Sequence[T]) -> list[T]:
        """Returns the results of a program."""
        program = walk.program
        env: dict[Any, T] = dict(zip(program.invars, ins, strict=True))
        given = zip(program.constvars, program.consts, walk.consts, strict=True)
        env.update((var, self.constant(value, var, axes)) for var, value, axes in given)
        for op in walk.ops:
            operands = [self._read(env, atom, op) for atom in op.eqn.invars]
            env.update(zip(op.eqn.outvars, self.apply(op, operands), strict=True))
        return [self._read(env, atom, None) for atom in program.outvars]

    def _read(self, env: Mapping[Any, T], atom: Any, op: Op | None) -> T:
        if jaxpr.is_literal(atom):
            return self.literal(jaxpr.literal(atom), atom, op)
        return env[atom]

    def apply(self, op: Op, ins: list[T]) -> Sequence[T]:
        """Returns the results of any operation."""
        form = op.form
        if not op.inner or form is None:
            return self.compute(op, ins)
        if form.calls or form is Form.SHARD_MAP:
            return self.call(op, ins)
        if form is Form.SCAN:
            return self.scan(op, ins, steps(op))
        if form is Form.WHILE:
            return self.loop(op, ins, steps(op))
        branches = [self.run(walk, ins[1:]) for walk in op.inner]
        return [self.join(op, list(cases)) for cases in zip(*branches, strict=True)]

    def call(self, op: Op, ins: list[T]) -> Sequence[T]:
        """Returns the results of an operation that is its program."""
        return self.run(op.inner[0], ins)

    def scan(self, op: Op, ins: list[T], steps: Steps) -> Sequence[T]:
        """Returns the results of a scan."""
        del steps
        return self.compute(op, ins)

    def loop(self, op: Op, ins: list[T], steps: Steps) -> Sequence[T]:
        """Returns the results of a while loop."""
        del steps
        return self.compute(op, ins)

    def join(self, op: Op, cases: list[T]) -> T:
        """Returns what the result of one of several branches is."""
        return self.compute(op, cases)[0]
