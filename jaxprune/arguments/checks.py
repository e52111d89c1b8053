"""Checks of arguments that many functions share: mappings, options, functions, trees of arrays."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxprune.arguments.paths import flatten, near
from jaxprune.errors import JaxpruneError, PatternError, TreeError

Error = Callable[[str], JaxpruneError]


def check_mapping(value: Any, what: str, example: str, error: Error) -> Mapping[Any, Any]:
    """Returns `value`, or raises `error` unless it is a mapping."""
    if not isinstance(value, Mapping):
        raise error(f"{what} must be {example}, got {kind_of(value)}.\nFix: pass {example}.")
    return value


def check_options(given: Collection[str], known: type | Collection[str], where: str) -> None:
    """Raises JaxpruneError for a keyword that is not known, by name or in a TypedDict."""
    names = list(known.__annotations__ if isinstance(known, type) else known)
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


def check_callable(
    value: Any, name: str, example: str, error: Error = JaxpruneError, *, optional: bool = False
) -> None:
    """Raises `error` unless `value` is a function, or None where it is optional."""
    if not (callable(value) or (optional and value is None)):
        raise error(f"{name} must be a function, got {kind_of(value)}.\nFix: {example}")


def check_pytree(tree: Any, what: str, fix: str) -> None:
    """Raises TreeError where something that is not a container stands for a tree of arrays."""
    if "" in flatten(tree)[0]:
        raise TreeError(f"{what} must be a tree of arrays, got {kind_of(tree)}.\nFix: {fix}")


def check_batches(batches: Any, where: str) -> Iterator[Any]:
    """Yields the batches, each once it is known to be a tree of arrays."""
    fix = "Fix: an iterable of batches, each an array or a tree of arrays, such as [images]."
    if not isinstance(batches, Iterable) or isinstance(batches, str | bytes | Mapping):
        raise JaxpruneError(f"{where}: batches must be several, got {kind_of(batches)}.\n{fix}")
    for number, batch in enumerate(batches):
        leaves = flatten(batch)[0]
        bad = [kind_of(leaf) for leaf in leaves.values() if not is_array(leaf)]
        if bad or not leaves:
            kind = bad[0] if bad else kind_of(batch)
            raise JaxpruneError(f"{where}: batch {number} is or holds {kind}, no array.\n{fix}")
        yield batch


def check_examples(batches: Any, where: str) -> Iterator[Any]:
    """Yields the batches, each once it is known to be a tree of arrays of several examples."""
    for number, batch in enumerate(check_batches(batches, where), 1):
        if not all(np.shape(leaf) and np.shape(leaf)[0] for leaf in jax.tree.leaves(batch)):
            raise JaxpruneError(
                f"{where}: batch {number} has no examples along its first axis.\n"
                "Fix: every array of a batch is [examples, ...]; leave empty batches out."
            )
        yield batch


def check_overrides(overrides: Any) -> None:
    """Raises PatternError unless these are {pattern of modules: {attribute: value}}, or None."""
    example = "{pattern of module paths: {attribute: value}}"
    for values in check_mapping(overrides or {}, "overrides", example, PatternError).values():
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise PatternError(
                f"overrides must be {example}, got {overrides!r:.80}.\n"
                "Fix: overrides={'Block_0': {'heads': 2}}."
            )


def check_path(path: Any, error: Error) -> None:
    """Raises `error` unless `path` is one of the file system."""
    if not isinstance(path, str | os.PathLike):
        raise error(
            f"path must be a string or a pathlib.Path, got {kind_of(path)}.\nFix: 'pruned'."
        )


def check_structure(tree: Any, like: Any, what: str, fix: str) -> None:
    """Raises TreeError unless a tree has the structure of another."""
    got, expected = jax.tree.structure(tree), jax.tree.structure(like)
    if got != expected:
        raise TreeError(
            f"{what} does not mirror the parameters.\n"
            f"  parameters: {expected}\n  given:      {got}\nFix: {fix}"
        )


def check_names(names: Any, what: str, error: Error) -> list[str]:
    """Returns one name or several as a list, or raises `error`."""
    given = [names] if isinstance(names, str) else names
    given = list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(name, str) for name in given):
        raise error(
            f"{what} must be names of groups, got {names!r}.\nFix: print(graph) lists them."
        )
    return given


def check_key(key: Any, error: Error) -> None:
    """Raises `error` unless `key` is a PRNG key."""
    try:
        jax.eval_shape(jax.random.uniform, key)
    except (TypeError, ValueError) as cause:
        raise error(
            f"key must be a PRNG key, got {kind_of(key)}.\nFix: jax.random.key(0)."
        ) from cause


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
    """True for an array of any library, a shape, a traced value or a number; not for words."""
    if isinstance(leaf, np.generic | np.ndarray):
        return leaf.dtype.kind in "biufcV"
    return isinstance(leaf, int | float | complex) or (
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
        return f"{value.dtype}{list(value.shape)}"
    return f"a {type(value).__name__}"
