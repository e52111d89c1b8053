"""A residual block and its two groups: every axis of every variable in the color of its group."""

from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import jaxprune as jp

GROUPS = ("#e8853a", "#3a8fe8")
FROZEN = "#8a94a3"
LAYERS = ("Conv_0", "BatchNorm_0", "Conv_1", "BatchNorm_1", "Conv_2", "BatchNorm_2", "Dense_0")


class Net(nn.Module):
    """The network of the page Start."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits [batch, 10]."""
        x = nn.relu(norm()(nn.Conv(32, (3, 3), use_bias=False)(x)))
        y = nn.relu(norm()(nn.Conv(64, (3, 3), use_bias=False)(x)))
        x = nn.relu(x + norm()(nn.Conv(32, (3, 3), use_bias=False)(y)))
        return nn.Dense(10)(x.mean((1, 2)))


def norm() -> nn.BatchNorm:
    """A BatchNorm in evaluation mode."""
    return nn.BatchNorm(use_running_average=True)


def draw(ink: str) -> Figure:
    """Draws the layers from left to right, and below each the axes of its variables."""
    x = jnp.ones((1, 32, 32, 3))
    model = Net()
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    graph = jp.linen.trace(model, variables, x)
    colors = dict(zip(graph.groups, GROUPS, strict=True))
    figure = Figure((9.6, 3.9))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.1, 9.6), ylim=(-0.15, 4.1))
    axes.axis("off")
    for number, layer in enumerate(LAYERS):
        _layer(axes, graph, colors, ink, 0.1 + 1.3 * number + 0.4 * (number == 6), layer)
    _flow(axes, ink)
    for place, (name, group) in enumerate(graph.groups.items()):
        text = f"group {name}: {group.size} channels, {len(group.slots)} slots"
        axes.text(0.1 + 4.4 * place, 0.05, "■ ", color=colors[name], size=13, va="center")
        axes.text(0.35 + 4.4 * place, 0.05, text, va="center")
    axes.text(8.6, 0.05, "■ ", color=FROZEN, size=13, va="center")
    axes.text(8.85, 0.05, "frozen", va="center")
    return figure


def _layer(axes, graph, colors, ink, x, layer) -> None:
    box = FancyBboxPatch((x, 2.3), 1.0, 0.55, "round,pad=0.02", fc="none", ec=ink)
    axes.add_patch(box)
    axes.text(x + 0.5, 2.575, layer, ha="center", va="center", size=8.5)
    paths = [path for path in graph.variables if path.split("/")[1] == layer]
    for row, path in enumerate(sorted(paths, key=len)):
        shape = graph.variables[path].shape
        y = 1.9 - 0.36 * row
        axes.text(x - 0.02, y, path.rsplit("/", 1)[1], size=8, va="center")
        for axis, size in enumerate(shape):
            found = {s.axis: n for n, g in graph.groups.items() for s in g.slots if s.path == path}
            color = colors.get(found.get(axis), FROZEN)
            at = x + 1.02 - 0.215 * (len(shape) - 1 - axis)
            below = y if len(shape) < 4 else y - 0.24
            style = dict(size=8.5, ha="right", va="center", color=color)
            axes.text(at, below, str(size), weight="bold", **style)


def _flow(axes, ink) -> None:
    starts = [0.1 + 1.3 * i + 0.4 * (i == 6) for i in range(7)]
    style = dict(arrowstyle="-|>", mutation_scale=9, color=ink, shrinkA=0, shrinkB=0)
    for left, right in pairwise(starts[:6]):
        axes.add_patch(FancyArrowPatch((left + 1.03, 2.575), (right - 0.03, 2.575), **style))
    plus = 7.95
    axes.add_patch(FancyArrowPatch((starts[5] + 1.03, 2.575), (plus - 0.12, 2.575), **style))
    axes.add_patch(FancyArrowPatch((plus + 0.12, 2.575), (starts[6] - 0.03, 2.575), **style))
    axes.text(plus, 2.56, "+", ha="center", va="center", size=17, color=GROUPS[0], weight="bold")
    path = dict(color=GROUPS[0], lw=2, solid_joinstyle="round")
    axes.plot([2.55, 2.55, plus, plus], [2.575, 3.5, 3.5, 2.8], **path)
    axes.text(5.2, 3.62, "the shortcut: what it adds must have the same channels", ha="center")
