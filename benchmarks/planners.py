"""How long the integer program takes on large networks, and how near to the best it ends.

Command: python -m benchmarks.planners [network ...]
Random scores, two bounds each (half of the MACs, 60 % of the parameters), ladders of `WIDTHS`
widths, a gap of 0.5 %. Traced on shapes alone. Writes benchmarks/results/planners.md.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp

WIDTHS = 8
RESULTS = Path(__file__).parent / "results" / "planners.md"
TEXT = """# Planners

Written by `python -m benchmarks.planners` on CPU: `jp.plan.milp` with random scores, ladders of up
to {widths} widths, half of the MACs and 60 % of the parameters. *Held*: both costs of the
allocation by the closed form, of their bounds.

| network | choices | s to make the problem | s to solve | gap | MACs held | parameters held |
|---|---|---|---|---|---|---|"""


def resnet50() -> Any:
    """Returns the graph of a ResNet-50."""
    from experiments.models.bottleneck_resnet import BottleneckResNet

    return _linen(BottleneckResNet(blocks=(3, 4, 6, 3)))


def mobilenet() -> Any:
    """Returns the graph of a MobileNetV2."""
    from experiments.models.mobilenet import mobilenet_v2

    return _linen(mobilenet_v2())


def _linen(model: Any) -> Any:
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    return jp.linen.trace(model, variables, image, train=False)


def decoder(layers: int = 32) -> Any:
    """Returns the graph of a decoder: every layer has its own heads, head sizes and hidden width.

    The keys' heads and their size times the stream are products of three widths.
    """
    stream, heads, each, size, hidden, length = 1024, 8, 2, 64, 4096, 128
    shapes = {
        "q": (stream, heads, each, size), "k": (stream, heads, size), "v": (stream, heads, size),
        "o": (heads, each, size, stream), "gate": (stream, hidden), "up": (stream, hidden),
        "down": (hidden, stream),
    }  # fmt: skip
    layer = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    v: dict[str, Any] = {f"layer_{i}": layer for i in range(layers)}
    v |= {
        "embed": jax.ShapeDtypeStruct((32000, stream), jnp.float32),
        "head": jax.ShapeDtypeStruct((stream, 32000), jnp.float32),
    }

    def fn(v: Any, tokens: Any) -> Any:
        x = v["embed"][tokens]
        for i in range(layers):
            w = v[f"layer_{i}"]
            q = jnp.einsum("te,ehgd->thgd", x, w["q"])
            k, u = (jnp.einsum("te,ehd->thd", x, w[name]) for name in "kv")
            y = jax.nn.softmax(jnp.einsum("thgd,shd->hgts", q, k))
            y = jnp.einsum("hgts,shd->thgd", y, u)
            x = x + jnp.einsum("thgd,hgde->te", y, w["o"])
            x = x + (jax.nn.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"]
        return x @ v["head"]

    return jp.trace(fn, v, jax.ShapeDtypeStruct((length,), jnp.int32))


def vit() -> Any:
    """Returns the graph of a ViT-B/16, its classification by the mean of the patches."""
    stream, heads, size, hidden, patches = 768, 12, 64, 3072, 196
    shapes = {
        "q": (stream, heads, size), "k": (stream, heads, size), "v": (stream, heads, size),
        "o": (heads, size, stream), "up": (stream, hidden), "down": (hidden, stream),
    }  # fmt: skip
    layer = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    v: dict[str, Any] = {f"layer_{i}": layer for i in range(12)}
    v |= {
        "embed": jax.ShapeDtypeStruct((768, stream), jnp.float32),
        "head": jax.ShapeDtypeStruct((stream, 1000), jnp.float32),
    }

    def fn(v: Any, x: Any) -> Any:
        x = x @ v["embed"]
        for i in range(12):
            w = v[f"layer_{i}"]
            q, k, u = (jnp.einsum("te,ehd->thd", x, w[name]) for name in "qkv")
            y = jnp.einsum("hts,shd->thd", jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k)), u)
            x = x + jnp.einsum("thd,hde->te", y, w["o"])
            x = x + jax.nn.gelu(x @ w["up"]) @ w["down"]
        return x.mean(0) @ v["head"]

    return jp.trace(fn, v, jax.ShapeDtypeStruct((patches, 768), jnp.float32))


NETWORKS: dict[str, Callable[[], Any]] = {
    "ResNet-50": resnet50,
    "MobileNetV2": mobilenet,
    "ViT-B/16": vit,
    "decoder": decoder,
}


def row(name: str) -> str:
    """Returns the row of a network in the table."""
    graph = NETWORKS[name]()
    random = np.random.default_rng(0)
    scores = {key: random.uniform(size=group.shape) for key, group in graph.groups.items()}
    start = time.perf_counter()
    found = jp.plan.problem(
        graph, scores, bounds={jp.cost.macs: 0.5, jp.cost.params: 0.6}, ladder=WIDTHS
    )
    made = time.perf_counter()
    best = jp.plan.milp(found, gap=0.005)
    end = time.perf_counter()
    held = [f"{best.costs[limit.name]:,} of {limit.value:,}" for limit in found.limits]
    times = f"{made - start:.2f} | {end - made:.2f}"
    return f"| {name} | {len(found.choices)} | {times} | {best.gap:.3%} | {' | '.join(held)} |"


def main() -> None:
    """Writes the table of the networks that are named, or of all."""
    lines = [TEXT.format(widths=WIDTHS)]
    for name in sys.argv[1:] or NETWORKS:
        lines.append(row(name))
        print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
