"""What a run reports: accuracies, costs, tables in the form of the paper, and figures."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments.data import Split, Stream
from experiments.runner import training
from experiments.runner.task import Network, Task

COSTS = {
    "channels": "channels",
    "macs": "MACs",
    "parameters": "parameters",
    "activation_bytes": "activation bytes",
}
"""Name in a summary -> in a table."""
MEASURED = {
    "bytes": "bytes of all variables",
    "latency_ms": "ms for 64 images",
    "images_per_s": "images/s",
}
"""The same, of what depends on the machine."""


def accuracy(task: Task, network: Network, split: Split | Stream) -> float:
    """Returns the share of the images of a split that the network gets right."""
    return training.evaluate(network.model, network.variables, task.dataset, split).accuracy


def measured(task: Task, networks: Mapping[str, Network]) -> dict[str, Any]:
    """Returns the figures of a pruning, of the networks by name: "dense", ..., the last."""
    dense, *_, (name, last) = networks["dense"], *networks.items()
    return {
        "final": name,
        **accuracies(task, networks),
        **costs(task, last),
        **_measured(task, {"dense": dense, "pruned": last}),
        "widths": _before_after(jp.widths(task.graph), jp.widths(task.graph, last.keep)),
        "seed": task.config.seed,
    }


def accuracies(task: Task, networks: Mapping[str, Network]) -> dict[str, Any]:
    """Returns those of all networks; the one place where the test images are looked at."""
    dataset = task.dataset
    splits = {"accuracy": dataset.test, "validation_accuracy": dataset.validation}
    return {
        field: {name: accuracy(task, each, split) for name, each in networks.items()}
        for field, split in splits.items()
    } | {"images": {"test": dataset.test.size, "validation": dataset.validation.size}}


def costs(task: Task, network: Network) -> dict[str, Any]:
    """Returns the closed-form costs before and after pruning, of one image."""
    comparison = jp.compare(task.graph, network.keep)
    changes = (comparison.channels, comparison.macs, comparison.params, comparison.activation_bytes)
    return {
        **{n: _before_after(c.before, c.after) for n, c in zip(COSTS, changes, strict=True)},
        "channels_pruned": 1 - comparison.channels.ratio,
        "macs_pruned": 1 - comparison.macs.ratio,
    }


def scales(network: Network) -> np.ndarray:
    """Returns |gamma| of all BatchNorm layers, one after the other."""
    mask = jp.scale_mask(network.variables)
    leaves = zip(jax.tree.leaves(network.variables["params"]), jax.tree.leaves(mask), strict=True)
    return np.concatenate([np.abs(leaf) for leaf, is_scale in leaves if is_scale])


def report(run: Path, summary: Mapping[str, Any], *tables: Table) -> None:
    """Prints what came out, the tables of the experiment too, and what to do next."""
    console = Console()
    by_network = summary["accuracy"]
    table = Table("test accuracy", *by_network, title=str(run))
    table.add_row("", *(f"{value:.2%}" for value in by_network.values()))
    console.print(table)
    table = Table("cost", "dense", "pruned", "kept")
    for name, title in (COSTS | MEASURED).items():
        dense, pruned = summary[name]["dense"], summary[name]["pruned"]
        row = (
            f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
            for value in (dense, pruned)
        )
        factor = pruned / dense
        speed = name == "images_per_s"
        table.add_row(title, *row, f"x {factor:.1f}" if speed else f"{100 * factor:.1f} %")
    console.print(table)
    for table in tables:
        console.print(table)
    print_next(console, run, summary)


def print_next(console: Console, run: Path, summary: Mapping[str, Any]) -> None:
    """Prints how long it took, and what to do next."""
    console.print(f"{summary['wall_time_s']:.0f} s; accuracies are on the test images. Next:")
    console.print(f"python -m experiments.evaluate {run}", soft_wrap=True, highlight=False)


def _measured(task: Task, networks: Mapping[str, Network]) -> dict[str, Any]:
    """Returns bytes, times of a batch of 64 images, and the images in a second which that makes."""
    times = {name: latency(task, network) for name, network in networks.items()}
    return {
        "bytes": {name: _bytes(network) for name, network in networks.items()},
        "latency_ms": {name: 1e3 * time.median for name, time in times.items()},
        "images_per_s": {name: round(64 / time.median, 1) for name, time in times.items()},
        "latency_spread_ms": {name: 1e3 * time.spread for name, time in times.items()},
    }


def latency(task: Task, network: Network) -> jp.cost.Latency:
    """Returns the time of a batch of 64 images, with running statistics."""
    shape = (64, *task.dataset.image_shape)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return jp.latency(partial(network.model.apply, train=False), network.variables, images)


def _bytes(network: Network) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(network.variables))


def _before_after(before: Any, after: Any) -> dict[str, Any]:
    return {"dense": before, "pruned": after}
