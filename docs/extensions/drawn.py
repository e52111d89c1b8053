"""The directive `drawn`: a figure of `docs/figures`, drawn by its code for light and dark pages."""

import importlib
import io
from pathlib import Path
from typing import ClassVar

import matplotlib as mpl
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).parents[1]
INKS = {"light": "#1f2933", "dark": "#e4e7eb"}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "savefig.transparent": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "jaxprune",
}


class Drawn(SphinxDirective):
    """Shows what `figures/NAME.py` draws: `draw(ink) -> Figure`, once for each ink."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Draws, and returns a figure with two images, of which the theme shows one."""
        (name,) = self.arguments
        self.env.note_dependency(str(DOCS / "figures" / f"{name}.py"))
        module = importlib.import_module(f"figures.{name}")
        figure = nodes.figure()
        for mode, ink in INKS.items():
            path = DOCS / "_drawn" / f"{name}-{mode}.svg"
            write(path, svg(module, ink))
            options = {"uri": f"/_drawn/{path.name}", "alt": self.options["alt"]}
            figure += nodes.image(**options, classes=[f"only-{mode}"])
        caption = nodes.caption()
        children, _ = self.parse_inline(" ".join(self.content))
        caption += children
        figure += caption
        return [figure]


def svg(module: object, ink: str) -> bytes:
    """Returns the picture; the same code gives the same bytes."""
    colors = dict.fromkeys(["text.color", "axes.edgecolor", "axes.labelcolor"], ink)
    ticks = dict.fromkeys(["xtick.color", "ytick.color"], ink)
    file = io.BytesIO()
    with mpl.rc_context(STYLE | colors | ticks):
        module.draw(ink).savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    return file.getvalue()


def write(path: Path, data: bytes) -> None:
    """Writes a file if that changes it, so that Sphinx reads no page twice."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects this extension."""
    app.add_directive("drawn", Drawn)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
