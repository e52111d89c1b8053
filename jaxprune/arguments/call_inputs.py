"""The inputs of a call: by position or by keyword, each with a path; and what is not an input.

An input is a tree with arrays or shapes in it. A keyword without any, such as `train=False`, is a
constant of the call, and so is what NNX keeps by reference (`rngs=nnx.Rngs(0)`).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxprune.arguments import paths

Keywords = Mapping[str, Any]


def split(given: Keywords, constants: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the keywords that are inputs, and the others; `constants` names some of these."""
    inputs = {k: v for k, v in given.items() if k not in constants and _is_input(v)}
    return inputs, {k: v for k, v in given.items() if k not in inputs}


def bound(fn: Callable[..., Any], constants: Keywords) -> Callable[..., Any]:
    """Returns the function with those constants of a call that it takes."""
    if constants:
        constants = {name: value for name, value in constants.items() if _takes(fn, name)}
    return partial(fn, **constants) if constants else fn


def _takes(fn: Callable[..., Any], keyword: str) -> bool:
    try:
        taken = inspect.signature(fn).parameters
    except (TypeError, ValueError):
        return True
    some = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in taken.values())
    return some or keyword in taken


def named(inputs: Sequence[Any], keywords: Keywords) -> list[tuple[str, Any]]:
    """Returns (path, leaf) of all inputs in the order of a traced program: `0/k`, `cache/k`."""
    leaves, _ = paths.keyed((tuple(inputs), dict(keywords)))
    return [(paths.name(key[1:]), leaf) for key, leaf in leaves]


def parameters(fn: Callable[..., Any]) -> list[str]:
    """Returns the names of the inputs that `fn(variables, *inputs)` takes by position.

    A function of ours says them itself; of what has no signature they are not known.
    """
    if (names := getattr(fn, "input_names", None)) is not None:
        return list(names)
    return positional(fn)[1:]


def positional(fn: Callable[..., Any]) -> list[str]:
    """Returns the names of the arguments that a function takes by position, if it says them."""
    return [item.name for item in _by_position(fn)]


def needed(fn: Callable[..., Any]) -> list[str]:
    """Returns those of `positional` that have no default."""
    return [item.name for item in _by_position(fn) if item.default is item.empty]


def _by_position(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        taken = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    return [item for item in taken if item.kind in _BY_POSITION]


_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _is_input(value: Any) -> bool:
    """True for a tree that holds an array or a shape, and nothing that NNX keeps by reference."""
    leaves = jax.tree.leaves(value, is_leaf=lambda item: isinstance(item, nnx.Pytree))
    held = any(isinstance(leaf, nnx.Pytree) for leaf in leaves)
    return not held and any(map(_is_array, leaves))


def _is_array(leaf: Any) -> bool:
    """True for an array or a shape; a number of NumPy is a constant, as a number of Python is."""
    described = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    return described and not isinstance(leaf, np.generic | type)
