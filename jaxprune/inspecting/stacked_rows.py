"""Who reads which rows of variables and state, and which of them nothing reads any more."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.cached import once
from jaxprune.inspecting.carried import carried
from jaxprune.program import jaxpr
from jaxprune.program.flat_program import INLINED
from jaxprune.program.interpret import steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.liveness import Live
from jaxprune.program.relate import Walk
from jaxprune.program.rules.joining import rows_of
from jaxprune.program.traits import Form, Trait

Rows = range | np.ndarray
"""Rows of inputs, counted through all of them; -1 of what is none."""


class _Use(NamedTuple):
    """An operand of an operation that is rows of inputs; no operation where it is a result."""

    rows: Rows
    op: Op | None
    operand: int

    def scan(self) -> Op | None:
        """The scan that takes a row in each step, if it is one."""
        if self.op is None or self.op.form is not Form.SCAN:
            return None
        return self.op if self.operand >= sum(steps(self.op)) else None


def rows_left(graph: ChannelGraph, whole: Live, live: Live) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (place, which of its rows stay) of the variables and state of which some rows go.

    `whole` is what the program needs, `live` what is left of it.
    """
    of = _all_rows(graph)
    uses = _uses(graph)
    stay = _read(uses, live, of) | ~_read(uses, whole, of)
    for place, rows in of.items():
        here = stay[rows.start : rows.stop]
        if not here.all():
            yield place, here


def _read(uses: Sequence[_Use], live: Live, of: Mapping[int, range]) -> np.ndarray:
    """Which rows something reads that is live."""
    read = np.zeros(sum(map(len, of.values())) + 1, bool)  # the last one is that of no input
    for use in uses:
        if use.op is not None and use.op not in live.sometimes:
            continue
        scan = use.scan()
        runs = () if scan is None else live.runs.get(scan, ())
        for run in runs:
            if run.reads[use.operand]:
                read[_index(use.rows[run.start : run.stop])] = True
        if not runs:
            read[_index(use.rows)] = True
    return read


def _index(rows: Rows) -> Any:
    return slice(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows


@once
def stepped(graph: ChannelGraph) -> Mapping[int, tuple[Op, int]]:
    """Returns {place: scan, operand} of the inputs that nothing but one scan steps over."""
    of, readers = _all_rows(graph), {}
    places, ends = list(of), [rows.stop for rows in of.values()]
    for use in _uses(graph):
        for i in np.unique(np.searchsorted(ends, use.rows, side="right")):
            readers.setdefault(places[i], []).append(use)
    return {
        place: (scan, uses[0].operand)
        for place, rows in of.items()
        if len(uses := readers.get(place, ())) == 1
        and (scan := uses[0].scan()) is not None
        and np.array_equal(uses[0].rows, rows)
    }


def _all_rows(graph: ChannelGraph) -> dict[int, range]:
    """{place: the rows of a variable or of state}; one without axes has none."""
    found, count = {}, 0
    for place, item in carried(graph).items():
        size = item.array.shape[0] if item.array.shape else 0
        found[place] = range(count, count + size)
        count += size
    return found


@once
def _uses(graph: ChannelGraph) -> Sequence[_Use]:
    """Who reads rows of variables and state as they are."""
    inputs = graph.walk.program.invars
    given = {inputs[place]: rows for place, rows in _all_rows(graph).items()}
    return list(_readers(graph.walk, given))


def _readers(walk: Walk, given: Mapping[Any, Rows]) -> Iterator[_Use]:
    here = dict(given)
    for op in walk.ops:
        ins = [None if jaxpr.is_literal(x) else here.get(x) for x in op.eqn.invars]
        known = [rows for rows in ins if rows is not None]
        if op.form in INLINED:
            inner = zip(op.inner[0].program.invars, ins, strict=True)
            yield from _readers(op.inner[0], {v: rows for v, rows in inner if rows is not None})
        elif known and (outs := _moved(op, ins)):
            here.update(zip(op.eqn.outvars, outs, strict=True))
        else:
            pairs = enumerate(ins)
            yield from (_Use(rows, op, operand) for operand, rows in pairs if rows is not None)
    results = (here.get(x) for x in walk.program.outvars if not jaxpr.is_literal(x))
    yield from (_Use(rows, None, 0) for rows in results if rows is not None)


def _moved(op: Op, ins: Sequence[Rows | None]) -> list[Rows] | None:
    """The rows of the results of what does nothing but move rows."""
    if Trait.AS_IS in op.traits:
        return [rows for rows in ins[:1] if rows is not None]
    counts = (jaxpr.shape(x)[0] if jaxpr.shape(x) else 0 for x in op.eqn.invars)
    pairs = zip(ins, counts, strict=True)
    return rows_of(op, [np.full(n, -1) if rows is None else rows for rows, n in pairs])
