"""Scans over stacked layers, followed layer by layer as if these stood one after the other."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

from jaxprune.graph import ChannelGraph
from jaxprune.keep.check import Keep
from jaxprune.program.interpret import Domain, Steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.traits import Form

T = TypeVar("T")
At = tuple[int, ...]
"""Which layer of each scan around an operation, outermost first; () outside of scans."""


def at_layer(graph: ChannelGraph, keep: Keep, scan: Op, layer: int) -> dict[str, Any]:
    """Returns the masks of one layer: of groups with bool[layers, n] along `scan` its bool[n]."""
    return {
        name: mask[layer] if mask.ndim == 2 and stack_of(graph, name) is scan else mask
        for name, mask in keep.items()
    }


def stack_of(graph: ChannelGraph, group: str) -> Any:
    """Returns what makes the layers of which each has its own channels of a group, None if none."""
    return graph.groups[group].slots[0].atom.layers


class Layered(Domain[T]):
    """A domain that follows scans which step over the rows of a variable, as stacked layers do.

    Loops of other kinds, such as over time, and branches are operations like any other.

    at: the layer that is followed now. followed: the scans that were, by `id`.
    """

    def __init__(self) -> None:
        self.at: At = ()
        self.followed = set[int]()

    @abstractmethod
    def is_variable(self, item: T) -> bool:
        """Returns whether an array is a variable whose entries were only moved."""

    @abstractmethod
    def rows(self, item: T, length: int) -> list[T]:
        """Returns the rows of a stacked array."""

    @abstractmethod
    def stacked(self, rows: Sequence[T]) -> T:
        """Returns the array that is stacked of rows."""

    def apply(self, op: Op, ins: list[T]) -> Sequence[T]:
        """Returns the results of any operation."""
        if op.form is Form.SCAN or (op.form is not None and op.form.calls):
            return super().apply(op, ins)
        return self.compute(op, ins)

    def scan(self, op: Op, ins: list[T], steps: Steps) -> Sequence[T]:
        """Returns the results of a scan."""
        first = steps.constants + steps.carry
        length = op.params["length"]
        if not length or not any(self.is_variable(item) for item in ins[first:]):
            return self.compute(op, ins)
        self.followed.add(id(op))
        fixed, carry = ins[: steps.constants], ins[steps.constants : first]
        given = list(zip(*(self.rows(item, length) for item in ins[first:]), strict=True))
        made: dict[int, list[T]] = {}
        for layer in reversed(range(length)) if op.params["reverse"] else range(length):
            outs = self.layer(op, layer, [*fixed, *carry, *given[layer]])
            carry, made[layer] = outs[: steps.carry], outs[steps.carry :]
        columns = zip(*(made[layer] for layer in range(length)), strict=True)
        return [*carry, *(self.stacked(rows) for rows in columns)]

    def layer(self, op: Op, layer: int, ins: list[T]) -> list[T]:
        """Returns the results of one step of a scan."""
        self.at = (*self.at, layer)
        outs = self.run(op.inner[0], ins)
        self.at = self.at[:-1]
        return outs
