"""Values of two programs, compared."""

from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def host(value: Any) -> np.ndarray:
    """Returns a constant as numbers, also where it is a key, or all else is traced."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        with jax.ensure_compile_time_eval():
            value = jax.random.key_data(value)
    return np.asarray(value)


def is_float(value: Any) -> bool:
    """True for one floating number."""
    return np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.floating)


def same(a: Any, b: Any) -> bool:
    """True for equal parameters; not a number equals itself."""
    both = isinstance(a, float) and isinstance(b, float)
    return a == b or (both and np.isnan(a) and np.isnan(b))


def plain(value: Any) -> bool:
    """True for a parameter that is made of numbers and words."""
    if isinstance(value, tuple | list):
        return all(map(plain, value))
    return value is None or isinstance(
        value, bool | int | float | str | Enum | np.integer | np.dtype
    )
