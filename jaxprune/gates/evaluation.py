"""A program evaluated with something done where it is marked: gates, probes, taps, statistics."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import jax

from jaxprune.graph import ChannelGraph
from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.running import evaluator
from jaxprune.running.evaluator import Noted

T = TypeVar("T")
Given = Mapping[Any, Any]
"""Arrays that marked operations are given, by key: gates, probes."""
Enter = Callable[[Op, list[Any], Given], list[Any]]
"""`(op, operands, given) -> operands`, before a marked operation is applied."""
Leave = Callable[[Op, list[Any], list[Any]], Noted]
"""`(op, operands, results) -> what is noted`, after it."""
NOTHING: Given = MappingProxyType({})


class Marked(Generic[T]):
    """Operations with what they are marked for, and the operations that have some inside."""

    def __init__(self, marks: Iterable[tuple[Op, T]]):
        self._at: dict[int, list[T]] = {}
        self.around: set[int] = set()
        for op, mark in marks:
            self._at.setdefault(id(op), []).append(mark)
            self.around |= {id(other) for other in op.around}

    def at(self, op: Op) -> Sequence[T]:
        """Returns the marks of an operation."""
        return self._at.get(id(op), ())


def evaluate(
    here: ChannelGraph,
    marked: Marked[Any],
    args: Sequence[Any],
    *,
    enter: Enter | None = None,
    leave: Leave | None = None,
    onward: Enter | None = None,
    given: Given = NOTHING,
    stacks: Given = NOTHING,
) -> tuple[Any, Noted]:
    """Returns the outputs of a program, and what was noted at the marked operations.

    `onward` says what goes on of the results of a marked operation, once they are noted.

    What holds no mark is applied as it is, with its own derivative. `stacks` says of what is
    `given` whose layers it has: the steps of that scan are given the rows of their own layers.
    """

    def runner(given: Given) -> evaluator.Run:
        def again(walk: Walk, args: Sequence[Any]) -> tuple[list[Any], Noted]:
            return evaluator.run(walk, args, apply)

        def apply(op: Op, args: list[Any]) -> tuple[list[Any], Noted]:
            if enter and marked.at(op):
                args = enter(op, args, given)
            if id(op) in marked.around:
                own = [key for key in given if stacks.get(key) is op]
                if own:

                    def inside(step: Sequence[Any]) -> evaluator.Run:
                        return runner({**given, **dict(zip(own, step, strict=True))})

                    rows = [given[key] for key in own]
                    outs, noted = evaluator.scan(inside, op, args, rows)
                else:
                    outs, noted = evaluator.CONTROL[op.form](again, op, args)
            else:
                outs, noted = jaxpr.bind(op.eqn, args, op.eqn.params), {}
            noted = noted | leave(op, args, outs) if leave and marked.at(op) else noted
            return onward(op, outs, given) if onward and marked.at(op) else outs, noted

        return again

    outs, noted = runner(given)(here.walk, args)
    return jax.tree.unflatten(jax.tree.structure(here.output), outs), noted
