"""Sums in which what a reader writes meets a shortcut, whose error it can make up for."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.gates.sites import UNTAPPED
from jaxprune.graph import ChannelGraph
from jaxprune.keep.check import Keep
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.recover.biases import Births, Given, Leaves, births_of
from jaxprune.recover.layers import At
from jaxprune.recover.readers import Reader
from jaxprune.recover.shifts import Origin, is_sum
from jaxprune.stats.readings import written_matrix

Array = np.ndarray


class Sum(NamedTuple):
    """A sum that a reader's outputs reach, times a factor f32[blocks, O], as they are otherwise.

    number: which operation of the program it is; at: the layer in which it stands.
    """

    number: int
    at: At
    factor: Array


class _Met(Births):
    """What one more in the result of a reader adds to the first sum with another activation."""

    def __init__(self, graph: ChannelGraph, pruned: Keep, births: Given):
        super().__init__(graph, pruned, births)
        self.met: dict[str, list[tuple[Op, At, Array]]] = {}

    def folded(self, op: Op, ins: Sequence[Any]) -> bool:
        """Passes biases by."""
        del op, ins
        return False

    def carried(self, op: Op, ins: Sequence[Any]) -> Iterator[tuple[Origin, list[Any]]]:
        """Yields the shifts behind an operation; those that meet another activation end there."""
        if not is_sum(op):
            yield from super().carried(op, ins)
            return
        left = list(ins)
        for which, (item, other) in enumerate(zip(ins, reversed(ins), strict=True)):
            for origin, shift in item.shifts.items():
                if np.any(other.part.varies):
                    ours = shift * op.rule.weights[which]
                    met = (op, self.at, np.asarray(ours))
                    self.met.setdefault(origin.group, []).append(met)
                    rest = {o: s for o, s in left[which].shifts.items() if o != origin}
                    left[which] = left[which]._replace(shifts=rest)
        yield from super().carried(op, left)


def find_sums(
    graph: ChannelGraph, leaves: Leaves, keep: Keep, readers: Sequence[Reader]
) -> dict[int, Sum]:
    """Returns {place in `readers`: the sum with a shortcut that it is the last reader before}.

    Only factors of outputs may stand between, such as a BatchNorm.
    """
    ones = [np.ones(reader.written.shape) for reader in readers]
    run = _Met(graph, keep, births_of(graph, readers, ones))
    run.start({path: leaves[path] for path in graph.variables})
    numbers = {id(op): i for i, op in enumerate(every_op(graph.walk))}
    places: dict[tuple[int, At], int] = {}
    sums: dict[int, Sum] = {}
    for i, reader in enumerate(readers):
        met = run.met.get(str(i), [])
        if len(met) != 1:
            continue
        op, at, shift = met[0]
        factor = _factor(reader, op, shift)
        if factor is not None:
            number = numbers[id(op)]
            sums.pop(places.get((number, at), -1), None)
            places[number, at] = i
            sums[i] = Sum(number, at, factor)
    return sums


def _factor(reader: Reader, op: Op, shift: Array) -> Array | None:
    """The factor of every output, if it is the same in all rows."""
    assert reader.reading.op is not None
    shape = reader.reading.op.out_shapes[0]
    if op.out_shapes[0] != shape or any(other.form in UNTAPPED for other in op.around):
        return None
    rows = np.asarray(written_matrix(reader.with_results(np.broadcast_to(shift, shape))))
    return rows[:, 0] if np.allclose(rows, rows[:, :1], rtol=1e-5) else None
