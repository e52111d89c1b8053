"""Pytrees on disk: the leaves as one flat Orbax tree, everything else as JSON.

Orbax gets `{"0": array, "1": array, ...}`, numbered in tree order. It refuses empty arrays, NumPy
scalars and slashes in names, and forgets some containers; so paths, dtypes, shapes and the
structure are a JSON value of our own, the description.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxprune.errors import CheckpointError

_PYTHON_SCALARS = (bool, int, float, complex)
_PYTHON = "python "  # before the name of the type, in place of a dtype


def raise_if(problems: list[str], what: str, fix: str) -> None:
    """Raises a CheckpointError that lists the problems, if there are any."""
    if problems:
        more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise CheckpointError("\n  ".join([f"{what}:", *problems[:10], *more]) + f"\nFix: {fix}")


def problems(tree: Any, name: str) -> Iterator[str]:
    """Yields why a leaf of the tree cannot be stored, for every such leaf."""
    for path, leaf in _leaves(tree):
        place = f"{name} leaf {path!r}"
        if not (isinstance(leaf, jax.Array | np.ndarray | np.generic) or _is_python(leaf)):
            yield f"{place} is of type {type(leaf).__name__}, not an array or a number"
        elif isinstance(leaf, jax.Array) and leaf.is_deleted():
            yield f"{place} is a deleted array, perhaps donated to a jitted function"
        elif not _is_numeric(
            dtype := leaf.dtype if hasattr(leaf, "dtype") else np.result_type(leaf)
        ):
            yield f"{place} has the dtype {dtype}, which is not numeric"


def arrays(tree: Any) -> dict[str, Any]:
    """Returns what Orbax stores of the tree."""
    return {
        str(i): leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        for i, leaf in enumerate(jax.tree.leaves(tree))
        if np.size(leaf)
    }


def describe(tree: Any) -> dict[str, Any]:
    """Returns the description of the tree."""
    treedef = jax.tree.structure(tree)
    return {
        "structure": _encode(treedef.unflatten(range(treedef.num_leaves))),
        "leaves": [
            {"path": path, "dtype": _dtype(leaf), "shape": list(np.shape(leaf))}
            for path, leaf in _leaves(tree)
        ],
    }


def load(checkpoint: Path, name: str, description: dict[str, Any], like: Any) -> Any:
    """Returns the tree `name` of an Orbax checkpoint, in the structure of `like` if that is given.

    Raises:
      CheckpointError: the template does not fit, or Orbax cannot read the arrays.
    """
    described = description["leaves"]
    if like is not None:
        _check_template(name, described, like)
    templates = [None] * len(described) if like is None else jax.tree.leaves(like)
    targets = [_target(*both) for both in zip(described, templates, strict=True)]
    stored = {str(i): target for i, target in enumerate(targets) if math.prod(target.shape)}
    try:
        loaded: Any = ocp.load(str(checkpoint), stored, checkpointable_name=name) if stored else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Orbax cannot read the {name} in {str(checkpoint)!r}: {error}\n"
            "Fix: check the shardings of the template; without one the arrays come to the host."
        ) from error
    leaves = [_leaf(leaf, loaded.get(str(i)), targets[i]) for i, leaf in enumerate(described)]
    if like is not None:
        return jax.tree.structure(like).unflatten(leaves)
    return _decode(description["structure"], leaves)


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(p, simple=True, separator="/"), leaf) for p, leaf in leaves]


def _is_python(leaf: Any) -> bool:
    return type(leaf) in _PYTHON_SCALARS  # not a subclass: np.float64 is a float


def _is_numeric(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_))


def _dtype(leaf: Any) -> str:
    return _PYTHON + type(leaf).__name__ if _is_python(leaf) else np.dtype(leaf.dtype).name


def _encode(tree: Any) -> Any:
    """Returns a nest of containers around leaf numbers as JSON."""
    if tree is None or type(tree) is int:
        return tree
    if type(tree) is dict and all(type(key) in (str, int) for key in tree):
        return {"dict": [[key, _encode(child)] for key, child in tree.items()]}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [_encode(child) for child in tree]}
    return {"other": type(tree).__name__}


def _decode(node: Any, leaves: list[Any]) -> Any:
    match node:
        case None:
            return None
        case int():
            return leaves[node]
        case {"dict": items}:
            return {key: _decode(child, leaves) for key, child in items}
        case {"list": children}:
            return [_decode(child, leaves) for child in children]
        case {"tuple": children}:
            return tuple(_decode(child, leaves) for child in children)
        case _:
            raise CheckpointError(
                f"the saved variables contain a {node['other']}, which only a template rebuilds.\n"
                "Fix: restore(path, like=variables); shapes and dtypes are enough."
            )


def _check_template(name: str, described: list[dict[str, Any]], like: Any) -> None:
    saved = {leaf["path"]: f"{leaf['dtype']}{leaf['shape']}" for leaf in described}
    asked = {path: f"{_dtype(leaf)}{list(np.shape(leaf))}" for path, leaf in _leaves(like)}
    raise_if(
        [
            f"{path!r}: saved {saved.get(path, 'nothing')}, template {asked.get(path, 'nothing')}"
            for path in saved | asked
            if saved.get(path) != asked.get(path)
        ],
        f"the template does not fit the saved {name}",
        "build the template from the pruned variables, and with the optimizer that was saved.",
    )


def _target(leaf: dict[str, Any], template: Any) -> Any:
    """Returns what tells Orbax the shape, dtype and sharding to read; it takes no memory."""
    if leaf["dtype"].startswith(_PYTHON):
        return np.zeros((), leaf["dtype"].removeprefix(_PYTHON))
    shape, dtype = tuple(leaf["shape"]), jnp.dtype(leaf["dtype"])
    if (sharding := getattr(template, "sharding", None)) is not None:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    return np.broadcast_to(np.zeros((), dtype), shape)


def _leaf(leaf: dict[str, Any], array: Any, target: Any) -> Any:
    if array is None:  # empty, so not stored
        empty = np.zeros(target.shape, target.dtype)
        return empty if isinstance(target, np.ndarray) else jax.device_put(empty, target.sharding)
    return array.item() if leaf["dtype"].startswith(_PYTHON) else array
