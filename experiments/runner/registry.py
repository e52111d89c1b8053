"""Which experiments there are: every module below `methods` and `tasks` that declares one."""

import ast
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # it imports JAX, which a list does not need
    from experiments.runner.experiment import Experiment

ROOT = Path(__file__).parents[1]
FOLDERS = ("methods", "tasks")


class Entry(NamedTuple):
    """Where an experiment is declared, and what it is."""

    module: str
    line: str  # the first of its docstring


def known() -> Mapping[str, Entry]:
    """Returns {name of an experiment: its entry}; their modules are read and not imported."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).glob("*.py"))]
    files += [file for folder in FOLDERS for file in sorted((ROOT / folder).glob("*/__init__.py"))]
    entries = {}
    for file in files:
        tree = ast.parse(file.read_text("utf-8"))
        if any("EXPERIMENT" in _assigned(node) for node in tree.body):
            path = file.parent if file.stem == "__init__" else file.with_suffix("")
            module = ".".join((ROOT.name, *path.relative_to(ROOT).parts))
            line = (ast.get_docstring(tree) or "").partition("\n")[0]
            entries[path.name] = Entry(module, line)
    return dict(sorted(entries.items()))


def load(name: str) -> "Experiment[Any]":
    """Returns an experiment by its name.

    Raises:
      ValueError: there is none of that name.
    """
    entries = known()
    if name not in entries:
        raise ValueError(f"no experiment {name!r}.\nFix: one of {', '.join(entries)}.")
    return importlib.import_module(entries[name].module).EXPERIMENT


def _assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
