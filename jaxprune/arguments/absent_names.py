"""Names that a module does not have: asked for, they say what is called in their place."""

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from jaxprune.errors import see

NONE: Mapping[str, Any] = MappingProxyType({})


def absent(
    module: str,
    renamed: Mapping[str, str] = NONE,
    expected: Mapping[str, tuple[str, str]] = NONE,
) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a module.

    Args:
      module: its name.
      renamed: {name that it had before: what to write instead}.
      expected: {name that others look for in it: (what does that, the page of it)}.
    """

    def missing(name: str) -> Any:
        if name in renamed:
            raise AttributeError(
                f"{module}.{name} has another name now.\nFix: {renamed[name]}; CHANGELOG.md has "
                "all."
            )
        none = f"module {module!r} has no attribute {name!r}"
        if name in expected:
            way_out, page = expected[name]
            raise AttributeError(f"{none}.\nFix: {way_out}.\n{see(page)}")
        raise AttributeError(none, name=name, obj=sys.modules[module])

    return missing
