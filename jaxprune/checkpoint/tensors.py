"""What stands between the two formats of files and what opens and slices them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxprune.arguments.stored_arrays import StoredArray


class Found(NamedTuple):
    """A tensor in files."""

    shape: tuple[int, ...]
    said: str
    """Its dtype and shape, as the files have them."""
    opened: Callable[[tuple[int, ...]], StoredArray] | None
    """Gives the variable `tensor.transpose(axes)`; None if NumPy has no such dtype."""


class Smaller(NamedTuple):
    """A variable at its kept shape, which is to be written."""

    name: str
    """The name of its tensor."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: tuple[int, ...]
    """Which axis of the tensor is each axis of the variable, where it was read."""
    outer: int | None
    """The axis along which its parts come; None if it comes whole."""
    header: Mapping[str, str]


class Layout(Protocol):
    """Where every byte of a slice goes, known before anything is read, in a directory."""

    @property
    def said(self) -> Any:
        """What tells it from others, JSON."""
        ...

    def strangers(self, names: Iterable[str]) -> list[str]:
        """Returns which names in the directory it does not write."""
        ...

    def make(self, directory: Path) -> None:
        """Makes all that stands around the entries, where it is not yet so."""
        ...

    def write(self, directory: Path, name: str, parts: Iterator[np.ndarray]) -> Any:
        """Writes a variable that comes in parts; returns the digest of what is on the disk."""
        ...

    def digest(self, directory: Path, name: str) -> Any:
        """Returns the digest of a variable as it is on the disk, None if it is not whole."""
        ...

    def finish(self, directory: Path, content: Mapping[str, Any], digests: Any) -> None:
        """Writes the manifest, once every variable reads back as it was written."""
        ...


def source_of(file: Path) -> str:
    """Returns what tells a file from another one, and from itself before it was changed."""
    found = file.stat()
    return f"{file.absolute()} {found.st_size} {found.st_mtime_ns}"
