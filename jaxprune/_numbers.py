"""Numbers among the arguments: Python's, NumPy's and JAX's are one."""

from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def plain(value: Any) -> Any:
    """Returns a scalar of NumPy or JAX as Python's number, anything else as it is.

    >>> plain(np.float32(0.5)), plain(jnp.int32(3)), plain("0.5")
    (0.5, 3, '0.5')
    """
    scalar = isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0
    if not scalar or isinstance(value, Tracer):
        return value
    return value.item() if jnp.issubdtype(value.dtype, np.number) else value


def is_number(value: Any) -> bool:
    """True for a real number that is no bool and not traced."""
    found = plain(value)
    return isinstance(found, Real) and not isinstance(found, bool)


def is_integer(value: Any) -> bool:
    """True for an integer that is no bool and not traced."""
    return is_number(value) and isinstance(plain(value), int)


def is_count(value: Any) -> bool:
    """True for an integer of at least 1."""
    return is_integer(value) and plain(value) >= 1


def is_traced_number(value: Any) -> bool:
    """True for a traced real scalar, whose value no check can see."""
    real = isinstance(value, Tracer) and not jnp.issubdtype(value.dtype, np.complexfloating)
    return real and value.ndim == 0 and jnp.issubdtype(value.dtype, np.number)
