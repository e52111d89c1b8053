"""The axes of what the function returns: updated variables, free features, and all others."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jaxprune.arguments import paths
from jaxprune.program import reasons
from jaxprune.program import spaces as ax
from jaxprune.program.reasons import Reason
from jaxprune.program.relate import Walk
from jaxprune.program.spaces import Space

Twins = Sequence[int | None]
"""For every output the place of the input that it mirrors, None for other outputs."""


def tie(
    output: Any,
    walk: Walk,
    variables: Sequence[Sequence[Space]],
    twins: Twins,
    free: Sequence[str],
) -> None:
    """An output that mirrors a variable or a state shares its axes; others are frozen or `free`.

    A state that grows keeps the axis along which it does.
    """
    names = [paths.name(key) for key, _ in paths.keyed(output)[0]]
    released = paths.require(free, names, what="free_outputs pattern")
    for path, axes, twin in zip(names, walk.outs, twins, strict=True):
        reason = Reason(reasons.ONE_OUTPUT, (path,)) if path else Reason(reasons.OUTPUT)
        for i, space in enumerate(axes):
            if twin is None and path not in released:
                ax.freeze(space, reason)
            elif twin is not None and space.size == variables[twin][i].size:
                ax.unify(space, variables[twin][i])
            elif twin is not None:
                ax.freeze(space, reason)
                ax.freeze(variables[twin][i], reason)


def twins(
    output: Any, variables: Mapping[str, Any], states: Mapping[int, int] = MappingProxyType({})
) -> Twins:
    """For every output the place of the variable that it mirrors, or that `states` tells."""
    places = {path: i for i, path in enumerate(variables)}
    ending: dict[str, list[str]] = {}
    for name in variables:
        for end in _ends(name)[1:]:
            ending.setdefault(end, []).append(name)
    leaves = paths.keyed(output)[0]
    names = (_mirrored(paths.name(key), leaf.shape, variables, ending) for key, leaf in leaves)
    mirrored = [None if name is None else places[name] for name in names]
    return [states.get(i, place) for i, place in enumerate(mirrored)]


def _mirrored(
    path: str,
    shape: tuple[int, ...],
    variables: Mapping[str, Any],
    ending: Mapping[str, Sequence[str]],
) -> str | None:
    """The variable whose path ends `path`, or that ends with `path` of two names or more.

    The place of a tree among several outputs, as in `(logits, state)`, is not a part of its path.
    """

    def fits(name: str) -> bool:
        return name in variables and variables[name].shape == shape

    whole = next(filter(fits, _ends(path)), None)
    if whole is not None:
        return whole
    ends = {end for end in (path, re.sub(r"^(\d+/)+", "", path)) if "/" in end}
    twins = {name for end in ends for name in ending.get(end, ()) if fits(name)}
    return twins.pop() if len(twins) == 1 else None


def _ends(path: str) -> list[str]:
    """A path, and what is left of it without its first names, the longest first."""
    names = path.split("/")
    return ["/".join(names[start:]) for start in range(len(names))]
