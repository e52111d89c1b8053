"""Values in words that are the same in every process, JAX version and batch."""

import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def shown(value: Any) -> str:
    """Returns an argument in words, the same in every process and for every batch.

    >>> shown({"rngs": {1: np.ones(3)}, "scale": [0.5, None], "act": shown})
    '{act: shown, rngs: {1: array}, scale: (0.5, None)}'
    """
    match value:
        case float():
            return f"{value:.6g}"
        case None | bool() | int() | str():
            return repr(value)
        case list() | tuple():
            return f"({', '.join(map(shown, value))})"
        case Mapping():
            keys = sorted(value, key=str)
            return f"{{{', '.join(f'{key}: {shown(value[key])}' for key in keys)}}}"
        case type() | types.FunctionType():
            return value.__qualname__
        case jax.Array() | np.ndarray() | np.generic() | jax.ShapeDtypeStruct():
            return "array"
    return type(value).__name__
