"""Streams whose readers keep their own channels, as in pre-activation ResNets and DenseNets.

Source: Liu et al., Network Slimming, ICCV 2017, section 3 (the channel selection layer).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.numbers import is_integer
from jaxprune.errors import TraceError
from jaxprune.program import jaxpr, reasons, traced_spaces
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.program.reasons import Reason
from jaxprune.program.relate import Walk
from jaxprune.program.spaces import Space
from jaxprune.program.traits import Trait


def select_inputs(x: jax.Array, reader: str, *, axis: int = -1) -> jax.Array:
    """Returns `x`, marked: what reads the result may keep its own channels of the stream `x`.

    The mark costs nothing at run time. `jp.trace` gives the reader a channel group of its own
    where others read the stream too, or where it joins several layers; else nothing changes.

    Args:
      x: the stream.
      reader: a name for the group, for example that of the layer that reads.
      axis: the channels.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> v = {"stem": np.ones((2, 4)), "one": np.ones((4, 3)), "two": np.ones((4, 3))}
      >>> def fn(v, x):
      ...     x = x @ v["stem"]
      ...     first, second = jp.select_inputs(x, "first"), jp.select_inputs(x, "second")
      ...     return first @ v["one"] + second @ v["two"]
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> {name: group.size for name, group in graph.groups.items()}
      {'first': 4, 'stem': 4, 'second': 4}
    """
    if not hasattr(x, "ndim") or not hasattr(x, "dtype"):
        raise TraceError(f"select_inputs: x must be an array, got {kind_of(x)}.\nFix: the stream.")
    if not isinstance(reader, str):
        raise TraceError(
            f"select_inputs: reader must be a name, got {kind_of(reader)}.\nFix: reader='norm'."
        )
    if not (is_integer(axis) and -x.ndim <= axis < x.ndim):
        raise TraceError(
            f"select_inputs: axis {axis!r} is none of an array of {x.ndim} axes.\nFix: axis=-1."
        )
    return take(x, None, reader, axis=axis)


def take(
    x: jax.Array, indices: tuple[int, ...] | None, reader: str, *, axis: int = -1
) -> jax.Array:
    """Returns the channels `indices` of `x`, marked as what the reader keeps; None for all."""
    return jaxpr.SELECT_INPUTS.bind(x, axis=axis % x.ndim, indices=indices, reader=reader)


class Reading(NamedTuple):
    """What one or more marks in a row take of a value.

    root: the variable of the program in front of the marks.
    stream, reader: the channel axis of the root and of the result.
    indices: int[k], the channels of the root that are taken; None for all.
    """

    name: str
    root: Any
    stream: Space
    reader: Space
    indices: np.ndarray | None

    def kept(self, keep: Mapping[str, Any]) -> np.ndarray:
        """bool[k]: which channels the reader keeps."""
        return np.asarray(ax.select(self.reader, keep))

    def missing(self, keep: Mapping[str, Any]) -> np.ndarray:
        """int[m]: the channels that the reader keeps and the stream does not have."""
        stream = np.asarray(ax.select(self.stream, keep))
        offered = stream if self.indices is None else stream[self.indices]
        return np.flatnonzero(self.kept(keep) & ~offered)

    def positions(self, keep: Mapping[str, Any]) -> tuple[int, ...] | None:
        """The positions of the reader's channels among those that the stream keeps."""
        stream = np.asarray(ax.select(self.stream, keep))
        wanted = np.arange(stream.size) if self.indices is None else self.indices
        places = (np.cumsum(stream) - 1)[wanted[self.kept(keep)]]
        whole = places.size == stream.sum() and np.array_equal(places, np.arange(places.size))
        return None if whole else tuple(places.tolist())


def reading(op: Op, before: Reading | None = None) -> Reading:
    """Returns what a mark takes, of the root of the marks before it."""
    axis, taken = op.params["axis"], op.params["indices"]
    taken = None if taken is None else np.asarray(taken)
    root = op.eqn.invars[0] if before is None else before.root
    stream = op.ins[0][axis] if before is None else before.stream
    indices = compose(None if before is None else before.indices, taken)
    return Reading(op.params["reader"], root, stream, op.outs[0][axis], indices)


def compose(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    """Returns the indices that two selections in a row take; None for all."""
    if first is None or second is None:
        return second if first is None else first
    return first[second]


def readings(walk: Walk) -> dict[Any, Reading]:
    """Returns {variable: reading} of the marks of a program, without those of inner programs."""
    by_variable: dict[Any, Reading] = {}
    for op in walk.ops:
        if Trait.MARKS in op.traits:
            by_variable[op.eqn.outvars[0]] = reading(op, by_variable.get(op.eqn.invars[0]))
    return by_variable


def everywhere(walk: Walk) -> Iterator[Reading]:
    """Yields the last reading of every row of marks, inner programs too."""
    by_variable = readings(walk)
    again = {op.eqn.invars[0] for op in walk.ops if Trait.MARKS in op.traits}
    yield from (reading for var, reading in by_variable.items() if var not in again)
    for op in walk.ops:
        for inner in op.inner:
            yield from everywhere(inner)


def selecting(walk: Walk) -> Iterator[Reading]:
    """Yields the readings whose channels are not simply those of the stream."""
    for reading in everywhere(walk):
        if reading.indices is not None or not _alike(reading.stream, reading.reader):
            yield reading


def tie(walk: Walk) -> None:
    """Ties readers that read a private value: the output of one layer that nothing else reads."""
    reads = Counter(
        var
        for atoms in (*(op.eqn.invars for op in walk.ops), walk.program.outvars)
        for var in atoms
        if not jaxpr.is_literal(var)
    )
    makers = {var: op for op in walk.ops for var in op.eqn.outvars}
    readers = {var: op for op in walk.ops for var in op.eqn.invars if not jaxpr.is_literal(var)}
    for op in walk.ops:
        for inner in op.inner:
            tie(inner)
        if Trait.MARKS in op.traits and op.params["indices"] is None:
            (var,), (result,) = op.eqn.invars, op.eqn.outvars
            marked_again = reads[result] == 1 and Trait.MARKS in readers.get(result, op).traits
            if marked_again or _private(var, reads, makers):
                _same(op)


def _private(var: Any, reads: Mapping[Any, int], makers: Mapping[Any, Op]) -> bool:
    while reads[var] == 1 and var in makers:
        op = makers[var]
        made = Trait.CONTRACTS in op.traits and any(op.sources)
        if made or Trait.MARKS in op.traits:
            return True
        pairs = zip(op.eqn.invars, op.sources, strict=True)
        activations = [atom for atom, source in pairs if source is None]
        if len(activations) != 1:
            return False
        (var,) = activations
    return False


def tie_immovable(walk: Walk, variables: Iterable[Iterable[Space]]) -> None:
    """Ties readers whose channels cannot be pruned, until there are none; ties none twice."""
    spaces = [space for axes in variables for space in axes]
    marks = [op for op in every_op(walk) if Trait.MARKS in op.traits and not _is_tied(op)]
    while marks:
        free = {atom for atom in traced_spaces.distinct(spaces) if atom.reason is None}
        whole = [op for op in marks if not set(ax.atoms(_reader(op))) <= free]
        if not whole:
            return
        marks = [op for op in marks if op not in whole]
        for op in whole:
            _same(op)


def _reader(op: Op) -> Space:
    return op.outs[0][op.params["axis"]]


def _is_tied(op: Op) -> bool:
    return _alike(op.ins[0][op.params["axis"]], _reader(op))


def _alike(a: Space, b: Space) -> bool:
    return list(ax.atoms(a)) == list(ax.atoms(b))


def _same(op: Op) -> None:
    """Makes a reader's channels those of the stream."""
    stream = op.ins[0][op.params["axis"]]
    if op.params["indices"] is None:
        ax.unify(stream, _reader(op), op)
    else:
        ax.freeze(stream, Reason(reasons.READ_IN_PARTS, at=op))
