"""What planning costs beyond tracing the model: analysis, scores, selection, slicing.

Command: python -m benchmarks.analysis
Prints a Markdown table for bottleneck ResNets at 224 pixels; least of `REPEATS`, CPU milliseconds.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from benchmarks.bottleneck import ResNet, resnet
from jaxprune import graph as graphs

REPEATS = 7
DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 200: (3, 24, 36, 3)}


def timed(fn: Callable[[], Any]) -> tuple[float, Any]:
    """Returns CPU milliseconds, which other programs disturb least, and the result."""
    start = time.process_time()
    result = fn()
    return 1e3 * (time.process_time() - start), result


def measure(model: ResNet) -> list[float]:
    """Returns the least times: make_jaxpr, analysis, scores and selection, slicing, a full copy."""
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: random.random(leaf.shape, np.float32), shapes)
    rows = []
    original = graphs._jaxpr.trace
    for _ in range(REPEATS):
        inside = 0.0

        def trace(*args: Any) -> Any:
            nonlocal inside
            inside, result = timed(lambda: original(*args))
            return result

        graphs._jaxpr.trace = trace
        try:
            whole, graph = timed(lambda: jp.trace(model.apply, shapes, x))
        finally:
            graphs._jaxpr.trace = original
        chosen, keep = timed(
            lambda graph=graph: jp.select.global_ratio(
                graph, jp.scores.bn_scale(graph, variables), prune_ratio=0.5, max_prune_ratio=0.9
            )
        )
        cut, _ = timed(lambda graph=graph, keep=keep: jp.slice(graph, variables, keep))
        copied, _ = timed(lambda: jax.tree.map(np.copy, variables))
        rows.append((inside, whole - inside, chosen, cut, copied))
    return [min(column) for column in zip(*rows, strict=True)]


def main() -> None:
    """Prints the table."""
    print("| depth | make_jaxpr | analysis beyond it | score + select | slice | copy of all |")
    print("|---|---|---|---|---|---|")
    for depth, blocks in DEPTHS.items():
        cells = " | ".join(f"{value:.1f}" for value in measure(resnet(blocks)))
        print(f"| {depth} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
