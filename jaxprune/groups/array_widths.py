"""Kept counts that make the widths of arrays multiples: what `ArrayWidth` of the constraints asks.

A channel of a group may stand at several places of an axis: of a ResNeXt, once in each group of a
convolution. The width of the array is then a multiple of the kept count.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jaxprune.arguments.numbers import is_count, plain
from jaxprune.errors import BudgetError
from jaxprune.graph import ChannelGraph
from jaxprune.program import spaces as ax
from jaxprune.program.spaces import Atom, Space


@dataclass(frozen=True, slots=True)
class ArrayWidth:
    """A kept count such that the width of the arrays of the group is a multiple of `multiple`.

    The arrays are those that a layer of the group makes, with its biases and scales; of a
    concatenation, each part. Where a width is a product of two groups that both lose channels, the
    smaller one is rounded first, and the other one as far as that leaves it to do.

    Raises:
      BudgetError: `multiple` is not an int, at least 1.

    >>> import jax.numpy as jnp, numpy as np, jaxprune as jp
    >>> v = {"up": np.ones((2, 24)), "down": np.ones((3, 8, 2))}
    >>> def fn(v, x):
    ...     return jnp.einsum("bgc,gco->bo", (x @ v["up"]).reshape(-1, 3, 8), v["down"])
    >>> graph = jp.trace(fn, v, np.ones((1, 2)))
    >>> rows, channels = graph.groups
    >>> scores, six = {channels: np.arange(8.0)}, jp.select.ArrayWidth(6)
    >>> keep = jp.select.global_ratio(graph, scores, prune_ratio=0.4, multiple_of=six)
    >>> int(keep[channels].sum())  # in each of 3 rows: a width of 12
    4
    """

    multiple: int

    def __post_init__(self) -> None:
        if not is_count(self.multiple):
            raise BudgetError(
                f"ArrayWidth must be of an int, at least 1, got {self.multiple!r}.\n"
                "Fix: multiple_of=jp.select.ArrayWidth(8)."
            )
        object.__setattr__(self, "multiple", plain(self.multiple))


def multiple_for(graph: ChannelGraph, name: str, multiple: int, known: Mapping[str, int]) -> int:
    """Returns what the kept count of a group must be a multiple of, so that array widths are.

    `known`: {group: what its kept count is always a multiple of}, of the groups that are decided.
    """
    group = graph.groups[name]
    made = [slot for slot in group.slots if slot.role != "in"] or group.slots
    return math.lcm(
        *(
            multiple // math.gcd(multiple, often)
            for slot in made
            for often in _often(slot.space, slot.atom, known)
        )
    )


def _often(space: Space, atom: Atom, known: Mapping[str, int]) -> Iterator[int]:
    """Yields what divides how often a channel stands in each part of a space that has it."""
    space = ax.find(space)
    if isinstance(space, ax.Sum):
        for part in space.parts:
            yield from _often(part, atom, known)
    elif isinstance(space, ax.Prod):
        for i, item in enumerate(space.factors):
            others = math.prod(
                _divisor(other, known) for j, other in enumerate(space.factors) if j != i
            )
            yield from (others * often for often in _often(item, atom, known))
    elif space is atom:
        yield 1


def _divisor(space: Space, known: Mapping[str, int]) -> int:
    """What the size of a space is always a multiple of."""
    space = ax.find(space)
    if isinstance(space, ax.Prod):
        return math.prod(_divisor(item, known) for item in space.factors)
    if isinstance(space, ax.Sum):
        return math.gcd(*(_divisor(part, known) for part in space.parts))
    return space.size if space.name is None else known.get(space.name, 1)
