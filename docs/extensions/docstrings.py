"""Docstrings, which are plain text with code in backticks, as what Sphinx reads."""

import ast
import inspect
import re
from enum import Enum
from itertools import groupby
from textwrap import dedent, indent
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(r"^(?:[A-Z]\w*|:\w[^:]*):(?:\n|\s)", re.MULTILINE)
FIELD = re.compile(r"[a-z_]\w*(?:, [a-z_]\w*)*: \S")
MARKUP = re.compile(
    r"^ *>>> .*(?:\n.*\S.*)*"  # an example
    r"|^\* "  # an item of a list
    r"|^ *\*{1,2}\w+:"  # the arguments that a function takes any number of
    r"|(?P<code>`+[^`]+`+)(?P<letter>\w?)"
    r"|[*|]|(?<=\w)_(?!\w)",
    re.MULTILINE,
)


def as_markdown(text: str) -> str:
    """Returns the docstring of a module as Markdown: indented blocks and examples are code."""
    blocks = groupby(text.split("\n\n"), key=lambda block: block.startswith(("  ", ">>>")))
    return "\n\n".join(_fenced(*found) if code else "\n\n".join(found) for code, found in blocks)


def _fenced(*blocks: str) -> str:
    language = "pycon" if blocks[0].startswith(">>>") else "python"
    return "\n".join([f"```{language}", dedent("\n\n".join(blocks)), "```"])


def prepare(*event: Any) -> None:
    """Rewrites, in place, a docstring so that reStructuredText shows what a reader would see."""
    what, lines = event[1], event[-1]
    if what in ("property", "attribute", "data"):
        lines[:0] = [".. text", ""]  # else what stands before a colon is taken for the type
    text = "\n".join(lines)
    section = SECTION.search(text)
    end = section.start() if section else len(text)
    before = "\n\n".join(map(_set_off, text[:end].split("\n\n")))
    after = "\n\n".join(map(_listed, MARKUP.sub(_escaped, text[end:]).split("\n\n")))
    lines[:] = (before + after).split("\n")


def _set_off(block: str) -> str:
    """Makes code of an indented block: Python, or a formula as it stands."""
    if not block.startswith("  ") or block.lstrip().startswith(("* ", ">>>")):
        return _listed(MARKUP.sub(_escaped, block))
    try:
        ast.parse(dedent(block))
        language = "python" if "jp." in block else "text"
    except SyntaxError:
        language = "text"
    return f".. code-block:: {language}\n\n" + indent(dedent(block), "    ")


def _escaped(found: re.Match[str]) -> str:
    """Escapes what would be markup outside of code, and lets a letter follow code."""
    if code := found["code"]:
        return code + (f"\\ {found['letter']}" if found["letter"] else "")
    return found[0] if len(found[0]) > 1 else f"\\{found[0]}"


def _listed(block: str) -> str:
    """Makes a list of a block of fields: `name: text`, with its next lines indented."""
    if not FIELD.match(block):
        return block
    return "\n".join(_item(line) for line in block.split("\n"))


def _item(line: str) -> str:
    margin = "" if line.startswith(" ") else "  "
    return f"* {line}" if FIELD.match(line) else margin + line


def shown_signature(*event: Any) -> tuple[str, str | None] | None:
    """Leaves out the signature of a class that nobody calls: one of objects, an enumeration."""
    value, signature, returns = event[3], *event[-2:]
    uncalled = inspect.isclass(value) and issubclass(value, Enum)
    return ("", returns) if uncalled or (signature and " object>" in signature) else None


def skipped(*event: Any) -> bool | None:
    """Leaves out the fields of named tuples, of which Python says nothing but their number."""
    about = inspect.getdoc(event[3]) or ""
    return True if about.startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects this extension, before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", prepare, priority=100)
    app.connect("autodoc-process-signature", shown_signature)
    app.connect("autodoc-skip-member", skipped)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
