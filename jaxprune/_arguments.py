"""Checks of arguments that many functions share: graphs, functions, options, trees of arrays."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

from jaxprune._functions import check_function as check_function
from jaxprune.errors import JaxpruneError, TreeError
from jaxprune.graph import ChannelGraph
from jaxprune.paths import flatten, near

Error = Callable[[str], JaxpruneError]


def check_graph(graph: Any) -> None:
    """Raises JaxpruneError unless `graph` is a channel graph."""
    if not isinstance(graph, ChannelGraph):
        raise JaxpruneError(
            f"expected a channel graph, got {kind_of(graph)}.\n"
            "Fix: graph = jp.trace(fn, variables, *inputs); it comes first, but for functions that "
            "take another function or a module."
        )


def check_mapping(value: Any, what: str, example: str, error: Error) -> Mapping[Any, Any]:
    """Returns `value`, or raises `error` unless it is a mapping."""
    if not isinstance(value, Mapping):
        raise error(f"{what} must be {example}, got {kind_of(value)}.\nFix: pass {example}.")
    return value


def check_options(given: Collection[str], known: type, where: str) -> None:
    """Raises JaxpruneError for a keyword that the TypedDict `known` does not have."""
    names = list(known.__annotations__)
    unknown = [name for name in given if name not in names]
    if unknown:
        lines = [
            f"{where}: there is no option {name!r}; near: {near(name, names)}" for name in unknown
        ]
        raise JaxpruneError("\n".join([*lines, f"Fix: one of {names}."]))


def check_flag(value: Any, name: str) -> None:
    """Raises JaxpruneError unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise JaxpruneError(f"{name} must be True or False, got {value!r}.\nFix: {name}=True.")


def check_roles(roles: Any, known: Collection[str], error: Error) -> None:
    """Raises `error` unless `roles` are some of the known roles of slots."""
    words = isinstance(roles, Collection) and not isinstance(roles, str | bytes | Mapping)
    if not words or not roles or any(role not in known for role in roles):
        raise error(
            f"roles must be a collection of words among {tuple(known)}, got {roles!r}.\n"
            "Fix: roles=('out', 'in')."
        )


def check_arrays(tree: Any, what: str) -> dict[str, Any]:
    """Returns {path: leaf} of a tree of arrays, numbers or shapes.

    Raises:
      TreeError: a leaf is something else; every such path is named.
    """
    leaves = flatten(tree)[0]
    bad = [f"{path!r} is {kind_of(leaf)}" for path, leaf in leaves.items() if not is_array(leaf)]
    if bad:
        raise TreeError(
            "\n".join([f"{what} must be a tree of arrays:", *bad[:8]])
            + "\nFix: pass arrays or numbers; close over what is neither."
        )
    return leaves


def is_array(leaf: Any) -> bool:
    """True for an array of any library, a shape, a traced value or a number."""
    return isinstance(leaf, int | float | complex | np.generic | jax.Array | np.ndarray) or (
        hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, type)
    )


def kind_of(value: Any) -> str:
    """Returns what `value` is, short enough for an error."""
    if value is None or isinstance(value, bool | int | float | complex | str | list | tuple):
        text = repr(value)
        return text if len(text) < 40 else f"{text[:36]}..."
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"an array, {value.dtype}{list(value.shape)}"
    return f"a {type(value).__name__}"
