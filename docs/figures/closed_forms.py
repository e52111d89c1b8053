"""What is left of the multiply-accumulates where a share of the channels is left."""

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxprune as jp

COLORS = ("#3a8fe8", "#e8853a", "#8a94a3")


def draw(ink: str) -> Figure:
    """Draws a curve for each group alone, and one for both together."""
    shapes = {"enter": (27, 16), "grow": (16, 64), "shrink": (64, 16), "head": (16, 10)}
    variables = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    pixels = jax.ShapeDtypeStruct((256, 27), np.float32)
    graph = jp.trace(_network, variables, pixels)
    figure = Figure((6.4, 3.4))
    axes = figure.add_axes((0.1, 0.16, 0.86, 0.8))
    curves = {"grow": ("grow",), "enter": ("enter",), "both": ("grow", "enter")}
    for color, (label, names) in zip(COLORS, curves.items(), strict=True):
        counts = np.arange(1, 17) / 16
        widths = [{n: round(c * graph.groups[n].size) for n in names} for c in counts]
        left = [jp.cost.macs(graph, w) / jp.cost.macs(graph) for w in widths]
        axes.plot(counts, left, "o-", color=color, ms=4, label=label)
    axes.set(xlabel="share of the channels that is left", ylabel="share of the MACs")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, labelcolor=ink)
    return figure


def _network(v: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """The network of the page, whose 3 x 3 convolution is a product over 27 inputs a pixel."""
    x = x @ v["enter"]
    x = x + jax.nn.relu(x @ v["grow"]) @ v["shrink"]
    return x.mean(0) @ v["head"]
