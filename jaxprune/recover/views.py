"""Which arrays of a program are a variable whose entries were only moved."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.program import jaxpr
from jaxprune.program.interpret import Domain
from jaxprune.program.jaxpr import Op
from jaxprune.program.traits import Trait


class View(NamedTuple):
    """The variable that an array rearranges: entry i is its entry `order[i]`, flattened."""

    path: str
    shape: tuple[int, ...]
    order: np.ndarray


def whole(path: str, shape: tuple[int, ...]) -> View:
    """Returns a variable as it is."""
    size = int(np.prod(shape))
    return View(path, shape, np.arange(size, dtype=np.int32).reshape(shape))


def rearranges(op: Op) -> bool:
    """True if an operation changes no number of its one operand, but its type."""
    return len(op.ins) == 1 and bool(op.traits & (Trait.MOVES | Trait.AS_IS))


def moved(op: Op, view: View) -> View:
    """Returns the view after an operation that rearranges."""
    if Trait.MOVES not in op.traits:
        return view
    (order,) = jaxpr.bind(op.eqn, [view.order], op.eqn.params)
    return view._replace(order=np.asarray(order))


class Views(Domain[View | None]):
    """What the contractions of a program read as it is in the variables.

    operands: {id(op): the view of every operand, None where it is none}. uses: {path: how many
    operations, or outputs, read the variable}.
    """

    def __init__(self, graph: ChannelGraph):
        self.operands: dict[int, list[View | None]] = {}
        self.uses: dict[str, int] = {}
        arrays: list[View | None] = [whole(p, v.shape) for p, v in graph.variables.items()]
        arrays += [None] * (len(graph.walk.program.invars) - len(arrays))
        self.count(self.run(graph.walk, arrays))

    def count(self, ins: Sequence[View | None]) -> None:
        """Notes who is read."""
        for path in {view.path for view in ins if view is not None}:
            self.uses[path] = self.uses.get(path, 0) + 1

    def literal(self, value: Any, atom: Any, op: Op | None) -> None:
        """A number is not a variable."""

    def constant(self, value: Any, var: Any, axes: Any) -> None:
        """A constant is none."""

    def apply(self, op: Op, ins: list[View | None]) -> Sequence[View | None]:
        """Returns the results of any operation; loops and branches are not followed."""
        calls = op.form is not None and op.form.calls
        return self.call(op, ins) if calls else self.compute(op, ins)

    def compute(self, op: Op, ins: list[View | None]) -> Sequence[View | None]:
        """Returns the results of one operation."""
        if rearranges(op):
            return [None if ins[0] is None else moved(op, ins[0])]
        self.count(ins)
        if Trait.CONTRACTS in op.traits:
            self.operands[id(op)] = ins
        return [None] * len(op.eqn.outvars)
