"""The same keep as a mask and as a cut, on two matrices that share their channels."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import jaxprune as jp

COLOR = "#e8853a"
KEEP = np.array([1, 0, 0, 1, 1, 0, 1, 0], bool)


def draw(ink: str) -> Figure:
    """Draws the two matrices as they are, masked, and cut by `jp.slice`."""
    variables = {"first": np.ones((3, 8)), "second": np.ones((8, 2))}
    graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"], variables, np.ones((1, 3)))
    keep = {"first": KEEP}
    trees = {
        "dense": variables,
        "jp.mask(graph, variables, keep)": jp.mask(graph, variables, keep),
        "jp.slice(graph, variables, keep)": jp.slice(graph, variables, keep),
    }
    runs = ("fn", "fn, the same shapes", "jp.narrow, or a resized module")
    figure = Figure((9.6, 2.9))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.5, 37), ylim=(-2.4, 9))
    axes.set_aspect("equal")
    axes.axis("off")
    for number, ((title, tree), run) in enumerate(zip(trees.items(), runs, strict=True)):
        x = 13 * number
        axes.text(x, 8.6, title, family="DejaVu Sans Mono" if number else "DejaVu Sans", size=8.5)
        _matrix(axes, ink, x, tree["first"])
        _matrix(axes, ink, x + tree["first"].shape[1] + 1, tree["second"])
        axes.text(x, -1.4, f"run by {run}", size=8.5)
    return figure


def _matrix(axes: Axes, ink: str, x: float, values: np.ndarray) -> None:
    """Draws a matrix around the height 4, its zeros empty."""
    top = 4 + len(values) / 2
    for (row, column), value in np.ndenumerate(np.asarray(values)):
        style = {"fc": COLOR if value else "none", "ec": ink, "lw": 0.7}
        axes.add_patch(Rectangle((x + column, top - row - 1), 1, 1, **style))
        if not value:
            axes.text(x + column + 0.5, top - row - 0.5, "0", ha="center", va="center", size=7)
