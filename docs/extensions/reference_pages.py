"""The pages of the reference, written from `__all__`: one for each public package of jaxprune."""

import inspect
from enum import Enum
from itertools import groupby
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import docstrings
import jaxprune as jp
from public_names import exported, modules

FOLDER = Path(__file__).parents[1] / "reference"
HEADINGS = {
    "tracing": "Analyze",
    "graph": "The graph",
    "inspecting": "Look at it",
    "pruning": "All at once, cut, compare",
    "cutting": "Cut",
    "running": "Run",
    "checkpoint": "Keep",
    "keep": "Keeps",
    "groups": "Kinds of groups",
    "arguments": "Bounds",
    "gates": "Gates",
    "program": "Rules",
}
"""What a room of the package holds, in the order of the page of `jp`."""


def write(_: Sphinx) -> None:
    """Writes every page whose text changed, and takes away those of packages that are gone."""
    pages = {f"{name or 'jp'}.md": page(name) for name in modules()}
    pages["index.md"] = contents()
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def contents() -> str:
    """The first page: what every package takes in and gives out."""
    names = [name or "jp" for name in modules()]
    rows = [f"| [`jp.{n}`]({n}.md) | {summary(m)} |" for n, m in modules().items() if n]
    return "\n".join(
        [
            "# Reference",
            "",
            "Every public name, from its docstring. `import jaxprune as jp` gives all of them;",
            "what `jp` itself holds is on [a page of its own](jp.md). The examples run as they",
            "stand.",
            "",
            "| package | what comes in, what goes out |",
            "|---|---|",
            *rows,
            "",
            "```{toctree}",
            ":hidden:",
            *names,
            "```",
            "",
        ]
    )


def summary(module: Any) -> str:
    """The first sentence of a docstring."""
    return (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ")


def page(name: str) -> str:
    """One page: the docstring of the package, then its names."""
    module = modules()[name]
    title = f"`jp.{name}`" if name else "`jp`"
    text = docstrings.as_markdown(inspect.getdoc(module) or "")
    lines = [f"# {title}", "", text, ""]
    for heading, names in sections(name, module):
        lines += [f"## {heading}", ""] if heading else []
        for each in names:
            lines += [*entry(name, module, each), ""]
    return "\n".join(lines)


def sections(name: str, module: Any) -> list[tuple[str, list[str]]]:
    """The names of a page under headings, if it needs any."""
    names = [each for each in exported(module) if not inspect.ismodule(getattr(module, each))]
    if name:
        return [("", names)]
    order = list(HEADINGS)
    names.sort(key=lambda each: order.index(room(getattr(jp, each))))
    by_room = groupby(names, key=lambda each: HEADINGS[room(getattr(jp, each))])
    return [(heading, list(found)) for heading, found in by_room]


def room(value: Any) -> str:
    """The room of the package in which a thing is defined."""
    home = getattr(value, "__module__", None) or ""
    return home.split(".")[1] if home.startswith("jaxprune.") else "program"


def entry(package: str, module: Any, name: str) -> list[str]:
    """The directive that documents a name."""
    value = getattr(module, name)
    full = f"{package}.{name}".lstrip(".")
    if inspect.isclass(value):
        members = ["   :members:", *["   :undoc-members:"] * issubclass(value, Enum)]
        return ["```{eval-rst}", f".. autoclass:: jaxprune::{full}", *members, "```"]
    kind = "autofunction" if callable(value) else "autodata"
    return ["```{eval-rst}", f".. {kind}:: jaxprune::{full}", "```"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects this extension."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
