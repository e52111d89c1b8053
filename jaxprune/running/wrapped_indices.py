"""Integers that may follow a size: where a window starts, and what wraps a computed start.

`lax.dynamic_slice` counts a negative start from the end of its axis: JAX adds the size of the axis
to it where it is below zero. At a kept size it adds that size.
"""

from collections.abc import Iterator
from typing import Any

from jaxprune.keep.kept import Kept
from jaxprune.program.jaxpr import Op
from jaxprune.program.pointers import Pointer
from jaxprune.program.relate import Walk
from jaxprune.program.rules import indexing, joining
from jaxprune.program.traits import Trait


def following(op: Op, kept: Kept) -> dict[int, Any]:
    """Returns {operand: its value at the kept sizes} of those that follow them."""
    return op.rule.operands(op, kept.size) if op.rule else {}


def may_follow(walk: Walk, op: Op, before: Any, after: Any, kept: Kept) -> bool:
    """True if an integer that `op` reads may be another one at the kept sizes."""
    pointed = _is_size_of_pointed(op, before, after, kept)
    return pointed or _wraps(walk, op, before, after, kept) or _makes_starts(walk, op, kept)


def _is_size_of_pointed(op: Op, before: Any, after: Any, kept: Kept) -> bool:
    """True of the size of the axis that an operand points into, or its last position."""
    pointed = [] if op.inner else [of.space for of in op.of if isinstance(of, Pointer)]
    sizes = [(space.size, kept.size(space)) for space in pointed]
    return any((full - before, small - after) in ((0, 0), (1, 1)) for full, small in sizes)


def _makes_starts(walk: Walk, op: Op, kept: Kept) -> bool:
    """True if all that reads `op` takes it as where a window starts, and is compared there."""
    results = op.eqn.outvars
    if op.static is None or any(op.static.value(var) is None for var in results):
        return False
    if any(var is result for var in walk.program.outvars for result in results):
        return False
    readers = [
        i in following(reader, kept) or _makes_starts(walk, reader, kept)
        for reader in walk.ops
        for i, atom in enumerate(reader.eqn.invars)
        if any(atom is result for result in results)
    ]
    return bool(readers) and all(readers)


def _wraps(walk: Walk, op: Op, before: Any, after: Any, kept: Kept) -> bool:
    """True if all that reads `op` takes it as the start in an axis of these sizes."""
    sizes = list(_axes(walk, op, kept))
    return bool(sizes) and all(pair == (before, after) for pair in sizes)


def _axes(
    walk: Walk, op: Op, kept: Kept, columns: slice | None = None
) -> Iterator[tuple[int, int] | None]:
    """Yields the (full, kept) size of each axis in which `op` is a start, None for other uses.

    `columns` are those of the indices of a look-up in which it stands, once it is joined to them.
    """
    (result,) = op.eqn.outvars
    if any(result is var for var in walk.program.outvars):
        yield None
    for reader in walk.ops:
        for i, atom in enumerate(reader.eqn.invars):
            if atom is not result:
                continue
            values = range(len(reader.ins))[reader.rule.values] if reader.rule else ()
            spaces = indexing.started(reader, i, columns or slice(None))
            if spaces:
                yield from ((space.size, kept.size(space)) for space in spaces)
            elif i in values and reader.traits & (Trait.CHOOSES | Trait.AS_IS):
                yield from _axes(walk, reader, kept, columns)
            elif columns is None and Trait.MOVES in reader.traits:
                yield from _axes(walk, reader, kept)
            elif columns is None and joining.is_by_column(reader):
                start = sum(axes[-1].size for axes in reader.ins[:i])
                joined = slice(start, start + reader.ins[i][-1].size)
                yield from _axes(walk, reader, kept, joined)
            else:
                yield None
