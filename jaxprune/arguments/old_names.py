"""Names that the library had before: asked for, they say what they are called now."""

from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a module, given {old name: what to write instead}."""

    def missing(name: str) -> Any:
        if name in names:
            raise AttributeError(
                f"{module}.{name} has another name now.\nFix: {names[name]}; CHANGELOG.md has all."
            )
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return missing
