"""The integers that an object of the user's holds, in its attributes and in configurations there.

Where one stands is a way in dots: `heads`, `config.num_heads`, `widths.2`.
"""

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

DEPTH = 3
MOST = 64
"""Longer sequences are data."""


def below(attributes: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yields the integers among attributes and in what they hold, each with its way.

    >>> list(below({"heads": 4, "bias": True, "config": {"width": 8, "sizes": (2, 3)}}))
    [('heads', 4), ('config.width', 8), ('config.sizes.0', 2), ('config.sizes.1', 3)]
    """
    yield from _below(attributes, DEPTH)


def resolved(holder: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {attribute: value} of {way: value}; what lies on a way is copied, and not changed.

    >>> import types
    >>> module = types.SimpleNamespace(heads=4, config={"width": 8, "sizes": (2, 3)})
    >>> resolved(module, {"heads": 2, "config.width": 5, "config.sizes.1": 1})
    {'heads': 2, 'config': {'width': 5, 'sizes': (2, 1)}}
    """
    attributes: dict[str, Any] = {}
    for way, value in values.items():
        name, *rest = way.split(".")
        if name in attributes or not rest or hasattr(holder, name):
            held = attributes[name] if name in attributes else getattr(holder, name, None)
            attributes[name] = _replaced(held, rest, value)
    return attributes


def leads_nowhere(attributes: Mapping[str, Any], way: str) -> bool:
    """True if there is nothing at the end of a way.

    >>> [leads_nowhere({"heads": 4, "sizes": (2, 3)}, way) for way in ("heads", "size", "sizes.2")]
    [False, True, True]
    """
    name, *rest = way.split(".")
    try:
        _replaced(attributes[name], rest, None)
    except (AttributeError, LookupError, TypeError, ValueError):
        return True
    return False


def _replaced(value: Any, way: Sequence[str], new: Any) -> Any:
    if not way:
        return new
    name, *rest = way
    if isinstance(value, tuple | list):
        items = list(value)
        items[int(name)] = _replaced(items[int(name)], rest, new)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, Mapping):
        key = {str(key): key for key in value}[name]
        kind: Any = type(value)
        return kind({**value, key: _replaced(value[key], rest, new)})
    copied = copy.copy(value)  # its own checks would see one of several new sizes alone
    object.__setattr__(copied, name, _replaced(getattr(value, name), rest, new))
    return copied


def _below(value: Any, depth: int) -> Iterator[tuple[str, int]]:
    for name, item in _items(value):
        if isinstance(item, int) and not isinstance(item, bool):
            yield name, item
        elif depth > 0:
            yield from ((f"{name}.{rest}", number) for rest, number in _below(item, depth - 1))


def _items(value: Any) -> list[tuple[str, Any]]:
    """What a value holds; nothing if it is an array, a function, or a class."""
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()] if len(value) <= MOST else []
    if isinstance(value, tuple | list):
        return [(str(i), item) for i, item in enumerate(value)] if len(value) <= MOST else []
    if isinstance(value, type | np.ndarray | np.generic | jax.Array) or callable(value):
        return []
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return [(name, getattr(value, name, None)) for name in names]
    return list(vars(value).items()) if hasattr(value, "__dict__") else []
