"""What a run of Network Slimming reports beside the common tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import jaxprune as jp
from experiments.methods.network_slimming import stages
from experiments.methods.network_slimming.config import Config
from experiments.methods.network_slimming.presets import PAPER
from experiments.report import plots, results
from experiments.runner import config as configuration
from experiments.runner import directory
from experiments.runner.task import Network, Task

RATIOS = tuple(round(0.05 * i, 2) for i in range(20))


def curve(task: Task, dense: Network) -> dict[str, list[float]]:
    """Returns validation accuracies against the share of channels at zero, nothing retrained."""
    scores = jp.scores.bn_scale(task.graph, dense.variables)
    points: dict[str, list[float]] = {"prune_ratio": [], "accuracy": []}
    for ratio in RATIOS:
        try:
            keep = jp.select.global_ratio(task.graph, scores, prune_ratio=ratio)
        except jp.errors.BudgetError:  # every layer is at its last channel
            break
        masked = stages.mask(task, dense, keep)
        points["prune_ratio"].append(ratio)
        points["accuracy"].append(results.accuracy(task, masked, task.dataset.validation))
    return points


def first_pruning(task: Task[Config], networks: Mapping[str, Network]) -> dict[str, Any]:
    """Returns the share of channels that the first pass pruned, and the threshold of all layers."""
    scores = jp.scores.bn_scale(task.graph, networks["dense"].variables)
    keep = networks["pruned"].keep
    gone = np.concatenate([np.asarray(score)[~keep[name]] for name, score in scores.items()])
    whole = task.config.scope == "global"
    return {
        "first_pruned": 1 - jp.compare(task.graph, keep).channels.ratio,
        "threshold": float(gone.max()) if whole and gone.size else None,
    }


def draw(run: Path, summary: Mapping[str, Any], networks: Mapping[str, Network]) -> None:
    """Writes the figures of a run."""
    first, last = networks["dense"], networks[summary["final"]]
    histograms = {"before": results.scales(first), "after": results.scales(last)}
    plots.scale_histogram(run / "scales.png", histograms, threshold=summary["threshold"])
    plots.widths(
        run / "widths.png", before=summary["widths"]["dense"], after=summary["widths"]["pruned"]
    )
    points = summary["curve"]
    plots.curve(
        run / "curve.png",
        points["prune_ratio"],
        points["accuracy"],
        images=summary["images"]["validation"],
        chosen=summary["first_pruned"],
    )


def report(run: Path, summary: Mapping[str, Any]) -> None:
    """Prints what came out."""
    config = configuration.from_json(directory.read_config(run), Config)
    results.report(run, summary, as_in_the_paper(config, summary))


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
    row = PAPER.get((config.preset, config.prune_ratio))
    if row is not None:
        table.add_row("paper, dense without penalty", f"{row.dense_error:.2f}")
        flops = "" if row.flops is None else f"{row.flops}%"
        pruned = ("", f"{row.params}%", "", "", flops)
        table.add_row(f"paper, {config.prune_ratio:.0%} pruned", f"{row.error:.2f}", *pruned)
    return table
