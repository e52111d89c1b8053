"""Updates of stacks, such as caches, that end in the steps of a scan that lose a branch.

An update of a variable, or of state, that a scan steps over has a row for every step. Where a step
loses a branch its row ends if it depends on what only the branch had use for, or is made of nothing
but its own row, such as a counter, that only the branch read. The stack loses the same rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.carried import twins
from jaxprune.inspecting.stacked_rows import stepped
from jaxprune.program import jaxpr
from jaxprune.program.flat_program import INLINED, FlatProgram
from jaxprune.program.interpret import steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.liveness import Cuts, Live, Run, tainted
from jaxprune.program.relate import Walk
from jaxprune.program.traits import Form, Trait


class Faded(NamedTuple):
    """The steps in which a scan gives no row of one of its results: bool[steps]."""

    scan: Op
    result: int
    steps: np.ndarray


def faded(graph: ChannelGraph, counts: Sequence[bool], cuts: Cuts) -> dict[int, Faded]:
    """Returns {output: in which steps it ends} of the updates that end in some.

    `counts` says which outputs are needed in any case.
    """
    walk = graph.walk
    after = Live(walk, counts, cuts)
    uncut = {
        op: {side: np.zeros_like(which) for side, which in sides.items()}
        for op, sides in cuts.items()
        if op.scans
    }
    before = Live(walk, counts, uncut)
    found = {}
    for i, twin in enumerate(twins(graph)):
        place = None if twin is None else _row_of_step(walk, walk.program.outvars[i])
        if twin is None or place is None or place[0] not in after.runs:
            continue
        scan, result = place
        home = stepped(graph).get(twin)
        if home is None or home[0] is not scan:
            continue
        ends = np.zeros(scan.params["length"], bool)
        for run in after.runs[scan]:
            ends[run.start : run.stop] = _ends(scan, result, home[1], run, before)
        if ends.any():
            found[i] = Faded(scan, result, ends)
    return found


def _ends(scan: Op, result: int, operand: int, run: Run, before: Live) -> bool:
    """True if a row depends on what is gone, or is all that reads the row that it updates."""
    body = scan.inner[0]
    if tainted(body, before.ops & run.idle, run.cuts)[result]:
        return True
    if run.reads[operand] or not before.runs[scan][0].reads[operand]:
        return False
    flat, made = made_of(body)
    value = flat.outs[result]
    return value is not None and made.get(value) == 1 << operand


def made_of(walk: Walk) -> tuple[FlatProgram, Mapping[int, int]]:
    """Returns a program without calls, and of which of its inputs every value is made, as bits."""
    flat = FlatProgram(walk, [True] * len(walk.program.outvars))
    made = {value: 1 << i for i, value in enumerate(flat.ins)}
    for node in flat.nodes:
        bits = 0
        for value in node.ins:
            bits |= 0 if value is None else made.get(value, 0)
        made.update(dict.fromkeys(node.outs, bits))
    return flat, made


def _row_of_step(walk: Walk, var: Any) -> tuple[Op, int] | None:
    """The scan that stacks up a value, and which of its results it is; None where there is none."""
    if jaxpr.is_literal(var):
        return None
    for op in walk.ops:
        if var not in op.eqn.outvars:
            continue
        result = op.eqn.outvars.index(var)
        if op.form in INLINED:
            return _row_of_step(op.inner[0], op.inner[0].program.outvars[result])
        if Trait.AS_IS in op.traits:
            return _row_of_step(walk, op.eqn.invars[0])
        stacked = op.form is Form.SCAN and result >= steps(op).carry
        return (op, result) if stacked else None
    return None
