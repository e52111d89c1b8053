"""What benchmarks that measure cell by cell keep: journals, and the losses of single examples."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from experiments.runner import directory


class Named(Protocol):
    """A cell."""

    @property
    def name(self) -> str:
        """Returns its place in the journal."""
        ...


Cell = TypeVar("Cell", bound=Named)


def missing(planned: Iterable[Cell], done: Collection[str], minutes: float) -> Iterator[Cell]:
    """Yields the cells that are not done yet, until so many minutes are over."""
    end = time.monotonic() + 60 * minutes
    for cell in planned:
        if time.monotonic() > end:
            return
        if cell.name not in done:
            yield cell


def journals(folder: Path) -> Mapping[str, Any]:
    """Returns {network: its journal}."""
    return {file.stem: directory.read_json(file) for file in sorted(folder.glob("*.json"))}


class Losses:
    """The losses of all test examples, a file for each cell."""

    def __init__(self, root: Path):
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> np.ndarray | None:
        """Returns what was written under a name, None where nothing was."""
        file = self._file(name)
        return np.load(file) if file.exists() else None

    def write(self, name: str, values: np.ndarray) -> None:
        """Keeps the losses of a cell."""
        np.save(self._file(name), values)

    def _file(self, name: str) -> Path:
        return self.root / f"{name.replace('/', '-')}.npy"
