"""What a resized Linen module shows of itself: its layers at the kept widths, its attributes."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxprune.linen.attributes import Shape


def described(
    module: nn.Module,
    classes: Mapping[str, str],
    attributes: Mapping[str, Mapping[str, Any]],
    shapes: Mapping[str, Shape],
    gone: Sequence[str] = (),
) -> str:
    """Returns a module in the way of Flax: what has kept widths first, then what it was given.

    Args:
      module: the module that was resized.
      classes: {path: name of a class}, of all modules that are called.
      attributes: {path: {attribute: kept value}}.
      shapes: {path of a parameter: kept shape}.
      gone: paths of the modules that are not called any more.
    """
    values = {path: dict(attributes.get(path, {})) for path in classes}
    for key, shape in shapes.items():
        path, _, name = key.rpartition("/")
        if path in values:
            values[path][name] = shape
    kept = values.pop("", {})
    lines = [f"{name} = {_shown(value)}" for name, value in kept.items()]
    for path, held in values.items():
        inside = ", ".join(f"{name}={_shown(value)}" for name, value in held.items())
        lines += [f"{path} = {classes[path]}({inside})"] if inside else []
    given = [f"{name} = {_shown(value)}" for name, value in _given(module) if name not in kept]
    parts = [("# at the kept widths", lines), ("# without", gone), ("# attributes as given", given)]
    body = "\n".join("\n".join([head, *rows]) for head, rows in parts if rows)
    return f"Resized {type(module).__name__}(\n{textwrap.indent(body, '    ')}\n)"


def _given(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The attributes of a module that hold no modules."""
    for name, item in module.__dataclass_fields__.items():
        if name not in ("parent", "name") and item.repr:
            value = getattr(module, name, None)
            if not holds_modules(value):
                yield name, value


def holds_modules(value: Any) -> bool:
    """True for a module, and for a container of modules."""
    return any(isinstance(leaf, nn.Module) for leaf in modules_in(value)[0])


def modules_in(value: Any) -> tuple[list[Any], Any]:
    """Returns the leaves of a value, modules being leaves, and its structure."""
    return jax.tree.flatten(value, is_leaf=lambda leaf: isinstance(leaf, nn.Module))


def _shown(value: Any) -> str:
    return value.__name__ if callable(value) and hasattr(value, "__name__") else repr(value)
