"""Processes that act as one: what fails on one of them fails on all, with one error."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxprune.errors import CheckpointError

_LONGEST = 4096
"""Bytes of an error that the other processes hear."""


def everywhere(action: Callable[[], bytes]) -> list[bytes]:
    """Returns what `action` gives on each process, in their order; every process makes this call.

    Raises:
      CheckpointError: the action has raised on a process; that of the first such one, on all. A
        single process raises what it raised.
    """
    if jax.process_count() == 1:
        return [action()]
    failure = None
    try:
        own = b"\0" + action()
    except Exception as error:
        failure = error
        own = b"\1" + (str(error) or type(error).__name__).encode()[:_LONGEST]
    said = _gathered(own)
    for process, text in enumerate(said):
        if text[0]:
            shown = text[1:].decode(errors="replace")
            raise CheckpointError(f"process {process}: {shown}") from failure
    return [text[1:] for text in said]


def on_first(action: Callable[[], bytes]) -> bytes:
    """Returns on every process what `action` gives on the first, which alone does it."""
    return everywhere(lambda: action() if jax.process_index() == 0 else b"")[0]


def _gathered(own: bytes) -> list[bytes]:
    """Returns the texts of all processes."""
    lengths = np.ravel(multihost_utils.process_allgather(np.int32(len(own))))
    told = np.zeros(lengths.max(), np.uint8)
    told[: len(own)] = np.frombuffer(own, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(told), np.uint8)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]
