"""Files of safetensors, of which the package reads no more than is asked for."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprune.arguments.extras import extra
from jaxprune.arguments.stored_arrays import Slices, StoredArray
from jaxprune.checkpoint.tensors import Found, source_of
from jaxprune.errors import CheckpointError

BLOCK = 2**22
"""Bytes of a file that are in memory beside what is made of them."""
SUFFIX = ".safetensors"
INDEX = SUFFIX + ".index.json"
_DTYPES = (
    "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 "
    "complex64"
).split()
"""What the package reads into NumPy."""


def package() -> Any:
    """Returns the package.

    Raises:
      CheckpointError: it is not installed.
    """
    return extra("safetensors", CheckpointError)


class Entry(NamedTuple):
    """A tensor of a file."""

    file: Path
    shape: tuple[int, ...]
    code: str
    """The dtype as the file has it."""
    header: Mapping[str, str]
    """What the file says of itself."""


def entries(file: Path) -> dict[str, Entry]:
    """Returns {name: tensor} of one file.

    Raises:
      CheckpointError: it is missing or damaged.
    """
    library = package()
    try:
        with library.safe_open(str(file), framework="np") as opened:
            header = opened.metadata() or {}
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {
                name: Entry(file, tuple(item.get_shape()), item.get_dtype(), header)
                for name, item in slices.items()
            }
    except (OSError, library.SafetensorError) as error:
        raise CheckpointError(
            f"{str(file)!r} cannot be read: {error}.\nFix: fetch the file again."
        ) from error


def found(entry: Entry, name: str, sha256: str | None) -> Found:
    """Returns a tensor; what is read of it is checked if its SHA-256 is known."""
    dtype = dtype_of(entry.code)
    said = f"{entry.code}{list(entry.shape)}"
    if dtype is None:
        return Found(entry.shape, said, None)
    reading = Reading(entry, name, dtype, source_of(entry.file), sha256)
    return Found(entry.shape, said, reading.array)


def code_of(dtype: Any) -> str | None:
    """Returns the name of a dtype in safetensors; None for what it does not have."""
    name = np.dtype(dtype).name
    if name not in _DTYPES:
        return None
    return package().TensorSpec(dtype=name, shape=[0], data_ptr=0, data_len=0).dtype


def dtype_of(code: str) -> np.dtype[Any] | None:
    """Returns the dtype of that name; None if it cannot be read into NumPy."""
    return next((_named(name) for name in _DTYPES if code_of(_named(name)) == code), None)


def _named(name: str) -> np.dtype[Any]:
    from jax.numpy import dtype  # knows bfloat16

    return dtype(name)


@dataclass
class Reading:
    """Reads slices of a tensor; the first time, all of it against a SHA-256 if one is known.

    The file is opened for every `BLOCK`, so that its pages do not stay in memory.

    Raises:
      CheckpointError: the file has changed since, or the tensor is damaged.
    """

    entry: Entry
    name: str
    dtype: np.dtype[Any]
    source: str
    sha256: str | None = None
    _checked: bool = field(default=False, init=False)

    def __call__(self, index: Slices) -> np.ndarray:
        """Returns the entries at slices of the axes of the tensor."""
        if self.sha256 is not None and not self._checked:
            self._check(self.sha256)
        return self._read(index)

    def array(self, axes: tuple[int, ...]) -> StoredArray:
        """Returns the tensor as the variable `tensor.transpose(axes)`."""
        return StoredArray(
            name=self.name,
            shape=tuple(self.entry.shape[axis] for axis in axes),
            dtype=self.dtype,
            axes=axes,
            read=self,
            source=self.source,
            header=self.entry.header,
        )

    def _read(self, index: Slices) -> np.ndarray:
        ranges = [range(*part.indices(n)) for part, n in zip(index, self.entry.shape, strict=True)]
        if 0 in (shape := tuple(map(len, ranges))):
            return np.empty(shape, self.dtype)
        if source_of(self.entry.file) != self.source:
            raise CheckpointError(
                f"{str(self.entry.file)!r} has changed since it was opened.\nFix: open it again."
            )
        if not shape:
            return self._block(())
        whole = np.empty(shape, self.dtype)
        axis = next((axis for axis, size in enumerate(shape) if size > 1), 0)
        rows = max(1, BLOCK * shape[axis] // whole.nbytes)
        for start in range(0, shape[axis], rows):
            block = (slice(None),) * axis + (slice(start, start + rows),)
            taken = ranges[axis][start : start + rows]
            where = [*ranges[:axis], taken, *ranges[axis + 1 :]]
            whole[block] = self._block(tuple(slice(part.start, part.stop) for part in where))
        return whole

    def _block(self, where: Slices) -> np.ndarray:
        file, library = self.entry.file, package()
        try:
            with library.safe_open(str(file), framework="np") as opened:
                return opened.get_slice(self.name)[where] if where else opened.get_tensor(self.name)
        except (OSError, library.SafetensorError) as error:
            raise CheckpointError(
                f"{str(file)!r}, tensor {self.name!r}: {error}.\nFix: fetch the file again."
            ) from error

    def _check(self, expected: str) -> None:
        if digest_of(self.entry, self.name) != expected:
            raise CheckpointError(
                f"{str(self.entry.file)!r} is damaged: tensor {self.name!r} has changed since it "
                "was written.\nFix: use another copy, or slice again."
            )
        self._checked = True


def digest_of(entry: Entry, name: str) -> str:
    """Returns the SHA-256 of the bytes of a tensor, read a part at a time."""
    dtype = dtype_of(entry.code)
    assert dtype is not None
    plain = tuple(range(len(entry.shape)))
    array = Reading(entry, name, dtype, source_of(entry.file)).array(plain)
    sha = hashlib.sha256()
    if array.outer is None:
        sha.update(raw_bytes(np.asarray(array), plain))
    else:
        for start, stop in array.bounds():
            sha.update(raw_bytes(array.part(start, stop), plain))
    return sha.hexdigest()


def raw_bytes(part: np.ndarray, axes: tuple[int, ...]) -> memoryview:
    """Returns the bytes of a part of a variable as they stand in its tensor."""
    tensor = np.ascontiguousarray(part.transpose(np.argsort(axes))) if axes else part
    return tensor.reshape(-1).view(np.uint8).data


def files_below(directory: Path) -> Iterator[Path]:
    """Yields the files of a directory."""
    yield from sorted(path for path in directory.iterdir() if path.name.endswith(SUFFIX))


def is_file_name(name: Any) -> bool:
    """True for the name of a file of safetensors in the same directory."""
    return isinstance(name, str) and name.endswith(SUFFIX) and os.path.basename(name) == name
