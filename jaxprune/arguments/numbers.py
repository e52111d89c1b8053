"""Numbers among the arguments: Python's, NumPy's and JAX's are one."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.errors import JaxpruneError


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
    """True for a real number that is not a bool and not traced."""
    number = plain(value)
    return isinstance(number, Real) and not isinstance(number, bool)


def is_integer(value: Any) -> bool:
    """True for an integer that is not a bool and not traced."""
    return is_number(value) and isinstance(plain(value), int)


def is_count(value: Any) -> bool:
    """True for an integer of at least 1."""
    return is_integer(value) and plain(value) >= 1


def is_traced_number(value: Any) -> bool:
    """True for a traced real scalar, whose value no check can see."""
    real = isinstance(value, Tracer) and not jnp.issubdtype(value.dtype, np.complexfloating)
    return real and value.ndim == 0 and jnp.issubdtype(value.dtype, np.number)


def check_positive(
    value: Any, name: str, fix: str, error: Callable[[str], JaxpruneError] = JaxpruneError
) -> Any:
    """Returns a number above 0 as Python's, or raises `error` unless it is finite and above 0."""
    if not (is_number(value) and 0 < plain(value) < math.inf):
        raise error(f"{name} must be a number above 0 and finite, got {value!r}.\nFix: {fix}")
    return plain(value)


def check_count(
    value: Any,
    name: str,
    fix: str,
    error: Callable[[str], JaxpruneError] = JaxpruneError,
    least: int = 1,
) -> int:
    """Returns an integer of at least `least` as Python's, or raises `error`."""
    if not (is_integer(value) and plain(value) >= least):
        raise error(f"{name} must be an int, at least {least}, got {value!r}.\nFix: {fix}")
    return plain(value)


def check_finite(
    value: Any, name: str, fix: str, error: Callable[[str], JaxpruneError] = JaxpruneError
) -> Any:
    """Returns a number of at least 0 as Python's, a traced one as it is, or raises `error`."""
    if is_traced_number(value):
        return value
    if not (is_number(value) and 0 <= plain(value) < math.inf):
        raise error(f"{name} must be finite and at least 0, got {value!r}.\nFix: {fix}")
    return plain(value)


def check_share(
    value: Any, name: str, fix: str, error: Callable[[str], JaxpruneError] = JaxpruneError
) -> Any:
    """Returns a number in [0, 1] as Python's, or raises `error`."""
    if not (is_number(value) and 0 <= plain(value) <= 1):
        raise error(f"{name} must be in [0, 1], got {value!r}.\nFix: {fix}")
    return plain(value)
