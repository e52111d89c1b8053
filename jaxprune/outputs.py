"""The axes of what the function returns: updated variables, free features, and all others."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxprune import axes as ax
from jaxprune import paths
from jaxprune.axes import Reason, Space
from jaxprune.walk import Walk

Twins = Sequence[int | None]
"""For every output the place of the variable that it mirrors, None for other outputs."""


def tie(
    output: Any,
    walk: Walk,
    variables: Sequence[Sequence[Space]],
    twins: Twins,
    free: Sequence[str],
) -> None:
    """An output that mirrors a variable shares its axes; every other one is frozen or `free`."""
    names = [paths.name(key) for key, _ in paths.keyed(output)[0]]
    released = paths.require(free, names, what="free_outputs pattern")
    for path, axes, twin in zip(names, walk.outs, twins, strict=True):
        for i, space in enumerate(axes):
            if twin is None and path not in released:
                ax.freeze(space, Reason(f"axis of output {path!r}" if path else "output"))
            elif twin is not None:
                ax.unify(space, variables[twin][i])


def twins(output: Any, variables: Mapping[str, Any]) -> Twins:
    """For every output the place of the variable that it mirrors."""
    places = {path: i for i, path in enumerate(variables)}
    found = paths.keyed(output)[0]
    names = (_mirrored(paths.name(key), leaf.shape, variables) for key, leaf in found)
    return [None if name is None else places[name] for name in names]


def _mirrored(path: str, shape: tuple[int, ...], variables: Mapping[str, Any]) -> str | None:
    """The variable whose path ends `path`, or that ends with `path` of two names or more.

    The place of a tree among several outputs, as in `(logits, state)`, is no part of its path.
    """
    same = [name for name, leaf in variables.items() if leaf.shape == shape]
    if whole := [name for name in same if f"/{path}".endswith(f"/{name}")]:
        return max(whole, key=len)
    ends = {end for end in (path, re.sub(r"^(\d+/)+", "", path)) if "/" in end}
    twins = [name for name in same if any(name.endswith(f"/{end}") for end in ends)]
    return twins[0] if len(twins) == 1 else None
