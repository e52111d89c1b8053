"""The size of files and functions, and which module may import which."""

import ast
import importlib
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("jaxprune", "experiments", "tests", "benchmarks", "docs")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LIBRARY = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
    if path.is_relative_to(ROOT / "jaxprune")
}
FLOORS = (
    "errors arguments program graph keep groups inspecting tracing cutting running gates stats "
    "scores sparsify select recover plan schedule linen nnx haiku keras pruning slimmable "
    "checkpoint __main__"
).split()
"""What stands in `jaxprune/`, from the bottom up; nothing imports what stands above it."""


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


def uses(name: str) -> set[str]:
    """The modules of the library that one of them imports, those inside of functions too."""
    return set(imported(parsed(LIBRARY[name]))) & LIBRARY.keys() - {name, "jaxprune"}


def floor(module: str) -> int:
    return FLOORS.index(module.split(".")[1])


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


def test_the_floors_are_what_stands_in_the_folder() -> None:
    found = {path.stem for path in (ROOT / "jaxprune").iterdir() if path.suffix in {"", ".py"}}
    assert sorted(found - {"__init__", "__pycache__"}) == sorted(FLOORS)


def test_imports_point_downward() -> None:
    upward = {
        f"{name} imports {other}"
        for name in LIBRARY
        if name != "jaxprune"
        for other in uses(name)
        if floor(other) > floor(name)
    }
    assert upward == set()


@pytest.mark.parametrize(
    "package", [name for name in FLOORS if (ROOT / "jaxprune" / name).is_dir()]
)
def test_a_package_says_what_comes_in_and_what_goes_out(package: str) -> None:
    text = ast.get_docstring(parsed(ROOT / "jaxprune" / package / "__init__.py"))
    assert text is not None
    assert re.search(r"comes? in.*goe?s? out", text.split("\n\n")[0], re.DOTALL), text


@pytest.mark.parametrize("path", LIBRARY.values(), ids=LIBRARY)
def test_the_library_imports_neither_experiments_nor_the_insides_of_jax(path: Path) -> None:
    tree = parsed(path)
    for name in imported(tree):
        assert name.split(".")[0] not in {"experiments", "tests", "benchmarks", "tensorflow"}
        assert not name.startswith("jax._src")
        if name.startswith(("jax.extend", "jax.interpreters")):
            assert path == LIBRARY["jaxprune.program.jaxpr"], f"{relative(path)} imports {name}"


def test_the_rules_know_nothing_of_jax() -> None:
    rules = [path for name, path in LIBRARY.items() if name.startswith("jaxprune.program.rules")]
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


def test_what_the_library_shows_is_meant_to_be_seen() -> None:
    import jaxprune

    shown = {name for name in vars(jaxprune) if not name.startswith("_")}
    packages = {name for name in FLOORS if name != "errors"}
    assert shown - set(jaxprune.__all__) - packages == set()
    for name in jaxprune.__all__:
        item = getattr(jaxprune, name)
        if inspect.ismodule(item):
            assert item.__name__ in LIBRARY


@pytest.mark.parametrize("name", LIBRARY)
def test_no_function_stands_in_the_place_of_a_module(name: str) -> None:
    """`help(jaxprune.x.y)` shows the module y, where there is one."""
    parent, _, base = name.rpartition(".")
    found = getattr(importlib.import_module(parent), base, None) if parent else None
    assert found is None or inspect.ismodule(found), name


# Words of English, of Python and of options that are names of primitives too.
WORDS = {"and", "copy", "max", "min", "name", "reduce", "round", "add"}


def test_only_the_rules_name_primitives() -> None:
    """Elsewhere a rule's traits and form say what an operation does."""
    from jaxprune import RULES

    found = {
        f"{relative(path)}:{node.lineno}: {node.value}"
        for name, path in LIBRARY.items()
        if not name.startswith("jaxprune.program.rules") and name != "jaxprune.program.jaxpr"
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if (words := set(node.value.split()))
        and words <= RULES.keys() - WORDS
        and path.name != "__init__.py"  # __all__
    }
    assert found == set()
