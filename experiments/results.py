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
from experiments import plots, presets, procedures, training
from experiments.config import Config
from experiments.data import Split, Stream
from experiments.procedures import Network, Setup

RATIOS = tuple(round(0.05 * i, 2) for i in range(20))
COSTS = ("channels", "macs", "parameters", "activation_bytes")


def accuracy(setup: Setup, network: Network, split: Split | Stream) -> float:
    """Returns the share of the images of a split that the network gets right."""
    return training.evaluate(network.model, network.variables, setup.dataset, split).accuracy


def summarize(setup: Setup, networks: Mapping[str, Network]) -> dict[str, Any]:
    """Returns all that a run found."""
    return measured(setup, networks) | {"curve": curve(setup, networks["dense"])}


def measured(setup: Setup, networks: Mapping[str, Network]) -> dict[str, Any]:
    """Returns the figures of a pruning, of the networks by name: "dense", ..., the last."""
    dense, *_, (name, last) = networks["dense"], *networks.items()
    return {
        "final": name,
        **accuracies(setup, networks),
        **costs(setup, last),
        **_measured(setup, {"dense": dense, "pruned": last}),
        "widths": _before_after(jp.widths(setup.graph), jp.widths(setup.graph, last.keep)),
        "seed": setup.config.seed,
    }


def accuracies(setup: Setup, networks: Mapping[str, Network]) -> dict[str, Any]:
    """Returns those of all networks; the one place where the test images are looked at."""
    dataset = setup.dataset
    splits = {"accuracy": dataset.test, "validation_accuracy": dataset.validation}
    return {
        field: {name: accuracy(setup, each, split) for name, each in networks.items()}
        for field, split in splits.items()
    }


def costs(setup: Setup, network: Network) -> dict[str, Any]:
    """Returns the closed-form costs before and after pruning, of one image."""
    found = jp.compare(setup.graph, network.keep)
    changes = (found.channels, found.macs, found.params, found.activation_bytes)
    return {
        **{n: _before_after(c.before, c.after) for n, c in zip(COSTS, changes, strict=True)},
        "channels_pruned": 1 - found.channels.ratio,
        "macs_pruned": 1 - found.macs.ratio,
    }


def curve(setup: Setup, dense: Network) -> dict[str, list[float]]:
    """Returns validation accuracies against the share of channels at zero, nothing retrained."""
    scores = jp.scores.bn_scale(setup.graph, dense.variables)
    found: dict[str, list[float]] = {"prune_ratio": [], "accuracy": []}
    for ratio in RATIOS:
        try:
            keep = jp.select.global_ratio(setup.graph, scores, prune_ratio=ratio)
        except jp.errors.BudgetError:  # every layer is at its last channel
            break
        masked = procedures.mask(setup, dense, keep)
        found["prune_ratio"].append(ratio)
        found["accuracy"].append(accuracy(setup, masked, setup.dataset.validation))
    return found


def scales(network: Network) -> np.ndarray:
    """Returns |gamma| of all BatchNorm layers, one after the other."""
    mask = jp.scale_mask(network.variables)
    leaves = zip(jax.tree.leaves(network.variables["params"]), jax.tree.leaves(mask), strict=True)
    return np.concatenate([np.abs(leaf) for leaf, is_scale in leaves if is_scale])


def draw(run: Path, summary: Mapping[str, Any], networks: Mapping[str, Network]) -> None:
    """Writes the figures of a run."""
    first, last = networks["dense"], networks[summary["final"]]
    histograms = {"before": scales(first), "after": scales(last)}
    plots.scale_histogram(run / "scales.png", histograms)
    plots.widths(
        run / "widths.png", before=summary["widths"]["dense"], after=summary["widths"]["pruned"]
    )
    found = summary["curve"]
    plots.curve(run / "curve.png", found["prune_ratio"], found["accuracy"])


def report(run: Path, summary: Mapping[str, Any], *tables: Table) -> None:
    """Prints what came out, the tables of the experiment too, and what to do next."""
    console = Console()
    found = summary["accuracy"]
    table = Table("test accuracy", *found, title=str(run))
    table.add_row("", *(f"{value:.2%}" for value in found.values()))
    console.print(table)
    table = Table("cost", "dense", "pruned", "kept")
    for name in (*COSTS, "bytes", "latency_ms", "images_per_s"):
        dense, pruned = summary[name]["dense"], summary[name]["pruned"]
        row = (
            f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
            for value in (dense, pruned)
        )
        table.add_row(name, *row, f"{pruned / dense:.1%}")
    console.print(table)
    for table in tables:
        console.print(table)
    print_next(console, run, summary)


def print_next(console: Console, run: Path, summary: Mapping[str, Any]) -> None:
    """Prints how long it took, and what to do next."""
    console.print(f"{summary['wall_time_s']:.0f} s; accuracies are on the test images. Next:")
    console.print(f"python -m experiments.evaluate {run}", soft_wrap=True, highlight=False)


def as_in_the_paper(config: Config, summary: Mapping[str, Any]) -> Table:
    """Returns the rows of the run in the form of table 1 of the paper, the paper's beside them."""
    head = ("model", "test error %", "parameters", "pruned", "MACs", "FLOPs", "pruned")
    table = Table(*head, title=f"{config.model} on {config.dataset}")
    for name, stage in (("dense", "dense"), (summary["final"], "pruned")):
        cells = []
        for cost in ("parameters", "macs"):
            dense, here = summary[cost]["dense"], summary[cost][stage]
            flops = [f"{2 * here:.3g}"] if cost == "macs" else []
            cells += [f"{here:,}", *flops, f"{1 - here / dense:.1%}"]
        table.add_row(name, f"{100 * (1 - summary['accuracy'][name]):.2f}", *cells)
    row = presets.PAPER.get((config.preset, config.prune_ratio))
    if row is not None:
        table.add_row("paper, dense without penalty", f"{row.dense_error:.2f}")
        flops = "" if row.flops is None else f"{row.flops}%"
        pruned = ("", f"{row.params}%", "", "", flops)
        table.add_row(f"paper, {config.prune_ratio:.0%} pruned", f"{row.error:.2f}", *pruned)
    return table


def _measured(setup: Setup, networks: Mapping[str, Network]) -> dict[str, Any]:
    """Returns bytes, times of a batch of 64 images, and the images in a second which that makes."""
    times = {name: latency(setup, network) for name, network in networks.items()}
    return {
        "bytes": {name: _bytes(network) for name, network in networks.items()},
        "latency_ms": {name: 1e3 * found.median for name, found in times.items()},
        "images_per_s": {name: round(64 / found.median, 1) for name, found in times.items()},
        "latency_spread_ms": {name: 1e3 * found.spread for name, found in times.items()},
    }


def latency(setup: Setup, network: Network) -> jp.cost.Latency:
    """Returns the time of a batch of 64 images, with running statistics."""
    shape = (64, *setup.dataset.image_shape)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return jp.latency(partial(network.model.apply, train=False), network.variables, images)


def _bytes(network: Network) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(network.variables))


def _before_after(before: Any, after: Any) -> dict[str, Any]:
    return {"dense": before, "pruned": after}
