"""Which arrays of a program are a variable whose entries were only moved."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Op
from jaxprune.program.traits import Trait
from jaxprune.recover.layers import At, Layered


class View(NamedTuple):
    """The variable that an array rearranges: entry i is its entry `order[i]`, flattened."""

    path: str
    shape: tuple[int, ...]
    order: np.ndarray

    def rows(self) -> "list[View]":
        """Returns the views of the rows of the array."""
        return [self._replace(order=order) for order in self.order]


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


Uses = dict[str, np.ndarray]
"""{path: int[...], how many operations, or outputs, read each entry of a variable}."""


def count(uses: Uses, read: Iterable[View | None]) -> None:
    """Notes the entries that one operation reads, each once."""
    by_path: dict[str, list[View]] = {}
    for view in read:
        if view is not None:
            by_path.setdefault(view.path, []).append(view)
    for path, same in by_path.items():
        entries = uses.setdefault(path, np.zeros(same[0].shape, np.int32)).reshape(-1)
        entries[np.concatenate([view.order.reshape(-1) for view in same])] += 1


class Views(Layered[View | None]):
    """What the contractions of a program read as it is in the variables.

    operands: {(id(op), layer): the view of every operand, None where it is none}, in the order in
    which they are computed.
    """

    def __init__(self, graph: ChannelGraph):
        super().__init__()
        self.operands: dict[tuple[int, At], list[View | None]] = {}
        self.uses: Uses = {}
        arrays: list[View | None] = [whole(p, v.shape) for p, v in graph.variables.items()]
        arrays += [None] * (len(graph.walk.program.invars) - len(arrays))
        count(self.uses, self.run(graph.walk, arrays))

    def literal(self, value: Any, atom: Any, op: Op | None) -> None:
        """A number is not a variable."""

    def constant(self, value: Any, var: Any, axes: Any) -> None:
        """A constant is none."""

    def is_variable(self, item: View | None) -> bool:
        """True of a view."""
        return item is not None

    def rows(self, item: View | None, length: int) -> list[View | None]:
        """Returns the views of the rows."""
        return [None] * length if item is None else list(item.rows())

    def stacked(self, rows: Sequence[View | None]) -> View | None:
        """What is put together again is read."""
        count(self.uses, rows)

    def compute(self, op: Op, ins: list[View | None]) -> Sequence[View | None]:
        """Returns the results of one operation."""
        if rearranges(op):
            return [None if ins[0] is None else moved(op, ins[0])]
        count(self.uses, ins)
        if Trait.CONTRACTS in op.traits:
            self.operands[id(op), self.at] = ins
        return [None] * len(op.eqn.outvars)
