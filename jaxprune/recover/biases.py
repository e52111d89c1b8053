"""Constants that readers should add: which of them a bias can take, and the biases that do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.keep.check import Keep
from jaxprune.program.jaxpr import Op
from jaxprune.recover.layers import At
from jaxprune.recover.leaves import plus
from jaxprune.recover.partial import zero
from jaxprune.recover.readers import Reader, contractions, on_result
from jaxprune.recover.shifts import Origin, Shifts, pruned_entries

Array = np.ndarray
Leaves = Mapping[str, Any]


Given = Mapping[tuple[int, At], tuple[str, Array]]
"""{operation, by `id`, and layer: a name and what its result is to exceed}."""


class Births(Shifts):
    """Shifts that are born where they are given."""

    def __init__(self, graph: ChannelGraph, pruned: Keep, births: Given):
        super().__init__(graph, pruned)
        self.births = births

    def born(self, op: Op, ins: Sequence[Any]) -> Iterator[tuple[Origin, list[Any]]]:
        """Yields the given shift of a result."""
        del ins
        if (id(op), self.at) in self.births:
            name, values = self.births[id(op), self.at]
            shift = np.broadcast_to(values, op.out_shapes[0]).astype(op.eqn.outvars[0].aval.dtype)
            yield Origin(name, name, False), [zero(shift, pruned_entries(op.outs[0], self.pruned))]


def takers(graph: ChannelGraph, leaves: Leaves, keep: Keep, readers: Sequence[Reader]) -> list[str]:
    """Returns which readers can have a constant added to every output: for each "" or why not.

    Every reader is tried, with numbers that tell its outputs apart.
    """
    rng = np.random.default_rng(0)
    trial = [rng.uniform(1, 2, (*r.index.shape[::2],)) for r in readers]
    run = _run(graph, leaves, keep, readers, trial)
    run.finish()
    failures = {o.group: o.why or "" for o in run.outcomes if not o.exact}
    taken = {o.group for o in run.outcomes if o.into}
    absent = "nothing that is added or subtracted follows"
    names = [str(i) for i in range(len(readers))]
    return [failures.get(name, "" if name in taken else absent) for name in names]


def added(
    graph: ChannelGraph,
    leaves: Leaves,
    keep: Keep,
    readers: Sequence[Reader],
    constants: Sequence[Array],
) -> dict[str, Any]:
    """Returns {path: new value} of the biases and running means that take f64[blocks, O] each."""
    deltas = _run(graph, leaves, keep, readers, constants).finish()
    return {path: plus(leaves[path], d) for path, d in deltas.items()}


def _run(
    graph: ChannelGraph,
    leaves: Leaves,
    keep: Keep,
    readers: Sequence[Reader],
    constants: Sequence[Array],
) -> Births:
    run = Births(graph, keep, births_of(graph, readers, constants))
    run.start({path: leaves[path] for path in graph.variables})
    return run


def births_of(
    graph: ChannelGraph, readers: Sequence[Reader], constants: Sequence[Array]
) -> dict[tuple[int, At], tuple[str, Array]]:
    """Returns the shifts of f64[blocks, O] of each reader, named by its place in `readers`."""
    ops = [op for op, _ in contractions(graph)]
    return {
        (id(ops[reader.number]), reader.at): (str(i), on_result(reader, values))
        for i, (reader, values) in enumerate(zip(readers, constants, strict=True))
    }
