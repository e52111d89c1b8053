"""What is there for one place of a program alone: every way on from it leads through that place."""

from collections.abc import Iterable
from functools import reduce


class PostDominators:
    """The tree of the places of a program through which every way to the results leads.

    It is built from the results backward. Only some places matter; they have keys.
    """

    EXIT = 0

    def __init__(self) -> None:
        self._parents = [0]
        self._depths = [0]
        self._keys: list[tuple[int, int] | None] = [None]

    def meet(self, ways: Iterable[int]) -> int:
        """Returns the first place that all ways lead through."""
        return reduce(self._both, ways)

    def add(self, behind: int, key: tuple[int, int]) -> int:
        """Adds the place `key`, from which every way leads through the place `behind`."""
        self._parents.append(behind)
        self._depths.append(self._depths[behind] + 1)
        self._keys.append(key)
        return len(self._parents) - 1

    def through(self, way: int) -> Iterable[tuple[int, int]]:
        """Yields the places that a way leads through."""
        while way != self.EXIT:
            key = self._keys[way]
            assert key is not None
            yield key
            way = self._parents[way]

    def _both(self, a: int, b: int) -> int:
        while a != b:
            if self._depths[a] < self._depths[b]:
                a, b = b, a
            a = self._parents[a]
        return a
