"""The types of numbers in which sums and sizes are right."""

from typing import Any

import numpy as np

_WIDE = frozenset(map(np.dtype, (np.float32, np.float64, np.complex64, np.complex128)))


def wide_dtype(dtype: Any) -> Any:
    """Returns the type itself if it has 32 bits of a float or more, else float32.

    So halves, eight-bit floats (which JAX promotes to nothing) and integers become float32, and
    complex numbers stay complex.
    """
    return dtype if dtype in _WIDE else np.dtype(np.float32)


def wide(leaf: Any) -> Any:
    """Returns an array, on the host or traced, in its `wide_dtype`."""
    return leaf.astype(wide_dtype(leaf.dtype))
