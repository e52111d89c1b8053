"""Runs the Python blocks of README.md in order, as one program in an empty directory.

What a block prints must be the text below it, but for rounding errors, which are the machine's.
"""

import contextlib
import io
import re
import tempfile
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?:\n\n```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
ROUNDING = re.compile(r"\d\.\d+e-\d+")


def main() -> None:
    """Executes every block; tracebacks give the lines of README.md."""
    text = README.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    if not blocks:
        raise SystemExit("README.md has no ```python block.")
    namespace = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        for block in blocks:
            lines_above = text[: block.start("code")].count("\n")
            program = compile("\n" * lines_above + block["code"], str(README), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(program, namespace)
            _same(block["printed"], printed.getvalue())
    print(f"{len(blocks)} blocks of README.md ran.")


def _same(told: str | None, printed: str) -> None:
    if told is not None and ROUNDING.sub("", told) != ROUNDING.sub("", printed):
        raise SystemExit(f"README.md shows\n\n{told}\nwhere its code prints\n\n{printed}")


if __name__ == "__main__":
    main()
