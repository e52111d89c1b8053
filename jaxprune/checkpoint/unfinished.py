"""A slice that is being written: what is on the disk of it, and how it becomes the whole.

All stands in `<path>.partial`, which becomes `path` in one step at the end. A tensor is entered in
the journal, with its digest, once it is on the disk. Who goes on after a kill compares what the
journal says with what is there, and writes the rest.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import jaxprune.checkpoint.manifest as manifest
from jaxprune.checkpoint.tensors import Layout
from jaxprune.checkpoint.values import raise_if
from jaxprune.errors import CheckpointError

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Unfinished:
    """A slice that has begun."""

    target: Path
    directory: Path
    layout: Layout
    done: dict[str, Any]
    """{tensor: the digest of what is on the disk}."""

    def write(self, name: str, parts: Iterator[np.ndarray]) -> None:
        """Writes a tensor, and enters it once it is on the disk.

        Raises:
          OSError: the file system refuses.
        """
        self.done[name] = self.layout.write(self.directory, name, parts)
        _append(self.directory, {"tensor": name, "digest": self.done[name]})

    def finish(self, content: Mapping[str, Any]) -> None:
        """Compares all that is on the disk with what was written, and gives it its name.

        Raises:
          CheckpointError: something is not as it was written, or the name was taken meanwhile.
          OSError: the file system refuses.
        """
        raise_if(
            [
                f"tensor {name!r}"
                for name, digest in self.done.items()
                if self.layout.digest(self.directory, name) != digest
            ],
            f"{str(self.directory)!r} does not read back as it was written",
            "look at the disk, delete the directory, and slice again.",
        )
        self.layout.finish(self.directory, content, self.done)
        manifest.sync(self.directory)
        if os.path.lexists(self.target):
            raise CheckpointError(
                f"cannot slice to {str(self.target)!r}: meanwhile something is there.\n"
                "Fix: move it away, and make the same call again."
            )
        os.rename(self.directory, self.target)
        manifest.sync(self.target.parent)
        os.unlink(self.target / JOURNAL)


def begin(target: Path, fingerprint: str, names: Iterable[str], layout: Layout) -> Unfinished:
    """Begins a slice, or goes on with it if that of the fingerprint has begun.

    Args:
      target: what the directory will be called.
      fingerprint: equal for slices that write the same.
      names: the tensors that are to be written.
      layout: where they go.

    Raises:
      CheckpointError: another slice has begun there, or something else is there.
      OSError: the file system refuses.
    """
    directory = target.with_name(f"{target.name}.partial")
    directory.mkdir(parents=True, exist_ok=True)
    lines, length = _lines(directory / JOURNAL)
    others = sorted(item.name for item in directory.iterdir() if item.name != JOURNAL)
    foreign = layout.strangers(others)
    begun = lines and lines[0] == {"fingerprint": fingerprint}
    if foreign or (not begun and (others or lines)):
        what = f": it holds {foreign[:5]}" if foreign else ""
        raise CheckpointError(
            f"{str(directory)!r} is not the beginning of this slice{what}. Its files, graph, keep, "
            "metadata, format or shard_bytes were others.\nFix: make the same call again, pass "
            "another path, or delete the directory."
        )
    if lines:
        os.truncate(directory / JOURNAL, length)
    else:
        (directory / JOURNAL).write_bytes(b"")
        _append(directory, {"fingerprint": fingerprint})
    layout.make(directory)
    entered = {line["tensor"]: line["digest"] for line in lines[1:]}
    done = {
        name: entered[name]
        for name in names
        if name in entered and layout.digest(directory, name) == entered[name]
    }
    return Unfinished(target, directory, layout, done)


def _lines(journal: Path) -> tuple[list[dict[str, Any]], int]:
    """Returns the whole lines of a journal, and their length: the last one may be torn."""
    found: list[dict[str, Any]] = []
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


def _append(directory: Path, line: Mapping[str, Any]) -> None:
    with open(directory / JOURNAL, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())
