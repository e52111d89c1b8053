"""Which JSON values a checkpoint holds."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from jaxprune.errors import CheckpointError

DEEPEST = 100
"""Levels of a tree, or of metadata; JSON and JAX give up at about 1,000."""

_LONGEST = 14_000  # bits of an integer: Python reads 4,300 decimal digits at most


def raise_if(problems: Sequence[str], what: str, fix: str) -> None:
    """Raises a CheckpointError that lists the problems, if there are any."""
    if problems:
        more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise CheckpointError("\n  ".join([f"{what}:", *problems[:10], *more]) + f"\nFix: {fix}")


def json_problems(value: Any, place: str, deepest: int = DEEPEST) -> Iterator[str]:
    """Yields why a value is not JSON that comes back equal; tuples come back as lists."""
    todo: list[tuple[Any, str, int]] = [(value, place, 0)]
    while todo:
        value, place, depth = todo.pop()
        if not isinstance(value, list | tuple | dict):
            if why := _scalar_problem(value):
                yield f"{place} is {why}"
            continue
        if depth >= deepest:
            yield f"{place[:40]}... is more than {deepest} levels deep, or holds itself"
            return
        items = value.items() if isinstance(value, dict) else enumerate(value)
        children = [(child, f"{place}[{key!r}]", depth + 1) for key, child in items]
        todo.extend(reversed(children))
        if isinstance(value, dict):
            bad = [key for key in value if not isinstance(key, str)]
            yield from (f"{place} has the key {key!r}; a key in JSON is a string" for key in bad)


def _scalar_problem(value: Any) -> str | None:
    match value:
        case None | bool() | str():
            return None
        case int():
            long = value.bit_length() > _LONGEST
            return "an integer of more than 4,000 digits" if long else None
        case float():
            return None if math.isfinite(value) else f"{value}, which JSON does not have"
        case _:
            return f"of type {type(value).__name__}, which JSON does not have"
