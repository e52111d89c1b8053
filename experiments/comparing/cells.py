"""The cells of a comparison: each a method, a budget and a seed, with a small file of its own.

A file is written whole or not at all, and says by a hash what the cell was asked for. Files of
several machines merge by copying; what is missing, or was asked for otherwise, is known by name.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.comparing.config import FREE, Config
from experiments.comparing.registry import METHODS
from experiments.runner import config as configuration
from experiments.runner import directory, processes


class Cell(NamedTuple):
    """What is measured by itself."""

    method: str
    share: float  # of the dense MACs that may stay
    seed: int

    @property
    def name(self) -> str:
        """Returns `l1/0.5-0`."""
        return f"{self.method}/{self.share}-{self.seed}"


def planned(config: Config) -> Iterator[Cell]:
    """Yields all cells: every method once before any a second time, and budget by budget."""
    names = config.methods or tuple(METHODS)
    for share in config.budgets:
        for seed in config.seeds:
            yield from (Cell(name, share, seed) for name in names)


def asked(config: Config, method: str, digest: str) -> dict[str, Any]:
    """Returns all that a cell depends on beside budget and seed, a JSON value.

    Args:
      config: of the comparison.
      method: its name.
      digest: of the dense network.
    """
    shared = {n: v for n, v in configuration.to_json(config).items() if n not in FREE}
    return {"network": digest, "settings": METHODS[method].settings, "config": shared}


def hashed(value: Mapping[str, Any]) -> str:
    """Returns the start of the SHA-256 of a JSON value."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def folder(config: Config) -> Path:
    """Returns where the cells of a preset are."""
    return config.out / "compare" / config.preset


def file(config: Config, cell: Cell) -> Path:
    """Returns where a cell is written."""
    return folder(config) / f"{cell.name}.json"


def read(config: Config, cell: Cell, digest: str) -> dict[str, Any] | None:
    """Returns what was measured of a cell; None where it is missing or was asked for otherwise."""
    path = file(config, cell)
    found = processes.shared(lambda: directory.read_json(path) if path.exists() else {})
    return found if found.get("hash") == hashed(asked(config, cell.method, digest)) else None


def write(config: Config, cell: Cell, digest: str, entry: Mapping[str, Any]) -> None:
    """Writes what was measured of a cell."""
    path, value = file(config, cell), asked(config, cell.method, digest)

    def written() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        directory.write_json(path, {"hash": hashed(value), "asked": value, **entry})

    processes.shared(written)


def packed(right: np.ndarray) -> str:
    """Returns whether each test image was right, f32[n] of 0 and 1, as text.

    >>> unpacked(packed(np.array([1.0, 0.0, 1.0])), 3).tolist()
    [1.0, 0.0, 1.0]
    """
    return base64.b64encode(np.packbits(right > 0.5).tobytes()).decode()


def unpacked(text: str, images: int) -> np.ndarray:
    """Returns what `packed` was given, of so many images."""
    bits = np.frombuffer(base64.b64decode(text), np.uint8)
    return np.unpackbits(bits, count=images).astype(np.float64)


def missing(config: Config, digest: str, cells: Sequence[Cell]) -> list[str]:
    """Returns the names of the cells that are not measured, or for another question."""
    return [cell.name for cell in cells if read(config, cell, digest) is None]
