"""A slice that is being written: what is on the disk of it, and how it becomes the whole.

All stands in `<path>.partial`, which becomes `path` in one step at the end. A tensor is entered in
the journal, with its SHA-256, once it is on the disk. Who goes on after a kill compares what the
journal says with what is there, and writes the rest.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxprune.checkpoint.manifest as manifest
import jaxprune.checkpoint.safetensors_files as files
import jaxprune.checkpoint.slice_manifest as slice_manifest
from jaxprune.checkpoint.values import raise_if
from jaxprune.errors import CheckpointError

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Unfinished:
    """A slice that has begun."""

    target: Path
    directory: Path
    places: Mapping[str, files.Place]
    done: dict[str, str]
    """{tensor: SHA-256} of what is on the disk."""

    def write(self, name: str, parts: Iterator[memoryview]) -> None:
        """Writes a tensor, and enters it once it is on the disk.

        Raises:
          OSError: the file system refuses.
        """
        sha, place = hashlib.sha256(), self.places[name]
        with open(self.directory / place.file, "r+b") as file:
            file.seek(place.offset)
            for part in parts:
                sha.update(part)
                file.write(part)
                del part  # before the next one is read
            if file.tell() != place.offset + place.size:
                raise AssertionError(f"{name!r} has another size than its kept shape")
            file.flush()
            os.fsync(file.fileno())
        self.done[name] = sha.hexdigest()
        _append(self.directory, {"tensor": name, "sha256": self.done[name]})

    def finish(self, content: Mapping[str, Any]) -> None:
        """Compares all that is on the disk with what was written, and gives it its name.

        Raises:
          CheckpointError: something is not as it was written, or the name was taken meanwhile.
          OSError: the file system refuses.
        """
        raise_if(
            [
                f"tensor {name!r} in {place.file}"
                for name, place in self.places.items()
                if _digest(self.directory, name, place) != self.done[name]
            ],
            f"{str(self.directory)!r} does not read back as it was written",
            "look at the disk, delete the directory, and slice again.",
        )
        names = {place.file for place in self.places.values()}
        if len(names) > 1:
            _replace(self.directory / f"model{files.INDEX}", files.index(self.places))
        digests = {name: self.done[name] for name in self.places}
        text = manifest.dumps({**content, "sha256": digests})
        _replace(self.directory / slice_manifest.NAME, text)
        manifest.sync(self.directory)
        if os.path.lexists(self.target):
            raise CheckpointError(
                f"cannot slice to {str(self.target)!r}: meanwhile something is there.\n"
                "Fix: move it away, and make the same call again."
            )
        os.rename(self.directory, self.target)
        manifest.sync(self.target.parent)
        os.unlink(self.target / JOURNAL)


def begin(
    target: Path,
    fingerprint: str,
    starts: Mapping[str, bytes],
    places: Mapping[str, files.Place],
) -> Unfinished:
    """Begins a slice, or goes on with it if that of the fingerprint has begun.

    Args:
      target: what the directory will be called.
      fingerprint: equal for slices that write the same.
      starts: {file: its first bytes}.
      places: {tensor: where it goes}.

    Raises:
      CheckpointError: another slice has begun there, or something else is there.
      OSError: the file system refuses.
    """
    directory = target.with_name(f"{target.name}.partial")
    directory.mkdir(parents=True, exist_ok=True)
    lines, length = _lines(directory / JOURNAL)
    known = {JOURNAL, *starts, f"model{files.INDEX}", slice_manifest.NAME}
    foreign = sorted(item.name for item in directory.iterdir() if item.name not in known)
    others = not lines and any(item.name != JOURNAL for item in directory.iterdir())
    if foreign or others or (lines and lines[0] != {"fingerprint": fingerprint}):
        what = f": it holds {foreign[:5]}" if foreign else ""
        raise CheckpointError(
            f"{str(directory)!r} is not the beginning of this slice{what}. Its files, graph, keep, "
            "metadata or shard_bytes were others.\nFix: make the same call again, pass another "
            "path, or delete the directory."
        )
    if lines:
        os.truncate(directory / JOURNAL, length)
    else:
        (directory / JOURNAL).write_bytes(b"")
        _append(directory, {"fingerprint": fingerprint})
    _make(directory, starts, places)
    entered = {line["tensor"]: line["sha256"] for line in lines[1:]}
    done = {
        name: sha
        for name, sha in entered.items()
        if name in places and _digest(directory, name, places[name]) == sha
    }
    return Unfinished(target, directory, places, done)


def _make(directory: Path, starts: Mapping[str, bytes], places: Mapping[str, files.Place]) -> None:
    """Makes the files in their length, with their headers, where they are not yet so."""
    ends = {name: len(start) for name, start in starts.items()}
    for place in places.values():
        ends[place.file] = max(ends[place.file], place.offset + place.size)
    for name, start in starts.items():
        path = directory / name
        if path.exists() and path.stat().st_size == ends[name]:
            with open(path, "rb") as file:
                if file.read(len(start)) == start:
                    continue
        with open(path, "wb") as file:
            file.write(start)
            file.truncate(ends[name])
    manifest.sync(directory)


def _digest(directory: Path, name: str, place: files.Place) -> str:
    """Returns the SHA-256 of a tensor as it is on the disk, as the package reads it."""
    path = directory / place.file
    entry = files.entries(path)[name]
    dtype = files.dtype_of(entry.code)
    assert dtype is not None
    plain = tuple(range(len(entry.shape)))
    return files.digest(files.Reading(entry, name, dtype, files.source_of(path)).array(plain))


def _lines(journal: Path) -> tuple[list[dict[str, str]], int]:
    """Returns the whole lines of a journal, and their length: the last one may be torn."""
    found: list[dict[str, str]] = []
    length = 0
    if journal.exists():
        for line in journal.read_bytes().splitlines(keepends=True):
            try:
                found.append(json.loads(line))
            except ValueError:
                break
            if not line.endswith(b"\n"):
                found.pop()
                break
            length += len(line)
    return found, length


def _append(directory: Path, line: Mapping[str, str]) -> None:
    with open(directory / JOURNAL, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
