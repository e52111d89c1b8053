"""Sizes of inputs that are not numbers yet, such as the batch `jax.export.symbolic_shape("b")`.

A trace takes 1 for every one of their names, so that all figures are those of one example.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
from jax import export

from jaxprune.errors import TraceError

_NAME = re.compile(r"[A-Za-z_]\w*\b(?!\()")
_FUNCTIONS: Mapping[str, Callable[..., int]] = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "max": max,
    "min": min,
}


def is_symbolic(size: Any) -> bool:
    """True for a size that is an expression of names."""
    return export.is_symbolic_dim(size)


def names(inputs: Any) -> dict[str, bool]:
    """Returns {name: whether it is a batch, a leading axis of the inputs and nothing else}."""
    is_batch: dict[str, bool] = {}
    for leaf in jax.tree.leaves(inputs):
        for axis, size in enumerate(getattr(leaf, "shape", ())):
            for name in _NAME.findall(str(size)) if is_symbolic(size) else ():
                is_batch[name] = is_batch.get(name, True) and axis == 0 and str(size) == name
    return is_batch


def at_one(inputs: Any) -> Any:
    """Returns the inputs with 1 in place of every name in their sizes.

    Raises:
      TraceError: a size would not be positive.
    """

    def settle(leaf: Any) -> Any:
        shape = getattr(leaf, "shape", ())
        if not any(map(is_symbolic, shape)):
            return leaf
        sizes = tuple(_one(str(size)) if is_symbolic(size) else size for size in shape)
        if min(sizes) < 1:
            raise TraceError(
                f"an input has the shape {shape}, which is {sizes} with 1 for each name.\nFix: "
                "trace with numbers; only sizes that are at least 1 then may be symbolic."
            )
        return jax.ShapeDtypeStruct(sizes, leaf.dtype, weak_type=getattr(leaf, "weak_type", False))

    return jax.tree.map(settle, inputs)


@lru_cache(maxsize=256)
def _one(size: str) -> int:
    """Evaluates what JAX prints: sums, products, powers and a few functions of names."""
    known = dict.fromkeys(_NAME.findall(size), 1)
    try:
        return eval(size.replace("^", "**"), {"__builtins__": {}}, {**_FUNCTIONS, **known})
    except ZeroDivisionError:
        return 0
