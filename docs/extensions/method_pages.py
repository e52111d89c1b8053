"""The pages of methods: what `docs/methods/methods.toml` and the table of `jp.scores` say."""

import inspect
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import jaxprune as jp

FOLDER = Path(__file__).parents[1] / "methods"
SOURCE = FOLDER / "methods.toml"
NAME = re.compile(r"`(stats\.)?(\w+)`")
Rows = Sequence[Mapping[str, Any]]


def write(_: Sphinx) -> None:
    """Writes the pages whose text changed."""
    told = tomllib.loads(SOURCE.read_text("utf-8"))
    pages = {
        "taxonomy": taxonomy(told["method"], told["beside"]),
        "options": options(told["question"]),
        "criteria": criteria(),
    }
    for name, lines in pages.items():
        path, text = FOLDER / f"{name}.md", "\n".join([*lines, ""])
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def taxonomy(methods: Rows, beside: Rows) -> Iterator[str]:
    """Yields the lines of the page of all methods."""
    yield "# The methods, one by one"
    yield ""
    yield (
        f"The {len(methods)} rows of the taxonomy of parameter pruning, in its order, and below "
        "them what came after it. *Command* is what runs the method on handwritten digits, *test* "
        "the test of its formula, which is compared with a computation of its own."
    )
    yield ""
    yield "| | method | when | needs | command |"
    yield "|---|---|---|---|---|"
    for number, row in enumerate(methods, 1):
        runs = "yes" if row["command"] else "no"
        place = f"[{row['name']}](#method-{number})"
        yield f"| {number} | {place} | {row['when']} | {row['needs']} | {runs} |"
    for number, row in enumerate(methods, 1):
        yield from ("", f"(method-{number})=", f"## {number}. {row['name']}", "", row["what"], "")
        yield from (f"*When to use it.* {row['use']}", "")
        yield from (f"*Source.* {row['source']}.", "")
        yield from _how(row)
    yield from ("", "## Beside the taxonomy")
    for row in beside:
        yield from ("", f"### {row['name']}", "", f"*Source.* {row['source']}.", "")
        yield from _how(row)


def options(questions: Rows) -> Iterator[str]:
    """Yields the lines of the page of open questions."""
    yield "# The open questions, as options"
    yield ""
    yield (
        "What the taxonomy leaves open is an argument here. Where no command is given, no "
        "experiment has the option: it is in the library alone."
    )
    for question in questions:
        yield from ("", f"## {question['name']}", "")
        yield from ("| option | functions | command | test |", "|---|---|---|---|")
        for option in question["options"]:
            cells = [option["what"], _names(option), _commands(option) or "none", _tests(option)]
            yield f"| {' | '.join(cells)} |"


def criteria() -> Iterator[str]:
    """Yields the lines of the page of criteria: the table in the docstring of `jp.scores`."""
    about = inspect.getdoc(jp.scores) or ""
    yield "# Criteria: what each needs"
    yield ""
    before = about[about.index("What each needs") : about.index("| score")]
    yield before.strip()
    yield ""
    for line in about.splitlines():
        if line.startswith("|"):
            yield NAME.sub(_linked, line)


def _linked(found: re.Match[str]) -> str:
    """A name of the table as it is called."""
    if found[1]:
        return f"`jp.stats.{found[2]}`"
    return f"`jp.scores.{found[2]}`" if found[2] in jp.scores.__all__ else found[0]


def _how(row: Mapping[str, Any]) -> Iterator[str]:
    """Yields how a method is called, run and tested."""
    yield f"*Functions.* {_names(row)}."
    yield ""
    yield f"*Command.* {_commands(row) or 'None: ' + row['call']}."
    yield ""
    if "note" in row:
        yield from (row["note"], "")
    yield f"*Test.* {_tests(row)}."


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in row["api"])


def _commands(row: Mapping[str, Any]) -> str:
    return ", ".join(f"`python -m experiments {command}`" for command in row["command"])


def _tests(row: Mapping[str, Any]) -> str:
    return ", ".join(f"`tests/{test}`" for test in row["test"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects this extension."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
