"""Integers that may follow a size: where a window starts, and what wraps a computed start.

`lax.dynamic_slice` counts a negative start from the end of its axis: JAX adds the size of the axis
to it where it is below zero. At a kept size it adds that one.
"""

from collections.abc import Iterator
from typing import Any

from jaxprune.keep.kept import Kept
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.traits import Trait


def following(op: Op, kept: Kept) -> dict[int, Any]:
    """Returns {operand: its value at the kept sizes} of those that follow them."""
    return op.rule.operands(op, kept.size) if op.rule else {}


def may_follow(walk: Walk, op: Op, before: Any, after: Any, kept: Kept) -> bool:
    """True if an integer that `op` reads may be another one at the kept sizes."""
    return _wraps(walk, op, before, after, kept) or _makes_starts(walk, op, kept)


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


def _axes(walk: Walk, op: Op, kept: Kept) -> Iterator[tuple[int, int] | None]:
    """Yields the (full, kept) size of each axis in which `op` is a start, None for other uses."""
    (result,) = op.eqn.outvars
    if any(result is var for var in walk.program.outvars):
        yield None
    for reader in walk.ops:
        for i, atom in enumerate(reader.eqn.invars):
            if atom is not result:
                continue
            values = range(len(reader.ins))[reader.rule.values] if reader.rule else ()
            if Trait.STARTS in reader.traits and i not in values:
                space = reader.ins[0][i - len(values)]
                yield space.size, kept.size(space)
            elif i in values and reader.traits & (Trait.CHOOSES | Trait.AS_IS):
                yield from _axes(walk, reader, kept)
            else:
                yield None
