"""How well a table of latencies predicts whole networks, beside how well they are measured again.

Command: python -m benchmarks.latency [--plans 30] [--batch 32] [--rounds 5] [network ...]
For every network tables at `LADDERS` widths of each group, then random plans between 30 and 80 % of
the MACs, each measured as `jp.narrow` runs it, all in turn. *Measured*: the same plans measured a
second time, as if the first time had predicted it. Writes benchmarks/results/latency.md.
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from benchmarks.programs import narrowed

LADDERS = (4, 8)
RESULTS = Path(__file__).parent / "results" / "latency.md"
TEXT = """# Latency

Written by `python -m benchmarks.latency --rounds {rounds}` on {device}: {plans} random plans of 30
to 80 % of the MACs for each network, at batch {batch}, {rounds} rounds in turn, predicted by tables
of so many widths of each group, and by measuring them before. *Measured / predicted* is the median;
the *error* is beyond it.

| network | predicted by | shapes | measured / predicted | error | rank correlation |
|---|---|---|---|---|---|"""


def _linen(model: Any, batch: int, size: int) -> tuple[jp.ChannelGraph, Any, Any]:
    x = jax.random.normal(jax.random.key(1), (batch, size, size, 3))
    variables = model.init(jax.random.key(0), x, train=False)
    return jp.linen.trace(model, variables, x, train=False), variables, x


def resnet(batch: int) -> tuple[jp.ChannelGraph, Any, Any]:
    """Returns a ResNet of three bottlenecks on small images."""
    from experiments.models.bottleneck_resnet import BottleneckResNet

    model = BottleneckResNet(blocks=(1, 1, 1), widths=(64, 128, 256), classes=10)
    return _linen(model, batch, 32)


def mobilenet(batch: int) -> tuple[jp.ChannelGraph, Any, Any]:
    """Returns a MobileNetV2 on small images."""
    from experiments.models.mobilenet import mobilenet_v2

    return _linen(mobilenet_v2(classes=10), batch, 32)


def mlp(batch: int) -> tuple[jp.ChannelGraph, Any, Any]:
    """Returns a wide MLP."""
    sizes = (512, 2048, 1024, 2048, 10)
    keys = jax.random.split(jax.random.key(0), len(sizes))
    v = {
        f"layer_{i}": jax.random.normal(keys[i], shape) / 32
        for i, shape in enumerate(itertools.pairwise(sizes))
    }

    def fn(v: Any, x: Any) -> Any:
        for i in range(len(v)):
            x = jax.nn.relu(x @ v[f"layer_{i}"])
        return x

    x = jnp.ones((batch, sizes[0]))
    return jp.trace(fn, v, x), v, x


NETWORKS: dict[str, Callable[[int], tuple[jp.ChannelGraph, Any, Any]]] = {
    "MLP": mlp,
    "ResNet": resnet,
    "MobileNetV2": mobilenet,
}


def plans(graph: jp.ChannelGraph, count: int) -> list[dict[str, np.ndarray]]:
    """Returns random keeps of 30 to 80 % of the MACs."""
    random = np.random.default_rng(0)
    found = []
    for share in random.uniform(0.3, 0.8, count):
        scores = {
            name: random.uniform(size=group.shape) ** random.uniform(0.3, 3)
            for name, group in graph.groups.items()
        }
        found.append(jp.select.budget(graph, scores, keep_macs=share, min_keep_ratio=0.1))
    return found


def rows(name: str, asked: argparse.Namespace) -> Iterator[str]:
    """Yields the rows of a network in the table."""
    graph, variables, x = NETWORKS[name](asked.batch)
    timer = functools.partial(jp.cost.interleaved, repeats=asked.rounds)
    tables = [jp.cost.latency_table(graph, ladder=count, timer=timer) for count in LADDERS]
    keeps = plans(graph, asked.plans)
    calls = narrowed(graph, variables, x, keeps)
    before = timer(calls)
    for count, table in zip(LADDERS, tables, strict=True):
        predicted = [jp.cost.tabled(table)(graph, keep) for keep in keeps]
        found = jp.cost.fidelity(predicted, calls, timer=timer)
        yield _row(name, f"{count} widths", f"{len(table.seconds)}", found)
    yield _row(name, "measuring", "", jp.cost.fidelity(before, calls, timer=timer))


def _row(name: str, by: str, shapes: str, found: jp.cost.Fidelity) -> str:
    numbers = f"{found.scale:.2f} | {found.error:.1%} | {found.correlation:.3f}"
    return f"| {name} | {by} | {shapes} | {numbers} |"


def main() -> None:
    """Writes the table of the networks that are named, or of all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--plans", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    given = {key: getattr(asked, key) for key in ("plans", "batch", "rounds")}
    lines = [TEXT.format(device=jax.devices()[0].device_kind, **given)]
    for name in asked.networks or NETWORKS:
        for row in rows(name, asked):
            lines.append(row)
            print(row, flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
