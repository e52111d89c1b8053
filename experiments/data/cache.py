"""What data sets decode once: arrays in `$XDG_CACHE_HOME/jaxprune`, `~/.cache/jaxprune` by default.

A file has a name that changes with what it is made of. Delete them at will.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np


def folder() -> Path:
    """Returns where the files are."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "jaxprune"


def digest(identity: object) -> str:
    """Returns a name for what has this `repr`."""
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:16]


def save(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Writes a file whole or not at all; where that is not possible, it says so and goes on."""
    file = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            write(file)
        os.replace(file.name, path)
    except OSError as error:
        logging.getLogger(__name__).warning("cannot keep the decoded images: %s", error)
        if file is not None:
            Path(file.name).unlink(missing_ok=True)


def mapped(identity: object, decode: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the array that `decode` gives, mapped from its file: it takes no memory until read.

    Args:
      identity: what it is made of, by its `repr`.
      decode: makes it, the first time.
    """
    path = folder() / "mapped" / f"{digest(identity)}.npy"
    if (found := _open(path)) is None:
        array = decode()
        save(path, lambda file: np.save(file, array))
        found = _open(path)
        return array if found is None else found
    return found


def _open(path: Path) -> np.ndarray | None:
    try:
        return np.load(path, mmap_mode="r")
    except Exception:  # what a damaged file raises may be anything
        return None
