"""Where the code of a network raised."""

import os
import traceback
from pathlib import Path

import jax

_OURS = tuple(
    f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(jax.__file__).parent)
)


def place(error: Exception) -> str:
    """Returns where the code of the network raised, outside of JAX and of this library."""
    codes = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    theirs = [(code, line) for code, line in codes if not code.co_filename.startswith(_OURS)]
    if not theirs:
        return ""
    code, line = theirs[-1]
    return f"\nat {code.co_filename}:{line} ({code.co_qualname})"
