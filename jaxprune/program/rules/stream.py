"""Readers of a stream: each may keep its own channels while the stream stays wide."""

from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.base import Axes, Exactness, Known, Rule, described
from jaxprune.program.traits import Trait


def select_inputs(op: Op) -> list[Axes]:
    """The selected axis is a new space; whether it may differ from the stream is decided later."""
    axes, axis = list(op.ins[0]), op.params["axis"]
    axes[axis] = ax.fresh(op.out_shapes[0][axis])
    return [axes]


def select_inputs_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Channels that the reader has pruned are not zero in the stream."""
    zeros = list(known[0].zeros)
    axis = op.params["axis"]
    zeros[axis] &= exact.groups(op.outs[0][axis])
    return [Known(tuple(zeros), known[0].value)]


RULES = described(
    {"select_inputs": Rule(select_inputs, select_inputs_zeros)},
    {},
    every=Trait.MARKS | Trait.AS_IS | Trait.MOVES | Trait.ORDERED | Trait.LINEAR,
)
