"""Which inputs and results of two programs are the same, where one lacks some of the other."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.without_branches import Without
from jaxprune.program.jaxpr import Program


class Both(NamedTuple):
    """Of the traced program and the other one, which inputs pair up and which results do."""

    ins: tuple[Sequence[bool], Sequence[bool]]
    outs: tuple[Sequence[bool], Sequence[bool]]

    @classmethod
    def of(cls, ours: Program, other: Program) -> "Both":
        """Returns all of them."""
        ins, outs = (
            [[True] * len(x) for x in pair] for pair in zip(*map(_ends, (ours, other)), strict=True)
        )
        return cls((ins[0], ins[1]), (outs[0], outs[1]))

    @classmethod
    def left(cls, graph: ChannelGraph, without: Without, other: Program) -> "Both":
        """Returns what is left of a graph, and all of the other program."""
        ours, (ins, outs) = graph.walk.program, _ends(other)
        stay = [i not in without.inputs for i in range(len(ours.invars))]
        left = [i not in without.outputs for i in range(len(ours.outvars))]
        return cls((stay, [True] * len(ins)), (left, [True] * len(outs)))


def _ends(program: Program) -> tuple[Sequence[object], Sequence[object]]:
    return program.invars, program.outvars
