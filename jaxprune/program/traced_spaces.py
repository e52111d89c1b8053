"""The spaces of a traced graph: shared by many arrays, and fixed once the function is traced."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from jaxprune.program import spaces as ax
from jaxprune.program.spaces import Atom, Prod, Space, Sum

T = TypeVar("T")


def distinct(spaces: Iterable[Space]) -> set[Atom]:
    """Returns the unbound atoms of many spaces; what they share is visited once."""
    left, seen = list(spaces), set()
    while left:
        space = ax.find(left.pop())
        if space not in seen:
            seen.add(space)
            left.extend(_items(space))
    return {space for space in seen if type(space) is Atom}


def _items(space: Space) -> tuple[Space, ...]:
    if type(space) is Atom:
        return ()
    return space.parts if type(space) is Sum else space.factors


def fold(space: Space, known: dict[Space, T], make: Callable[[Space, list[T]], T]) -> T:
    """Returns `make(space, [fold of each item])`, from the atoms up; `known` keeps all of them."""
    left = [space]
    while left:
        root = ax.find(left[-1])
        items = _items(root)
        if left[-1] in known:
            left.pop()
        elif root in known:
            known[left.pop()] = known[root]
        elif missing := [item for item in items if item not in known]:
            left.extend(missing)
        else:
            known[root] = make(root, [known[item] for item in items])
    return known[space]


def fix(space: Space, known: dict[Space, Space]) -> Space:
    """Returns `space` of atoms that cannot change any more; `known` holds what it shares."""

    def make(space: Space, items: list[Space]) -> Space:
        if type(space) is Atom:
            space.fixed = True
            return space
        return ax.concat(items) if type(space) is Sum else ax.product(items)

    return fold(space, known, make)


class Copies:
    """Copies of spaces of a traced graph: they can be refined, and the graph stays as it is.

    A copied atom has the name, the reason and the layers of its original.
    """

    def __init__(self) -> None:
        self._known: dict[Space, Space] = {}

    def __call__(self, space: Space) -> Space:
        """Returns the copy of a space; an atom is copied once."""
        return fold(space, self._known, _copy)

    def refined(self) -> list[Atom]:
        """Returns the originals whose copies have been bound or frozen."""
        pairs = ((a, b) for a, b in self._known.items() if type(a) is Atom and type(b) is Atom)
        return [a for a, copy in pairs if copy.link is not None or copy.reason is not a.reason]


def _copy(space: Space, items: list[Space]) -> Space:
    if type(space) is not Atom:
        return Sum(items) if type(space) is Sum else Prod(items)
    copy = Atom(space.size, space.reason, space.owner)
    copy.name, copy.layers = space.name, space.layers
    return copy


def factored(space: Space, k: int) -> tuple[Space, Space] | None:
    """Returns a fixed space as outer * inner with an inner of size `k`, if it is one."""
    copies = Copies()
    if k < 1 or space.size % k:
        return None
    outer, inner = ax.factor(copies(space), k)
    return None if copies.refined() else (ax.resolve(outer), ax.resolve(inner))
