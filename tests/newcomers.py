"""Runs pages of the site as a newcomer would: their code alone, with the installed package.

`python tests/newcomers.py [PAGE...]`, with a Python that has jaxprune and nothing more. The cells
of a page are one program. From the cell with the tag `new-process` on they are a second one, which
shares with the first its directory and what stands in files: imports, classes and functions.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOWTO = Path(__file__).parents[1] / "docs" / "howto"
PAGES = ("linen", "nnx", "decoder")
"""A residual network with `TrainState`, from training to reload; NNX, likewise; grouped queries."""

CELL = re.compile(r"^```\{code-cell\}\n((?::[^\n]*\n)*)(.*?)^```$", re.MULTILINE | re.DOTALL)
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)


def programs(text: str) -> list[str]:
    """Returns the one or two programs of a page, each on the lines where it stands there."""
    first, second = [], []
    for options, code, line in _cells(text):
        part = second if second or "new-process" in options else first
        part.append("\n" * (line - sum(len(each.splitlines()) for each in part)) + code)
    found = ["".join(first)]
    if second:
        definitions = [node for node in ast.parse(found[0]).body if isinstance(node, DEFINITIONS)]
        found.append("\n".join([*map(ast.unparse, definitions), *second]))
    return found


def _cells(text: str) -> list[tuple[str, str, int]]:
    return [(m[1], m[2], text[: m.start(2)].count("\n")) for m in CELL.finditer(text)]


def run(page: Path) -> None:
    """Runs the programs of a page in a new directory; ends this program where one fails."""
    text = page.read_text(encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as directory:
        for number, program in enumerate(programs(text), start=1):
            file = Path(directory) / f"{page.stem}_{number}.py"
            file.write_text(program, encoding="utf-8")
            start = time.perf_counter()
            print(f"--- {page.name}, process {number}", flush=True)
            subprocess.run([sys.executable, file.name], cwd=directory, env=kept, check=True)
            print(f"--- {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or PAGES:
        run(HOWTO / f"{name}.md")
