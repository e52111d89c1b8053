"""The size of files and functions, and which module may import which."""

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("jaxprune", "experiments", "tests", "benchmarks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LIBRARY = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
    if path.is_relative_to(ROOT / "jaxprune")
}
LAYERS = (
    "errors paths symbolic _words _numbers _arguments _functions _jaxpr axes fixed rules walk "
    "streams stacks outputs unread derivatives exactness naming _linen_calls graph"
).split()
"""The core from the bottom up; a module imports none that stands above it."""


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its decorators and its docstring."""
    body = node.body
    first = body[0]
    start = node.lineno
    if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
        start += (first.end_lineno or 0) - first.lineno + 1
    return (node.end_lineno or 0) - start + 1


def imported(tree: ast.AST) -> Iterator[str]:
    """The full names of all modules that a file imports, and of what it imports from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(tree: ast.Module) -> ast.Module:
    """The file without the bodies of its functions, whose imports wait for the call."""
    for node in functions(tree):
        node.body = []
    return tree


def uses(name: str) -> set[str]:
    """The modules of the library that one of them imports when it is imported."""
    found = set(imported(top_level(parsed(LIBRARY[name])))) & LIBRARY.keys()
    return found - {name, "jaxprune"}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_file_is_longer_than_400_lines() -> None:
    found = {relative(path): len(path.read_text().splitlines()) for path in FILES}
    assert {path: n for path, n in found.items() if n > 400} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    found = {
        f"{relative(path)}:{node.name}": length(node)
        for path in FILES
        for node in functions(parsed(path))
    }
    assert {name: n for name, n in found.items() if n > 60} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: uses(name) for name in LIBRARY if name != "jaxprune"}
    while free := {name for name, needs in graph.items() if not needs & graph.keys()}:
        graph = {name: needs for name, needs in graph.items() if name not in free}
    assert graph == {}, "import circle"


def layer(module: str) -> int:
    """The place of a module of the library in LAYERS, above all of them where it is not listed."""
    name = module.removeprefix("jaxprune.").split(".")[0]
    return LAYERS.index(name) if name in LAYERS else len(LAYERS)


def test_imports_point_downward() -> None:
    upward = {
        (name, other)
        for name in LIBRARY
        if name != "jaxprune"
        for other in uses(name)
        if layer(other) > layer(name)
    }
    assert upward == set()
    assert uses("jaxprune.axes") == set()


@pytest.mark.parametrize("path", LIBRARY.values(), ids=LIBRARY)
def test_the_library_imports_neither_experiments_nor_the_insides_of_jax(path: Path) -> None:
    tree = parsed(path)
    for name in imported(tree):
        assert name.split(".")[0] not in {"experiments", "tests", "benchmarks", "tensorflow"}
        assert not name.startswith("jax._src")
        if name.startswith(("jax.extend", "jax.interpreters")):
            assert path.name == "_jaxpr.py", f"{relative(path)} imports {name}"


def test_the_rules_know_nothing_of_jax() -> None:
    rules = [path for name, path in LIBRARY.items() if name.startswith("jaxprune.rules")]
    names = itertools.chain.from_iterable(imported(parsed(path)) for path in rules)
    assert {name.split(".")[0] for name in names} & {"jax", "flax", "optax"} == set()


def test_nothing_anywhere_imports_the_insides_of_jax() -> None:
    found = {
        relative(path): name
        for path in FILES
        for name in imported(parsed(path))
        if name.startswith("jax._src")
    }
    assert found == {}
