"""Networks of many widths: which are made, what they cost, and accuracy against MACs.

Every network of a run, a width of the supernet or one that was trained by itself, is a checkpoint.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments.procedures import supernet
from experiments.procedures.supernet import Keeps, Method
from experiments.report import plots, results
from experiments.report.plots import Point
from experiments.runner.config import C
from experiments.runner.experiment import Summary
from experiments.runner.run import Run
from experiments.runner.task import Network, Task
from experiments.runner.training import Loss, cross_entropy
from jaxprune.keep.check import Keep
from jaxprune.schedule import Training

Curves = Mapping[str, Mapping[str, Network]]
"""{label of a curve: {name of a network: the network}}, the widest first."""


def procedure(make: Callable[[C, Run[C]], Curves]) -> Callable[[Run[C]], Summary]:
    """Returns what makes networks of many widths, and tells what they are worth.

    Args:
      make: makes the networks; it is called again when an interrupted run goes on.
    """

    def followed(run: Run[C]) -> Summary:
        with run.going_on():
            curves = make(run.task.config, run)
        summary = summarize(run.task, curves)
        plots.spectrum(run.path / "spectrum.png", points(summary))
        return summary

    return followed


def trained(run: Run[Any], method: Method, how: Training, name: str = "supernet") -> Network:
    """Returns the supernet, trained; see `experiments.procedures.supernet.train`."""
    start = supernet.initial(run.task, method)
    return run.network(name, partial(supernet.train, run.task, method, how, name, start))


def cut(run: Run[Any], label: str, whole: Network, widths: Keeps) -> dict[str, Network]:
    """Returns these widths of a supernet, called after the label."""

    def one(width: str, keep: Keep) -> Network:
        make = partial(supernet.cut, run.task, whole, width, keep)
        return run.network(f"{label}-{width}", lambda _: make())

    return {f"{label}-{width}": one(width, keep) for width, keep in widths.items()}


def alone(
    run: Run[Any], label: str, widths: Keeps, how: Training, *, loss: Loss = cross_entropy
) -> dict[str, Network]:
    """Returns networks of these widths, each trained by itself from new weights."""

    def one(name: str, keep: Keep) -> Network:
        return run.network(name, partial(supernet.alone, run.task, how, name, keep, loss=loss))

    return {name: one(name, keep) for w, keep in widths.items() for name in [f"{label}-{w}"]}


def summarize(task: Task, curves: Curves) -> dict[str, Any]:
    """Returns all that a run found."""
    networks = {name: each for curve in curves.values() for name, each in curve.items()}
    return {
        "final": next(iter(networks)),
        **results.accuracies(task, networks),
        "curves": {label: list(curve) for label, curve in curves.items()},
        "networks": {name: _costs(task, each) for name, each in networks.items()},
        "seed": task.config.seed,
    }


def points(summary: Mapping[str, Any]) -> dict[str, list[Point]]:
    """Returns (MACs, test accuracy, its standard error) of every network, for each curve."""
    accuracy, images = summary["accuracy"], summary["images"]["test"]

    def point(name: str) -> Point:
        found = accuracy[name]
        return summary["networks"][name]["macs"], found, plots.standard_error(found, images)

    return {label: [point(name) for name in names] for label, names in summary["curves"].items()}


def report(run: Path, summary: Mapping[str, Any]) -> None:
    """Prints what came out, and what to do next."""
    console = Console()
    table = Table(
        "network",
        "channels",
        "MACs",
        "parameters",
        "ms for 64 images",
        "test accuracy",
        title=str(run),
    )
    for names in summary["curves"].values():
        for name in names:
            found = summary["networks"][name]
            counts = (f"{found[cost]:,}" for cost in ("channels", "macs", "parameters"))
            accuracy = f"{summary['accuracy'][name]:.2%}"
            table.add_row(name, *counts, f"{found['latency_ms']:.3f}", accuracy)
        table.add_section()
    console.print(table)
    results.print_next(console, run, summary)


def _costs(task: Task, network: Network) -> dict[str, Any]:
    """Returns the costs of one image, and the time of a batch of 64."""
    counts = jp.widths(task.graph, network.keep)
    return {
        "channels": sum(counts.values()),
        "macs": jp.cost.macs(task.graph, counts),
        "parameters": jp.cost.params(task.graph, counts),
        "latency_ms": 1e3 * results.latency(task, network).median,
        "widths": counts,
    }
