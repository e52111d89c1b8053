"""Several processes in one run: the first owns its directory, and all of them decide alike.

Every process calls every function here, in the same order; with one process nothing is exchanged.
"""

import hashlib
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.runner.config import Common

T = TypeVar("T")
APART = ("data_dir", "workers", "process")
"""Fields of a configuration in which the processes of one run may differ."""

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def begin(config: Common) -> None:
    """Joins the processes of the run, if it is of several; once, and before JAX has devices.

    Raises:
      ValueError: JAX does not find them.
    """
    if not config.distributed or jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.process,
            heartbeat_timeout_seconds=config.heartbeat,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the processes of the run do not find each other: {error}\n"
            "Fix: where JAX does not know the cluster give every process --coordinator HOST:PORT "
            "--processes COUNT --process NUMBER."
        ) from error


def first() -> bool:
    """Returns whether this is the process that owns the directory of the run."""
    return jax.process_index() == 0


def shared(make: Callable[[], T]) -> T:
    """Returns on every process what `make` gives on the first, which alone calls it.

    Raises:
      Exception: what `make` raises there, on every process.
    """
    if _alone():
        return make()
    told = b""
    if first():
        token = _ALONE.set(True)
        try:
            told = pickle.dumps((make(), None))
        except Exception as error:
            told = pickle.dumps((None, _portable(error)))
        finally:
            _ALONE.reset(token)
    size = multihost_utils.broadcast_one_to_all(np.int32(len(told)))
    sent = np.frombuffer(told, np.uint8) if first() else np.zeros(int(size), np.uint8)
    value, error = pickle.loads(_bytes(multihost_utils.broadcast_one_to_all(sent)))
    if error is not None:
        raise error
    return value


def adopted(value: T) -> T:
    """Returns on every process the value, on the host, of the first; one process keeps its own."""
    return value if _alone() else shared(lambda: jax.device_get(value))


def own(journal: Path) -> Path | None:
    """Returns the file from which a computation of one process goes on; None where there are more.

    What one of them would find in it, and skip, all must compute.
    """
    return journal if jax.process_count() == 1 else None


def together(make: Callable[[], T]) -> T:
    """Returns what `make` gives, unless it raises on some process.

    Raises:
      Exception: that of the first process where it raises, on every process.
    """
    if _alone():
        return make()
    value, told = None, b""
    try:
        value = make()
    except Exception as error:
        told = pickle.dumps(_portable(error))
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(len(told))))
    if sizes.any():
        sent = np.frombuffer(told.ljust(sizes.max(), b"\0"), np.uint8)
        number = int(np.flatnonzero(sizes)[0])
        error = pickle.loads(_bytes(multihost_utils.process_allgather(sent)[number]))
        error.add_note(f"This was in process {number} of {jax.process_count()}.")
        raise error
    return value  # pyright: ignore[reportReturnType]


def check_alike(config: Mapping[str, Any], dataset: Any) -> None:
    """Checks that all processes were asked for the same, and read the same data.

    Args:
      config: the configuration, a JSON value.
      dataset: what was read.

    Raises:
      ValueError: they differ, on every process.
    """
    if _alone():
        return
    mine = {name: value for name, value in config.items() if name not in APART}
    mine["digest of the data"] = _digest(dataset)
    theirs = adopted(mine)

    def check() -> None:
        other = [
            f"{name} is {mine.get(name)!r}, in process 0 {theirs.get(name)!r}"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]
        if other:
            raise ValueError(
                f"process {jax.process_index()} runs something else than process 0:\n"
                + "\n".join(other)
                + "\nFix: the same command, on the same data, in every process."
            )

    together(check)


def _alone() -> bool:
    return jax.process_count() == 1 or _ALONE.get()


def _bytes(sent: Any) -> bytes:
    return np.asarray(sent, np.uint8).tobytes()


def _portable(error: Exception) -> Exception:
    """Returns the error, or one of its words where it cannot be sent."""
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:
        again = None
    return error if str(again) == str(error) else RuntimeError(f"{type(error).__name__}: {error}")


def _digest(dataset: Any) -> str:
    digest = hashlib.sha256()
    for part in _parts(dataset):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """Yields what data consist of: arrays and numbers, not the functions that read a stream."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        yield from _parts(tuple(value.flat))
    elif isinstance(value, np.ndarray):
        yield f"{value.shape} {value.dtype}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif is_dataclass(value):
        for field in fields(value):
            yield from _parts(getattr(value, field.name))
    elif isinstance(value, tuple):
        for each in value:
            yield from _parts(each)
    elif not callable(value):
        yield repr(value).encode()
