"""What planning costs beyond tracing the model: analysis, scores, selection, slicing.

Command: python -m benchmarks.analysis
Prints two Markdown tables for bottleneck ResNets at 224 pixels: by depth, and by width at depth 50
on shapes alone; least of `REPEATS`, CPU milliseconds.
"""

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from benchmarks.bottleneck import ResNet, resnet
from jaxprune.program import jaxpr

REPEATS = 7
DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 200: (3, 24, 36, 3)}
WIDTHS = (16, 32, 64, 128, 256)
X = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)


def timed(fn: Callable[[], Any]) -> tuple[float, Any]:
    """Returns CPU milliseconds, which other programs disturb least, and the result.

    The garbage collector rests, as in `timeit`: it looks at every object again and again, and so
    adds a time that grows with all that the process holds.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        start = time.process_time()
        result = fn()
        return 1e3 * (time.process_time() - start), result
    finally:
        if collects:
            gc.enable()


def planned(
    fn: Callable[..., Any], variables: Any, *inputs: Any
) -> tuple[float, float, jp.ChannelGraph]:
    """Returns the times of make_jaxpr and of the analysis beyond it, and the graph."""
    original = jaxpr.trace
    inside = 0.0

    def trace(*args: Any) -> Any:
        nonlocal inside
        inside, result = timed(lambda: original(*args))
        return result

    jaxpr.trace = trace
    try:
        whole, graph = timed(lambda: jp.trace(fn, variables, *inputs))
    finally:
        jaxpr.trace = original
    return inside, whole - inside, graph


def by_depth(model: ResNet) -> list[float]:
    """Returns the least times: make_jaxpr, analysis, scores and selection, slicing, a full copy."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X)
    variables = jax.tree.map(lambda leaf: random.random(leaf.shape, np.float32), shapes)
    rows = []
    for _ in range(REPEATS):
        inside, beyond, graph = planned(model.apply, shapes, X)
        chosen, keep = timed(
            lambda graph=graph: jp.select.global_ratio(
                graph, jp.scores.bn_scale(graph, variables), prune_ratio=0.5, max_prune_ratio=0.9
            )
        )
        cut, _ = timed(lambda graph=graph, keep=keep: jp.slice(graph, variables, keep))
        copied, _ = timed(lambda: jax.tree.map(np.copy, variables))
        rows.append((inside, beyond, chosen, cut, copied))
    return least(rows)


def by_width(model: ResNet) -> list[float]:
    """Returns channels, parameters in millions, and the least times of make_jaxpr and analysis."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), X)
    found = [planned(model.apply, shapes, X) for _ in range(REPEATS)]
    graph = found[0][-1]
    channels = sum(group.size for group in graph.groups.values())
    return [channels, jp.cost.params(graph) / 1e6, *least([item[:2] for item in found])]


def least(rows: Sequence[Sequence[float]]) -> list[float]:
    """Returns the least of every column."""
    return [min(column) for column in zip(*rows, strict=True)]


def main() -> None:
    """Prints the tables."""
    print("| depth | make_jaxpr | analysis beyond it | score + select | slice | copy of all |")
    print("|---|---|---|---|---|---|")
    for depth, blocks in DEPTHS.items():
        cells = " | ".join(f"{value:.1f}" for value in by_depth(resnet(blocks)))
        print(f"| {depth} | {cells} |", flush=True)
    print()
    print("| width | channels | million parameters | make_jaxpr | analysis beyond it |")
    print("|---|---|---|---|---|")
    for width in WIDTHS:
        channels, *cells = by_width(resnet(DEPTHS[50], width=width))
        numbers = " | ".join(f"{value:.1f}" for value in cells)
        print(f"| {width} | {channels} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
