"""The layers and variables of a Keras model by readable paths: `block/conv/kernel`.

A path is that of the layers' names from the model down, without the name of the model, as Keras
names the scopes of operations. What is shared has its first path.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from jaxprune.keras.library import children

_NUMBERED = re.compile(r"variable_\d+")
"""The name of a variable that was given none; the number counts those of the whole process."""


def layers_of(model: Any) -> dict[str, Any]:
    """Returns the layers of a model by their path; the model itself has the path ''."""
    return dict(_walk(model, "", {}))


def variables_of(model: Any) -> dict[str, Any]:
    """Returns the `keras.Variable`s of a model by their path: all but those of metrics."""
    named = layers_of(model)
    variables: dict[str, Any] = {}
    seen: set[int] = set()
    for path, layer in named.items():
        for variable in own_variables(layer):
            if id(variable) not in seen:
                seen.add(id(variable))
                name = _NUMBERED.sub("variable", variable.name)
                variables[_free(_joined(path, name), variables, named)] = variable
    return variables


def own_variables(layer: Any) -> list[Any]:
    """Returns the variables of a layer that none of the layers inside has."""
    inner = {id(variable) for child in children(layer) for variable in child.variables}
    return [variable for variable in layer.variables if id(variable) not in inner]


def pairs(model: Any, twin: Any) -> Iterator[tuple[Any, Any]]:
    """Yields the layers of two models that are made alike, the outer ones first."""
    seen: set[int] = set()
    left = [(model, twin)]
    while left:
        old, new = left.pop()
        if id(old) not in seen:
            seen.add(id(old))
            yield old, new
            left.extend(reversed([*zip(children(old), children(new), strict=False)]))


def name_alike(twins: Iterable[tuple[Any, Any]]) -> None:
    """Gives new layers the names of the old ones."""
    for old, new in twins:
        if type(old) is type(new):
            new.name = old.name


def _walk(layer: Any, path: str, seen: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    seen[id(layer)] = layer
    yield path, layer
    taken: set[str] = set()
    for child in children(layer):
        below = _free(_joined(path, child.name), taken)
        taken.add(below)
        if id(child) not in seen:
            yield from _walk(child, below, seen)


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _free(path: str, *taken: Any) -> str:
    """Returns the path, with a number where it is taken."""
    free, number = path, 0
    while any(free in others for others in taken):
        number += 1
        free = f"{path}_{number}"
    return free
