"""Names of the leaves of a pytree, and patterns over names."""

import difflib
import re
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from typing import Any

import jax

from jaxprune.errors import PatternError, TreeError


def flatten(tree: Any) -> tuple[dict[str, Any], Any]:
    """Returns ({path: leaf}, treedef) in tree order; a path reads `params/Conv_0/kernel`.

    A box around an array, such as `nn.Partitioned`, is not a part of the path.

    Raises:
      TreeError: two leaves have one path, or JAX cannot flatten the tree.
    """
    leaves, treedef = keyed(tree)
    named = {name(key): leaf for key, leaf in leaves}
    if len(named) < len(leaves):
        raise TreeError(_collisions([key for key, _ in leaves]))
    return named, treedef


def keyed(tree: Any) -> tuple[list[tuple[tuple[Any, ...], Any]], Any]:
    """Returns ([(key path, leaf)], treedef) in tree order.

    Raises:
      TreeError: the keys of a dict have no order, or the tree holds itself or is too deep.
    """
    try:
        return jax.tree_util.tree_flatten_with_path(tree)
    except (RecursionError, SystemError) as error:  # JAX's flattening runs out of stack
        raise TreeError(
            "the tree holds itself, or is nested too deeply for JAX.\nFix: pass a nest of dicts, "
            "lists and tuples of arrays."
        ) from error
    except ValueError as error:
        if "sorting pytree" not in str(error):
            raise
        raise TreeError(
            "a dict of the tree has keys that cannot be ordered, such as 1 beside 'a'.\n"
            "Fix: give the keys of a dict one type, str for preference."
        ) from error


def name(key: tuple[Any, ...]) -> str:
    """Returns a key path of JAX as `params/Conv_0/kernel`."""
    boxed = len(key) > 1 and key[-1] == jax.tree_util.GetAttrKey("value")
    return jax.tree_util.keystr(key[:-1] if boxed else key, simple=True, separator="/")


def _collisions(keys: list[tuple[Any, ...]]) -> str:
    """Says which leaves have one path, each as it is written in Python."""
    same: dict[str, list[str]] = {}
    for key in keys:
        same.setdefault(name(key), []).append(f"tree{jax.tree_util.keystr(key)}")
    lines = [
        f"{path!r} is the path of {' and of '.join(places)}"
        for path, places in same.items()
        if len(places) > 1
    ]
    more = [f"... and {len(lines) - 8} more"] if len(lines) > 8 else []
    return "\n".join(
        [
            "two leaves of the tree have one path, so a group could not tell them apart:",
            *lines[:8],
            *more,
            "Fix: rename one of the keys; a '/' in a key reads as one more level, and 1 as '1'.",
        ]
    )


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(escaped, re.DOTALL)


def matches(pattern: str, name: str) -> bool:
    """True if `pattern` covers the whole of `name`; `*` (also across `/`) and `?` are special.

    So a name that has them covers itself.
    """
    return _compiled(pattern).fullmatch(name) is not None


def require(patterns: Any, names: Iterable[str], *, what: str) -> set[str]:
    """Returns the names that any pattern matches.

    Args:
      patterns: a pattern or several.
      names: what they choose from.
      what: names the argument in errors.

    Raises:
      PatternError: an entry is not a pattern, or matches nothing; all are listed with near names.
    """
    names = list(names)
    matched: set[str] = set()
    failures = []
    for pattern in listed(patterns, what):
        if not isinstance(pattern, str):
            failures.append(f"{what} {pattern!r} is a {type(pattern).__name__}, not a string")
            continue
        hits = [name for name in names if matches(pattern, name)]
        matched.update(hits)
        if not hits:
            close = near(pattern, names) or names[:3]
            failures.append(f"{what} {pattern!r} matches none of {len(names)} names; near: {close}")
    if failures:
        fix = "Fix: list the names with print(graph); a pattern is one of them, * is any text."
        raise PatternError("\n".join([*failures, fix]))
    return matched


def listed(patterns: Any, what: str) -> list[Any]:
    """Returns one pattern or several as a list.

    Raises:
      PatternError: they are neither.
    """
    if isinstance(patterns, str | Enum):
        return [patterns]
    if not isinstance(patterns, Iterable) or isinstance(patterns, bytes):
        raise PatternError(
            f"{what}: expected names or patterns, got {patterns!r}.\n"
            "Fix: a list of strings, such as ['encoder/*']; print(graph) lists the names."
        )
    return list(patterns)


def near(name: Any, names: Iterable[str]) -> list[str]:
    """Returns up to three of the names that are spelled nearly as `name`."""
    return difflib.get_close_matches(str(name), [*map(str, names)], n=3, cutoff=0.3)
