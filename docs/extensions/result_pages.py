"""The pages of results: what `benchmarks/results` holds, as it stands there."""

import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
RESULTS = DOCS.parent / "benchmarks" / "results"
LOCAL = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)#]+\)")


def write(_: Sphinx) -> None:
    """Writes a page for every table; links to files of the repository become their names."""
    for path in sorted(RESULTS.glob("*.md")):
        text = LOCAL.sub(r"\1", path.read_text(encoding="utf-8"))
        target = DOCS / "results" / path.name
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects this extension."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
