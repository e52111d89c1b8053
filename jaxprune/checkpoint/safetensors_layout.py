"""How a slice stands in files of safetensors: where every tensor goes, and what is on the disk.

The package writes whole tensors only, so that the header is written here, and what it says is read
back by the package.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

import jaxprune.checkpoint.manifest as manifest
import jaxprune.checkpoint.safetensors_files as files
import jaxprune.checkpoint.slice_manifest as slice_manifest
from jaxprune.checkpoint.tensors import Smaller
from jaxprune.checkpoint.values import raise_if

SHARD_BYTES = 5_000_000_000


class Place(NamedTuple):
    """Where a tensor stands in a file that is to be written."""

    file: str
    offset: int
    size: int


@dataclass(frozen=True)
class SafetensorsLayout:
    """Tensors in one or several files beside an index, with their names, axes and dtypes."""

    kept: Mapping[str, Smaller]
    starts: Mapping[str, bytes]
    """{file: its first bytes}."""
    places: Mapping[str, Place]

    @property
    def said(self) -> Any:
        """What tells it from others."""
        return {name: start.hex() for name, start in self.starts.items()}

    def strangers(self, names: Iterable[str]) -> list[str]:
        """Returns which names in the directory it does not write."""
        known = {*self.starts, f"model{files.INDEX}", slice_manifest.NAME}
        return sorted(name for name in names if name not in known)

    def make(self, directory: Path) -> None:
        """Makes the files in their length, with their headers."""
        ends = {name: len(start) for name, start in self.starts.items()}
        for place in self.places.values():
            ends[place.file] = max(ends[place.file], place.offset + place.size)
        for name, start in self.starts.items():
            path = directory / name
            if path.exists() and path.stat().st_size == ends[name]:
                with open(path, "rb") as file:
                    if file.read(len(start)) == start:
                        continue
            with open(path, "wb") as file:
                file.write(start)
                file.truncate(ends[name])
        manifest.sync(directory)

    def write(self, directory: Path, name: str, parts: Iterator[np.ndarray]) -> str:
        """Writes a tensor; returns its SHA-256."""
        place, kept = self.places[name], self.kept[name]
        one_after_the_other = kept.outer is None or kept.axes[kept.outer] == 0
        with open(directory / place.file, "r+b") as file:
            if one_after_the_other:
                sha = _write(file, place, kept, parts)
            else:
                sha = _write_across(file, place, kept, parts)
            file.flush()
            os.fsync(file.fileno())
        return sha or self.digest(directory, name)

    def digest(self, directory: Path, name: str) -> str:
        """Returns the SHA-256 of a tensor as it is on the disk, as the package reads it."""
        entry = files.entries(directory / self.places[name].file)[name]
        return files.digest_of(entry, name)

    def finish(self, directory: Path, content: Mapping[str, Any], digests: Any) -> None:
        """Writes the index and the manifest."""
        if len(self.starts) > 1:
            manifest.replace(directory / f"model{files.INDEX}", _index(self.places))
        tensors = [[k.name, list(k.axes)] for k in self.kept.values()]
        said = {
            **content,
            "tensors": tensors,
            "sha256": {name: digests[name] for name in self.kept},
        }
        manifest.replace(directory / slice_manifest.NAME, manifest.dumps(said))


def layout(kept: Mapping[str, Smaller], shard_bytes: int) -> SafetensorsLayout:
    """Returns where tensors go: a file has `shard_bytes` of them, or one that is larger.

    The widest dtypes come first, so that every tensor is aligned.

    Raises:
      CheckpointError: safetensors does not have a dtype.
    """
    raise_if(
        [
            f"tensor {name!r} is {item.dtype}"
            for name, item in kept.items()
            if files.code_of(item.dtype) is None
        ],
        "safetensors does not have these dtypes",
        'slice to format="orbax".',
    )
    shards: list[list[Smaller]] = []
    room = -1
    for tensor in kept.values():
        if not shards or _bytes(tensor) > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tensor)
        room -= _bytes(tensor)
    starts, places = {}, {}
    for number, shard in enumerate(shards, 1):
        many = f"model-{number:05}-of-{len(shards):05}{files.SUFFIX}"
        file = f"model{files.SUFFIX}" if len(shards) == 1 else many
        header = {key: value for item in shard for key, value in item.header.items()}
        ordered = sorted(shard, key=lambda item: (-item.dtype.itemsize, item.name))
        starts[file] = _start(ordered, header)
        offset = len(starts[file])
        for tensor in ordered:
            places[tensor.name] = Place(file, offset, _bytes(tensor))
            offset += _bytes(tensor)
    return SafetensorsLayout(kept, starts, places)


def _start(tensors: list[Smaller], metadata: Mapping[str, str]) -> bytes:
    """Returns the length of the header and the header."""
    content: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for tensor in tensors:
        offsets = [end, end := end + _bytes(tensor)]
        code, shape = files.code_of(tensor.dtype), list(_shape(tensor))
        content[tensor.name] = {"dtype": code, "shape": shape, "data_offsets": offsets}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _index(places: Mapping[str, Place]) -> str:
    """Returns the text of the index of several files."""
    total = sum(place.size for place in places.values())
    weights = {name: place.file for name, place in places.items()}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weights}, indent=2)


def _shape(kept: Smaller) -> tuple[int, ...]:
    """The shape of the tensor of a variable."""
    return tuple(kept.shape[axis] for axis in np.argsort(kept.axes)) if kept.shape else ()


def _bytes(kept: Smaller) -> int:
    return math.prod(kept.shape) * kept.dtype.itemsize


def _write(file: BinaryIO, place: Place, kept: Smaller, parts: Iterator[np.ndarray]) -> str:
    """Writes parts that lie one after the other; returns the SHA-256 of what was written."""
    sha = hashlib.sha256()
    file.seek(place.offset)
    for part in parts:
        data = files.raw_bytes(part, kept.axes)
        sha.update(data)
        file.write(data)
        del part, data  # before the next one is read
    if file.tell() != place.offset + place.size:
        raise AssertionError(f"{kept.name!r} has another size than its kept shape")
    return sha.hexdigest()


def _write_across(file: BinaryIO, place: Place, kept: Smaller, parts: Iterator[np.ndarray]) -> None:
    """Writes parts along another axis of the tensor than its first: a run of bytes in each row."""
    assert kept.outer is not None
    shape, along = _shape(kept), kept.axes[kept.outer]
    rows, start = math.prod(shape[:along]), 0
    for part in parts:
        data = files.raw_bytes(part, kept.axes)
        width = len(data) // rows
        for row in range(rows):
            file.seek(place.offset + row * (place.size // rows) + start)
            file.write(data[row * width : (row + 1) * width])
        start += width
        del part, data
    if start * rows != place.size:
        raise AssertionError(f"{kept.name!r} has another size than its kept shape")
