"""The numbers that the steps of a training compute in; what they train, and scores, stay float32.

Evaluation, scores and what recovers a pruning are in float32 whatever the steps compute in.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.runner import devices


def lowered(run: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `run(variables, inputs, ...)` as the steps of this run compute it.

    In bfloat16 it sees the params and its inputs so, and what it gives comes back in float32: the
    gradients too. Running statistics are not lowered, nor are what BatchNorm adds up over a batch.
    """
    if devices.current().precision != "bfloat16":
        return run
    low, back = (partial(jax.tree.map, partial(_cast, t)) for t in (jnp.bfloat16, jnp.float32))

    def computed(variables: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        variables = {**variables, "params": low(variables["params"])}
        return back(run(variables, low(inputs), *arguments, **options))

    return computed


def widened(tree: Any) -> Any:
    """Returns what a training begins with, in float64 where the run is in it."""
    if devices.current().precision != "float64":
        return tree
    return jax.tree.map(partial(_cast, jnp.float64), tree)


def _cast(dtype: Any, leaf: Any) -> Any:
    kind = getattr(leaf, "dtype", None)
    floating = kind is not None and jnp.issubdtype(kind, jnp.floating)
    return leaf.astype(dtype) if floating else leaf
