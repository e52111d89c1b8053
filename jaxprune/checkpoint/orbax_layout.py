"""How a slice stands in a checkpoint like that of `jp.save`, whose arrays come a chunk at a time.

Orbax takes whole arrays. So it saves a tree of single numbers, and tensorstore makes the arrays in
their places: plain zarr3, where each chunk is a file of its bytes.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import jaxprune.checkpoint.manifest as manifest
from jaxprune.arguments import stored_arrays
from jaxprune.checkpoint.directory import DATA
from jaxprune.checkpoint.orbax_arrays import METADATA, limits
from jaxprune.checkpoint.tensors import Smaller

_TREE = "variables"


@dataclass(frozen=True)
class OrbaxLayout:
    """Arrays under the numbers of their leaves, of which empty ones are not stored."""

    kept: Mapping[str, Smaller]
    """In the order of the tree."""
    token: str

    @property
    def said(self) -> Any:
        """What tells it from others."""
        return {name: [number, *self._chunk(name)] for name, number in self.numbers.items()}

    @property
    def numbers(self) -> dict[str, int]:
        """{tensor: the number of its leaf in the tree}."""
        return {name: number for number, name in enumerate(self.kept)}

    @property
    def data(self) -> str:
        """The name of the directory of the arrays."""
        return f"jaxprune-data-{self.token}"

    def strangers(self, names: Iterable[str]) -> list[str]:
        """Returns which names in the directory it does not write."""
        return sorted(n for n in names if n != manifest.NAME and not DATA.fullmatch(n))

    def make(self, directory: Path) -> None:
        """Lets Orbax save the tree, of numbers in place of arrays."""
        for item in directory.glob("jaxprune-data-*"):
            if item.name != self.data or not (item / _TREE / METADATA).exists():
                shutil.rmtree(item)
        stored = [number for name, number in self.numbers.items() if self._has_entries(name)]
        if (directory / self.data).exists() or not stored:
            return
        from orbax.checkpoint import v1 as ocp  # when used: importing it is slow

        context = ocp.Context()
        context.array.saving.use_ocdbt = False
        with context:
            tree = {str(number): np.zeros((), np.int8) for number in stored}
            ocp.save_checkpointables(str(directory / self.data), {_TREE: tree})

    def write(self, directory: Path, name: str, parts: Iterator[np.ndarray]) -> Mapping[str, str]:
        """Writes an array; returns {file: SHA-256 of what went into it}."""
        if not self._has_entries(name):
            return {}
        kept, chunk = self.kept[name], self._chunk(name)
        folder = self._folder(directory, name)
        if folder.exists():
            shutil.rmtree(folder)
        _create(folder, kept, chunk)
        digests = {}
        for start, block in _blocks(parts, kept, chunk):
            for place, entries in _chunks(block, chunk, kept.outer, start):
                file = folder.joinpath("c", *map(str, place))
                digests[f"{_TREE}/{folder.name}/{file.relative_to(folder)}"] = _put(file, entries)
                del entries
            del block
        said = folder / "zarr.json"
        digests[f"{_TREE}/{folder.name}/{said.name}"] = manifest.digest(said)
        return digests

    def digest(self, directory: Path, name: str) -> Mapping[str, str]:
        """Returns {file: SHA-256} as it is on the disk."""
        folder = self._folder(directory, name)
        if not self._has_entries(name):
            return {}
        place = f"{_TREE}/{folder.name}/"
        return {place + file: sha for file, sha in manifest.digests(folder).items()}

    def finish(self, directory: Path, content: Mapping[str, Any], digests: Any) -> None:
        """Writes the manifest."""
        written = {file: sha for files in digests.values() for file, sha in files.items()}
        data = directory / self.data
        files = written | manifest.digests(data, lambda file: file not in written)
        said = {**content, "data": self.data, "files": dict(sorted(files.items()))}
        manifest.replace(directory / manifest.NAME, manifest.dumps(said))

    def _folder(self, directory: Path, name: str) -> Path:
        return directory / self.data / _TREE / str(self.numbers[name])

    def _has_entries(self, name: str) -> bool:
        return 0 not in self.kept[name].shape

    def _chunk(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a chunk of up to `chunk_bytes`, such that parts are whole chunks."""
        kept = self.kept[name]
        order = sorted(range(len(kept.shape)), key=lambda axis: (axis != kept.outer, axis))
        most = max(1, stored_arrays.chunk_bytes() // kept.dtype.itemsize)
        chunk = list(kept.shape)
        for axis in order:
            if math.prod(chunk) > most:
                rest = math.prod(chunk) // chunk[axis]
                pieces = -(-chunk[axis] // max(1, most // rest))
                chunk[axis] = -(-chunk[axis] // pieces)
        return tuple(chunk)


def _create(folder: Path, kept: Smaller, chunk: Sequence[int]) -> None:
    """Makes a new array whose chunks are files of the bytes as they are, without any yet."""
    import tensorstore

    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "metadata": {"chunk_key_encoding": {"name": "default"}, "codecs": [_PLAIN]},
        "create": True,
        "delete_existing": True,
    }
    tensorstore.open(
        spec,
        dtype=tensorstore.dtype(kept.dtype),
        shape=kept.shape,
        chunk_layout=tensorstore.ChunkLayout(chunk_shape=list(chunk)),
        context=limits(),
    ).result()


_PLAIN = {"name": "bytes", "configuration": {"endian": "little"}}


def _blocks(
    parts: Iterator[np.ndarray], kept: Smaller, chunk: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (start, entries) of whole rows of chunks along the axis of the parts."""
    along = kept.outer
    if along is None:
        yield from ((0, part) for part in parts)
        return
    rows, start, filled = chunk[along], 0, 0
    buffer = None
    for part in parts:
        done = 0
        while done < part.shape[along]:
            end = min(rows, kept.shape[along] - start)  # the last chunk may have fewer
            taken = min(end - filled, part.shape[along] - done)
            here = _at(along, done, done + taken)
            done += taken
            if taken == end:
                yield start, part[here]
                start += taken
                continue
            if buffer is None:
                shape = list(kept.shape)
                shape[along] = end
                buffer = np.empty(shape, kept.dtype)
            buffer[_at(along, filled, filled + taken)] = part[here]
            filled += taken
            if filled == end:
                yield start, buffer
                start, filled, buffer = start + end, 0, None
        del part  # before the next one is read
    if start != kept.shape[along] or filled:
        raise AssertionError(f"{kept.name!r} has another size than its kept shape")


def _at(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return (slice(None),) * axis + (slice(start, stop),)


def _chunks(
    block: np.ndarray, chunk: Sequence[int], along: int | None, start: int
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yields (place in the grid, all entries) of the chunks of a block that starts there."""
    counts = [-(-size // step) for size, step in zip(block.shape, chunk, strict=True)]
    for local in np.ndindex(*counts):
        where = tuple(slice(i * n, (i + 1) * n) for i, n in zip(local, chunk, strict=True))
        before = (start // chunk[axis] if axis == along else 0 for axis in range(block.ndim))
        place = tuple(i + n for i, n in zip(local, before, strict=True))
        entries = block[where]
        if entries.shape != tuple(chunk):  # a chunk is as long at the edge
            whole = np.zeros(chunk, entries.dtype)
            whole[tuple(map(slice, entries.shape))] = entries
            entries = whole
        yield place, np.ascontiguousarray(entries).reshape(-1)


def _put(file: Path, entries: np.ndarray) -> str:
    """Writes a chunk through to the disk; returns the SHA-256 of what went into it.

    Not by tensorstore, whose threads keep several chunks of memory each.
    """
    data = entries.view(np.uint8).data
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    return hashlib.sha256(data).hexdigest()
