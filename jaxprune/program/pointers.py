"""Integers that point into an axis: of which axis they are positions.

Where an axis is cut, what points into it is renumbered with it: it is made anew from what stays (an
`argmax`, a count), and it is read only where positions are looked up, compared or counted. An
operation that does anything else with a position freezes the axis; see `rules/pointing.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxprune.program import spaces as ax
from jaxprune.program.reasons import Reason
from jaxprune.program.spaces import Space


class Pointer(NamedTuple):
    """An array of positions in `space`, which `reason` freezes where they are used as numbers.

    `inside`: every entry is a position; else some may be -1, or the size of the axis and above.
    """

    space: Space
    reason: Reason
    inside: bool = True


class Columns(NamedTuple):
    """Index vectors along the last axis: what each of their components is, None if no position."""

    each: tuple[Pointer | None, ...]


class Never(NamedTuple):
    """Truths that are all false: no position is below zero."""


Of = Pointer | Columns | Never | None
"""What the entries of an array point into, None if they are not positions."""
NEVER = Never()


def freeze(pointers: Sequence[Of]) -> None:
    """Freezes every axis that is pointed into: nobody knows what is done with the positions."""
    for of in pointers:
        for pointer in _each(of):
            ax.freeze(pointer.space, pointer.reason)


def moved(of: Of, change: Callable[[Space], Space]) -> Of:
    """Returns the same positions in changed spaces."""
    if isinstance(of, Pointer):
        return of._replace(space=change(of.space))
    if isinstance(of, Columns):
        return Columns(tuple(item and item._replace(space=change(item.space)) for item in of.each))
    return of


def _each(of: Of) -> Iterator[Pointer]:
    if isinstance(of, Pointer):
        yield of
    elif isinstance(of, Columns):
        yield from (item for item in of.each if item is not None)
