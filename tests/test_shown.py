"""Every public function stands in an example that runs: of the reference, or of a page."""

import doctest
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import jaxprune as jp

PAGES = Path(__file__).parents[1] / "docs"
CELL = re.compile(r"^```\{code-cell\}\n(?::[^\n]*\n)*(.*?)^```$", re.MULTILINE | re.DOTALL)


def public() -> Iterator[tuple[str, Any]]:
    """Yields what users write after `jp.`, and its value: packages, and what they hold."""
    for name in jp.__all__:
        yield name, (value := getattr(jp, name))
        if inspect.ismodule(value):
            own = (n for n, v in vars(value).items() if _is_of(v, value) and n[0] != "_")
            for inner in getattr(value, "__all__", own):
                yield f"{name}.{inner}", getattr(value, inner)


def _is_of(value: Any, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def example(value: Any) -> str:
    """Returns the code of the examples in a docstring, which `--doctest-modules` runs."""
    text = inspect.getdoc(value) or ""
    return "".join(each.source for each in doctest.DocTestParser().get_examples(text))


@cache
def shown() -> str:
    """Returns the examples of all public names, and the cells of all pages, run by the build."""
    cells = [m[1] for page in PAGES.rglob("*.md") for m in CELL.finditer(page.read_text("utf-8"))]
    values = [value for _, value in public() if callable(value) or isinstance(value, ModuleType)]
    return "\n".join([*map(example, values), *cells])


FUNCTIONS: dict[Any, list[str]] = {}
"""{function: its names}."""
for _name, _value in public():
    if inspect.isfunction(_value):
        FUNCTIONS.setdefault(_value, []).append(_name)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: FUNCTIONS[function][0])
def test_every_function_is_called_in_an_example(function: Any) -> None:
    own = re.search(rf"\b{function.__name__}\(", example(function))
    written = [name if "." in name else f"jp.{name}" for name in FUNCTIONS[function]]
    assert own or any(re.search(rf"\b{re.escape(name)}\b", shown()) for name in written)


def test_the_count_is_of_all() -> None:
    assert len(FUNCTIONS) > 250
