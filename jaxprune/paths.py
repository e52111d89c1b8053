"""Names of the leaves of a pytree, and patterns over names."""

import difflib
import re
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from typing import Any

import jax

from jaxprune.errors import PatternError


def flatten(tree: Any) -> tuple[dict[str, Any], Any]:
    """Returns ({path: leaf}, treedef) in tree order; a path reads `params/Conv_0/kernel`.

    A box around an array, such as `nn.Partitioned`, is no part of the path.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves}, treedef


def _name(path: tuple[Any, ...]) -> str:
    boxed = len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value")
    return jax.tree_util.keystr(path[:-1] if boxed else path, simple=True, separator="/")


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(escaped)


def matches(pattern: str, name: str) -> bool:
    """True if `pattern` covers the whole of `name`; `*` (also across `/`) and `?` are special."""
    return _compiled(pattern).fullmatch(name) is not None


def require(patterns: Any, names: Iterable[str], *, what: str) -> set[str]:
    """Returns the names that any pattern matches.

    Args:
      patterns: a pattern or several.
      names: what they choose from.
      what: names the argument in errors.

    Raises:
      PatternError: one is no pattern, or matches nothing; every such one is listed with near names.
    """
    names = list(names)
    found: set[str] = set()
    failures = []
    for pattern in listed(patterns, what):
        if not isinstance(pattern, str):
            failures.append(f"{what} {pattern!r} is a {type(pattern).__name__}, not a string")
            continue
        hits = [name for name in names if matches(pattern, name)]
        found.update(hits)
        if not hits:
            close = near(pattern, names) or names[:3]
            failures.append(f"{what} {pattern!r} matches none of {len(names)} names; near: {close}")
    if failures:
        fix = "Fix: list the names with print(graph); a pattern is one of them, * is any text."
        raise PatternError("\n".join([*failures, fix]))
    return found


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
