"""Runs the Python blocks of README.md in order, as one program in an empty directory."""

import contextlib
import re
import tempfile
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main() -> None:
    """Executes every block; tracebacks give the lines of README.md."""
    text = README.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    if not blocks:
        raise SystemExit("README.md has no ```python block.")
    namespace = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        for block in blocks:
            lines_above = text[: block.start(1)].count("\n")
            exec(compile("\n" * lines_above + block[1], str(README), "exec"), namespace)
    print(f"{len(blocks)} blocks of README.md ran.")


if __name__ == "__main__":
    main()
