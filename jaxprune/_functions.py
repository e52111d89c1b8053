"""What is given where a function of variables is wanted."""

import sys
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from jaxprune.errors import TraceError


def check_function(fn: Any, what: str = "fn") -> None:
    """Raises TraceError unless `fn` is a function, as `fn(variables, *inputs)`; says what to call.

    A module can be called too, but holds its variables or finds them elsewhere.
    """
    if way_out := _module(fn):
        name, fix = way_out
        raise TraceError(
            f"{what} must be a function of variables and inputs, got {name}.\nFix: {fix}"
        )
    if not callable(fn):
        raise TraceError(
            f"{what} must be a function of variables and inputs, got {type(fn).__name__} "
            f"{str(fn)[:40]!r}.\nFix: lambda v, x: model.apply(v, x), for example."
        )


def _module(fn: Any) -> tuple[str, str] | None:
    """What a module or a class is called, and what to pass in its place."""
    if isinstance(fn, type):
        name = f"the class {fn.__name__}"
        if issubclass(fn, nnx.Module):
            return name, "jp.nnx.trace(model, *inputs), of a model object."
        return name, "a function of variables, such as model.apply of an object of the class."
    name = f"an object of {type(fn).__name__}"
    if isinstance(fn, nn.Module):
        return (
            name,
            "jp.linen.trace(module, variables, *inputs), or lambda v, x: module.apply(v, x).",
        )
    if isinstance(fn, nnx.Module):
        return name, "jp.nnx.trace(model, *inputs), and graph.fn for what takes a function."
    equinox, keras = sys.modules.get("equinox"), sys.modules.get("keras")
    held = equinox is not None and isinstance(fn, equinox.Module) and not hasattr(fn, "__wrapped__")
    if held and any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(fn)):
        return name, (
            "v, static = eqx.partition(model, eqx.is_array), and the function "
            "lambda v, x: eqx.combine(v, static)(x)."
        )
    if keras is not None and isinstance(fn, keras.Layer):
        return name, "a function that calls model.stateless_call; see jaxprune.resize."
    return None
