"""Arrays in files, read when they are asked for, a part at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PIECE = 2**23
"""Bytes that are read at once, or what is stored together where that is more."""

Slices = tuple[slice, ...]


def chunk_bytes() -> int:
    """Returns how large chunks are written: they come on top of what is read at once."""
    return PIECE // 2


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredArray:
    """A variable in a file: shape and dtype are known, the entries are read when asked for.

    `np.asarray` reads it whole; scores and `jp.slice_stored` read parts of it. `axes` is the
    permutation between the variable and its tensor in the file, as `tensor.transpose(axes)`.
    """

    name: str
    """The name of the tensor in the file."""
    shape: tuple[int, ...]
    """The shape of the variable."""
    dtype: np.dtype[Any]
    """The dtype in the file."""
    axes: tuple[int, ...] = field(repr=False)
    """Which axis of the tensor is each axis of the variable."""
    read: Callable[[Slices], np.ndarray] = field(repr=False)
    """Gives the entries of the tensor at slices of its axes."""
    source: str = field(repr=False)
    """What file this is: where it is, how long, and when it was written."""
    header: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """What the file says of itself."""
    along: int = field(default=0, repr=False)
    """The axis of the tensor along which parts are read."""
    together: int = field(default=1, repr=False)
    """How many entries along it are stored together, so that reading one reads all of them."""

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many entries it has."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """How many bytes it has."""
        return self.size * self.dtype.itemsize

    @property
    def outer(self) -> int | None:
        """The axis along which parts are read; None for a single entry."""
        return self.axes.index(self.along) if self.shape else None

    def bounds(self) -> Iterator[tuple[int, int]]:
        """Yields (start, stop) of the parts along the outer axis, each of `PIECE` bytes."""
        assert self.outer is not None
        length = self.shape[self.outer]
        rows = PIECE * length // max(self.nbytes, 1)
        rows = self.together * max(1, rows // self.together)
        for start in range(0, length, rows):
            yield start, min(start + rows, length)

    def part(self, start: int, stop: int) -> np.ndarray:
        """Returns the entries from `start` to `stop` along the outer axis."""
        where = [slice(None)] * self.ndim
        where[self.along] = slice(start, stop)
        return self.read(tuple(where)).transpose(self.axes)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads it whole; a view without reading is not to be had."""
        if copy is False:
            raise ValueError(f"{self.name!r} is in a file: it cannot be given without a copy")
        if self.outer is None:
            whole = self.read((slice(None),) * self.ndim).transpose(self.axes)
        else:
            whole = np.empty(self.shape, self.dtype)
            for start, stop in self.bounds():
                where = (slice(None),) * self.outer + (slice(start, stop),)
                whole[where] = self.part(start, stop)
        return whole if dtype is None else whole.astype(dtype, copy=False)


def in_memory(leaf: Any) -> Any:
    """Returns an array in a file read whole, and anything else as it is."""
    return np.asarray(leaf) if isinstance(leaf, StoredArray) else leaf


def permutation(axes: Sequence[int] | None, rank: int) -> tuple[int, ...] | None:
    """Returns `axes` as a tuple, 0 to rank - 1 for None; None if it is not a permutation."""
    if axes is None:
        return tuple(range(rank))
    try:
        given = tuple(axes)
    except TypeError:
        return None
    integers = all(type(axis) is int for axis in given)
    return given if integers and sorted(given) == [*range(rank)] else None
