"""Pytrees on disk: the leaves as one flat Orbax tree, everything else as JSON.

Orbax gets `{"0": array, "1": array, ...}`, numbered in tree order. It refuses empty arrays, NumPy
scalars and slashes in names, and forgets some containers; so paths, dtypes, shapes and the
structure are a JSON value of our own, the description.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments import paths
from jaxprune.checkpoint.values import DEEPEST, raise_if
from jaxprune.errors import CheckpointError, TreeError

_PYTHON_SCALARS = (bool, int, float, complex)
_PYTHON = "python "  # before the name of the type, in place of a dtype
_MOST_BYTES, _MOST_AXES = 2**62, 32


class Plan(NamedTuple):
    """How to read a tree; it takes no memory."""

    structure: Any
    """The stored structure, or the treedef of a template."""
    leaves: Sequence[Mapping[str, Any]]
    """The descriptions of the leaves, in the order of the structure."""
    numbers: Sequence[int]
    """Their numbers in the checkpoint."""
    targets: Sequence[Any]
    """What tells Orbax their shapes, dtypes and shardings."""


def problems(tree: Any, name: str) -> Iterator[str]:
    """Yields why a tree cannot be stored: for every leaf, or why it is not a tree."""
    if _too_deep(tree):
        yield f"{name} is more than {DEEPEST} levels deep, or holds itself"
        return
    try:
        leaves, _ = paths.keyed(tree)
    except TreeError as error:
        yield f"{name}: {str(error).partition(chr(10))[0]}"
        return
    for key, leaf in leaves:
        place = f"{name} leaf {_path(key)!r}"
        if not (isinstance(leaf, jax.Array | np.ndarray | np.generic) or _is_python(leaf)):
            yield f"{place} is of type {type(leaf).__name__}, not an array or a number"
        elif isinstance(leaf, jax.Array) and leaf.is_deleted():
            yield f"{place} is a deleted array, perhaps donated to a jitted function"
        elif isinstance(leaf, jax.Array) and _is_local(leaf):
            yield (
                f"{place} is on devices of one process alone: jax.device_put it to a mesh of all, "
                "or pass np.asarray of what every process has"
            )
        elif not _is_numeric(
            dtype := leaf.dtype if hasattr(leaf, "dtype") else np.result_type(leaf)
        ):
            yield f"{place} has the dtype {dtype}, which is not numeric"


def _is_local(leaf: jax.Array) -> bool:
    return jax.process_count() > 1 and leaf.is_fully_addressable


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


def description_problems(description: Any, name: str) -> Iterator[str]:
    """Yields why a value is not the description of a tree."""
    match description:
        case {"structure": structure, "leaves": list(leaves)}:
            bad = [i for i, leaf in enumerate(leaves) if not _is_leaf(leaf)]
            yield from (f"leaf {i} of the {name} is not that of an array" for i in bad)
            if not _is_structure(structure, len(leaves)):
                yield f"the structure of the {name} is not a tree of its leaves"
        case _:
            yield f"the {name} are not described by a structure and leaves"


def plan(name: str, description: Mapping[str, Any], like: Any) -> Plan:
    """Returns how to read a tree, in the structure of `like` if that is given.

    Raises:
      CheckpointError: the template does not fit.
    """
    described = description["leaves"]
    if like is None:
        targets = [_target(leaf, None) for leaf in described]
        return Plan(description["structure"], described, range(len(described)), targets)
    templates = _template(like, name)
    saved = _numbered((leaf["path"], f"{leaf['dtype']}{leaf['shape']}") for leaf in described)
    asked = _numbered((path, f"{_dtype(leaf)}{list(np.shape(leaf))}") for path, leaf in templates)
    raise_if(
        [
            f"{key[0]!r}: saved {saved.get(key, 'nothing')}, template {asked.get(key, 'nothing')}"
            for key in saved | asked
            if saved.get(key) != asked.get(key)
        ],
        f"the template does not fit the saved {name}",
        "build the template from the pruned variables, and with the optimizer that was saved.",
    )
    places = {key: i for i, key in enumerate(saved)}
    numbers = [places[key] for key in asked]
    leaves = [described[i] for i in numbers]
    targets = [
        _target(leaf, template) for leaf, (_, template) in zip(leaves, templates, strict=True)
    ]
    return Plan(jax.tree.structure(like), leaves, numbers, targets)


def load(checkpoint: Path, name: str, plan: Plan) -> Any:
    """Returns the tree `name` of an Orbax checkpoint.

    Raises:
      CheckpointError: Orbax cannot read the arrays.
    """
    from orbax.checkpoint import v1 as ocp  # when used: importing it is slow

    both = zip(plan.numbers, plan.targets, strict=True)
    stored = {str(number): target for number, target in both if math.prod(target.shape)}
    try:
        loaded: Any = ocp.load(str(checkpoint), stored, checkpointable_name=name) if stored else {}
        return assembled(plan, loaded)
    except Exception as error:
        raise CheckpointError(
            f"Orbax cannot read the {name} in {str(checkpoint)!r}: {error}\n"
            "Fix: check the shardings of the template; without one the arrays come to the host."
        ) from error


def assembled(plan: Plan, loaded: Mapping[str, Any]) -> Any:
    """Returns the tree of arrays, given as {number: array}; empty ones may be absent."""
    leaves = [
        _leaf(leaf, loaded.get(str(number)), target)
        for leaf, number, target in zip(plan.leaves, plan.numbers, plan.targets, strict=True)
    ]
    if isinstance(plan.structure, jax.tree_util.PyTreeDef):
        return plan.structure.unflatten(leaves)
    return _decode(plan.structure, leaves)


def check_containers(plan: Plan, name: str) -> None:
    """Raises if only a template can rebuild the tree."""
    if isinstance(plan.structure, jax.tree_util.PyTreeDef):
        return
    argument = {
        "variables": "like=variables); shapes and dtypes are enough.",
        "opt_state": "opt_state=jax.eval_shape(tx.init, params)).",
    }
    for kind in _others(plan.structure):
        raise CheckpointError(
            f"the saved {name} contain a {kind}, which only a template rebuilds.\n"
            f"Fix: restore(path, {argument[name]}"
        )


def _template(like: Any, name: str) -> list[tuple[str, Any]]:
    """Returns [(path, leaf)] of a template."""
    try:
        leaves = _leaves(like)
    except TreeError as error:
        raise CheckpointError(f"the template of the {name}: {error}") from error
    raise_if(
        [
            f"{path!r} is of type {type(leaf).__name__}"
            for path, leaf in leaves
            if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")) and not _is_python(leaf)
        ],
        f"the template of the {name} holds leaves without shape and dtype",
        "a template is a tree of arrays or jax.ShapeDtypeStructs.",
    )
    return leaves


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    return [(_path(key), leaf) for key, leaf in paths.keyed(tree)[0]]


def _path(key: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(key, simple=True, separator="/")


def _numbered(items: Iterable[tuple[str, str]]) -> dict[tuple[str, int], str]:
    """{(path, how many came before it with the same path): what stands there}."""
    seen: Counter[str] = Counter()
    numbered = {}
    for path, text in items:
        numbered[path, seen[path]] = text
        seen[path] += 1
    return numbered


def _is_python(leaf: Any) -> bool:
    return type(leaf) in _PYTHON_SCALARS  # not a subclass: np.float64 is a float


def _is_numeric(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_))


def _dtype(leaf: Any) -> str:
    return _PYTHON + type(leaf).__name__ if _is_python(leaf) else np.dtype(leaf.dtype).name


def _too_deep(tree: Any) -> bool:
    todo = [(tree, 0)]
    while todo:
        node, depth = todo.pop()
        if isinstance(node, dict | list | tuple):
            if depth >= DEEPEST:
                return True
            children = node.values() if isinstance(node, dict) else node
            todo.extend((child, depth + 1) for child in children)
    return False


def _encode(tree: Any) -> Any:
    """Returns a nest of containers around leaf numbers as JSON."""
    if tree is None or type(tree) is int:
        return tree
    if type(tree) is dict and all(type(key) in (str, int) for key in tree):
        return {"dict": [[key, _encode(child)] for key, child in tree.items()]}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [_encode(child) for child in tree]}
    return {"other": type(tree).__name__}


def _decode(node: Any, leaves: Sequence[Any]) -> Any:
    match node:
        case {"dict": items}:
            return {key: _decode(child, leaves) for key, child in items}
        case {"list": children}:
            return [_decode(child, leaves) for child in children]
        case {"tuple": children}:
            return tuple(_decode(child, leaves) for child in children)
        case _:
            return None if node is None else leaves[node]


def _children(node: Any) -> list[Any] | None:
    """The children of a node of a structure, [] for a leaf and None; None for what is not one."""
    match node:
        case None | {"other": str()}:
            children = []
        case int() if type(node) is int:
            children = []
        case {"list": list(children)} | {"tuple": list(children)}:
            pass
        case {"dict": list(items)} if all(map(_is_item, items)):
            children = [child for _, child in items]
            if len({key for key, _ in items}) < len(items):
                return None
        case _:
            return None
    return None if isinstance(node, dict) and len(node) > 1 else children


def _is_item(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and type(item[0]) in (str, int)


def _nodes(structure: Any) -> Iterator[Any]:
    """Yields the nodes of a structure, in order; what is not one as it stands."""
    todo = [structure]
    while todo:
        node = todo.pop()
        yield node
        todo.extend(reversed(_children(node) or []))


def _is_structure(structure: Any, leaves: int) -> bool:
    """True if each of so many leaves stands once in a structure, or in what it does not show."""
    nodes = list(_nodes(structure))
    if any(_children(node) is None for node in nodes):
        return False
    numbers = [node for node in nodes if type(node) is int]
    known = set(range(leaves))
    if any(True for _ in _others(structure)):
        return len(set(numbers)) == len(numbers) and known.issuperset(numbers)
    return sorted(numbers) == [*range(leaves)]


def _others(structure: Any) -> Iterator[str]:
    """Yields the names of the containers that a structure only names."""
    for node in _nodes(structure):
        if isinstance(node, dict) and "other" in node:
            yield node["other"]


def _is_leaf(leaf: Any) -> bool:
    match leaf:
        case {"path": str(), "dtype": str(name), "shape": list(shape)}:
            pass
        case _:
            return False
    if any(type(size) is not int or size < 0 for size in shape) or len(shape) > _MOST_AXES:
        return False
    if name.startswith(_PYTHON):
        return not shape and name.removeprefix(_PYTHON) in {t.__name__ for t in _PYTHON_SCALARS}
    try:
        dtype = jnp.dtype(name)
    except (TypeError, ValueError, SyntaxError):
        return False
    size = dtype.itemsize * math.prod(size for size in shape if size)
    return dtype.name == name and _is_numeric(dtype) and size < _MOST_BYTES


def _target(leaf: Mapping[str, Any], template: Any) -> Any:
    """Returns what tells Orbax the shape, dtype and sharding to read; it takes no memory."""
    if leaf["dtype"].startswith(_PYTHON):
        return np.zeros((), leaf["dtype"].removeprefix(_PYTHON))
    shape, dtype = tuple(leaf["shape"]), jnp.dtype(leaf["dtype"])
    if (sharding := getattr(template, "sharding", None)) is not None:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    return np.broadcast_to(np.zeros((), dtype), shape)


def _leaf(leaf: Mapping[str, Any], array: Any, target: Any) -> Any:
    if array is None:  # empty, so not stored
        empty = np.zeros(target.shape, target.dtype)
        return empty if isinstance(target, np.ndarray) else jax.device_put(empty, target.sharding)
    if (array.shape, array.dtype) != (target.shape, target.dtype):
        raise ValueError(f"{leaf['path']!r} is {array.dtype}{list(array.shape)} in the files")
    return array.item() if leaf["dtype"].startswith(_PYTHON) else array
