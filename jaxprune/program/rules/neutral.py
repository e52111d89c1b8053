"""What takes no part: the value of an operand at pruned indices that leaves the result as it is.

Along most axes the entries stay apart, so that it does not matter what pruned ones are. Where an
operation brings entries together, in a sum, a maximum, a choice, one value does not count.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum, auto
from typing import NamedTuple

from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.contraction import pairs
from jaxprune.program.rules.pointing import ordered
from jaxprune.program.rules.reduction import reduced


class Neutral(Enum):
    """A value that takes no part."""

    ZERO = auto()
    ONE = auto()
    LOWEST = auto()
    HIGHEST = auto()
    NONE = auto()
    """There is no such value."""


class Meeting(NamedTuple):
    """Entries of an operand that come together along an axis, with what does not count there."""

    operand: int
    axis: int
    value: Neutral


Meetings = Callable[[Op, Neutral], Iterator[Meeting]]


def along(op: Op, value: Neutral) -> Iterator[Meeting]:
    """Every operand, along the axes that are reduced."""
    for operand in range(len(op.out_shapes)):
        for axis in reduced(op):
            yield Meeting(operand, axis, value)


def running(op: Op, value: Neutral) -> Iterator[Meeting]:
    """The operand, along its axis."""
    yield Meeting(0, op.params["axis"], value)


def chosen(op: Op, value: Neutral) -> Iterator[Meeting]:
    """The operand, along the ordered axis."""
    yield Meeting(0, ordered(op), value)


def products(op: Op, value: Neutral) -> Iterator[Meeting]:
    """Both operands, along the axes that are summed, and the sizes of groups."""
    for left, right in pairs(op):
        yield Meeting(0, left, value)
        yield Meeting(1, right, value)
    if len(op.ins) == 3:
        yield Meeting(2, len(op.ins[2]) - 1, value)


def written(op: Op, value: Neutral) -> Iterator[Meeting]:
    """What is written, along the places that the indices choose."""
    windows = op.params["dimension_numbers"].update_window_dims
    for axis in range(len(op.ins[2])):
        if axis not in windows:
            yield Meeting(2, axis, value)


_TABLE: Mapping[str, tuple[Meetings, Neutral]] = {
    "reduce_sum reduce_or reduce_xor psum psum_invariant": (along, Neutral.ZERO),
    "reduce_max argmax pmax": (along, Neutral.LOWEST),
    "reduce_min argmin pmin": (along, Neutral.HIGHEST),
    "reduce_prod": (along, Neutral.ONE),
    "reduce_and": (along, Neutral.ONE),
    "cumsum": (running, Neutral.ZERO),
    "cumprod": (running, Neutral.ONE),
    "cummax cumlogsumexp": (running, Neutral.LOWEST),
    "cummin": (running, Neutral.HIGHEST),
    "top_k approx_top_k": (chosen, Neutral.LOWEST),
    "dot_general conv_general_dilated ragged_dot_general": (products, Neutral.ZERO),
    "scatter-add scatter-sub": (written, Neutral.ZERO),
    "scatter-mul": (written, Neutral.ONE),
    "scatter-max": (written, Neutral.LOWEST),
    "scatter-min": (written, Neutral.HIGHEST),
    "scatter": (written, Neutral.NONE),
}
_MEETINGS = {name: entry for names, entry in _TABLE.items() for name in names.split()}


def meetings(op: Op) -> Iterator[Meeting]:
    """Yields where entries of the operands of an operation come together."""
    if op.name in _MEETINGS:
        meets, value = _MEETINGS[op.name]
        yield from meets(op, value)
