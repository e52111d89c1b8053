"""The attributes of the modules of a network, found while it runs at the kept widths."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn

from jaxprune.linen.attributes import ATTRIBUTES, View
from jaxprune.linen.plan import Items, Resizing, When, scope_of
from jaxprune.running.attribute_search import Holder, Overrides, wanted

_OF_FLAX = {
    "parent",
    "name",
    "scope",
    "param",
    "_compact_name_scope_modules",
    "_id",
    "_parent_ref",
} | {"_state"}
"""What every module holds."""


class Attributes:
    """What changes in the modules of a network.

    A wrapper and what it wraps are two modules at one path, and what one of them has the other gets
    too. `late` tells that a module ran without: then the network must run again.

    Attributes:
      values: {path: {attribute: kept value}}.
      classes: {path: name of the class}, of the modules that are called.
    """

    def __init__(self, view: View, overrides: Overrides, extra: Overrides):
        self.view = view
        self.overrides = overrides
        self.extra = extra
        self.values: dict[str, dict[str, Any]] = {}
        self.classes: dict[str, str] = {}
        self.ran: dict[str, list[nn.Module]] = {}
        self.late = False
        self.again = False

    def begin(self) -> None:
        """Begins a run of the network."""
        self.again, self.late, self.ran = self.late, False, {}

    def __call__(self, module: nn.Module, path: str, when: When) -> Mapping[str, Any]:
        """Returns {attribute: value} of a module; see `Resizing.attributes_of`."""
        if when is not When.GIVEN:
            self.classes[path] = type(module).__name__
        known, ran = self.values.setdefault(path, {}), self.ran.setdefault(path, [])
        before = any(module is other for other in ran)
        if before and when is not When.SET_UP:
            return known
        every = self.every(module, path)
        new = {k: v for k, v in every.items() if k not in known or not _same(known[k], v)}
        if self.again:  # two that want different values for one name get those of the first run
            new = {name: value for name, value in new.items() if name not in known}
        self.late |= bool(new) and any(module is not other for other in ran)
        known |= new
        if not before:
            ran.append(module)
        return known

    def every(self, module: nn.Module, path: str) -> dict[str, Any]:
        """Returns what the class of a module asks for, then what was tried, then what is given."""
        asked: dict[str, Any] = {}
        for kind, attributes in ATTRIBUTES.items():
            if isinstance(module, kind):
                asked |= attributes(module, path, self.view)
        return asked | wanted(module, path, self.extra, self.overrides)


@dataclass(frozen=True)
class Draft(Resizing):
    """A plan whose attributes are found while it is applied."""

    finder: Attributes | None = field(default=None, compare=False)

    def attributes_of(self) -> Callable[[nn.Module, str, When], Mapping[str, Any]]:
        """Returns what finds them."""
        assert self.finder is not None
        return self.finder


def items(values: Overrides) -> Items:
    """Returns {path: {attribute: value}} as a plan has it."""
    return tuple(
        (path, tuple(attributes.items())) for path, attributes in values.items() if attributes
    )


def _same(a: Any, b: Any) -> bool:
    return a is b or a == b


def holders(modules: Mapping[str, list[nn.Module]]) -> dict[str, Holder]:
    """Returns what the modules at every path hold."""
    by_path = {}
    for path, here in modules.items():
        by_path[path] = Holder(type(here[-1]).__name__, held_by(here))
    return by_path


def held_by(modules: Sequence[nn.Module]) -> dict[str, Any]:
    """Returns {attribute: value} of the modules at one path: fields, and what `setup` made."""
    return {name: value for module in modules for name, value in _held(module)}


def path_of(holder: Any) -> str | None:
    """Returns the path of a bound module, None for anything else."""
    where = scope_of(holder) if isinstance(holder, nn.Module) else None
    return None if where is None else "/".join(where)


def _held(module: nn.Module) -> Iterator[tuple[str, Any]]:
    fields = sorted(module.__dataclass_fields__)
    for name in dict.fromkeys((*fields, *vars(module))):
        value = getattr(module, name, None)
        if name not in _OF_FLAX and hasattr(module, name) and not isinstance(value, nn.Module):
            yield name, value
