"""Integers that may follow a size: those that wrap the start index of a dynamic slice.

`lax.dynamic_slice` counts a negative start from the end of its axis: JAX adds the size of the axis
to it where it is below zero. At a kept size it adds that one.
"""

from collections.abc import Iterator
from typing import Any

from jaxprune.keep.kept import Kept
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.traits import Trait


def wraps(walk: Walk, op: Op, before: Any, after: Any, kept: Kept) -> bool:
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
