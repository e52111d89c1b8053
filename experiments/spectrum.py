"""The runs of slimmable networks: what they keep on the disk, and accuracy against MACs.

Every network of a run, a width of the supernet or one that was trained by itself, is a checkpoint.

Command:   python -m experiments.spectrum runs/slimmable runs/us_slimmable runs/autoslim
Writes:    spectrum.png, the accuracy against the MACs of all networks of these runs
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments import config as configuration
from experiments import plots, procedures, results, resume, runs, supernet
from experiments.config import Common
from experiments.procedures import Network, Phase, Setup
from experiments.supernet import Keeps, Method
from experiments.training import Journal, Loss, cross_entropy
from jaxprune.keep.check import Keep
from jaxprune.schedule import Training

Curves = Mapping[str, Mapping[str, Network]]
"""{label of a curve: {name of a network: the network}}, the widest first."""


class Run(NamedTuple):
    """A run in progress."""

    path: Path
    setup: Setup[Any]

    def network(self, name: str, make: Callable[[Journal], Network]) -> Network:
        """Returns what `make` gives; a second time it is read, not made."""
        start = Network(self.setup.model, {}, {})
        phase = Phase(name, lambda _, journal: make(journal))
        return resume.carried_out(self.path, self.setup, phase, start)

    def supernet(self, method: Method, how: Training, name: str = "supernet") -> Network:
        """Returns the supernet, trained; see `experiments.supernet.train`."""
        start = supernet.initial(self.setup, method)
        return self.network(name, partial(supernet.train, self.setup, method, how, name, start))

    def cut(self, label: str, trained: Network, widths: Keeps) -> dict[str, Network]:
        """Returns these widths of a supernet, called after the label."""

        def one(width: str, keep: Keep) -> Network:
            make = partial(supernet.cut, self.setup, trained, width, keep)
            return self.network(f"{label}-{width}", lambda _: make())

        return {f"{label}-{width}": one(width, keep) for width, keep in widths.items()}

    def alone(
        self, label: str, widths: Keeps, how: Training, *, loss: Loss = cross_entropy
    ) -> dict[str, Network]:
        """Returns networks of these widths, each trained by itself from new weights."""

        def one(name: str, keep: Keep) -> Network:
            make = partial(supernet.alone, self.setup, how, name, keep, loss=loss)
            return self.network(name, make)

        return {name: one(name, keep) for w, keep in widths.items() for name in [f"{label}-{w}"]}

    def value(self, name: str, make: Callable[[], Any]) -> Any:
        """Returns the JSON value that `make` gives; a second time it is read, not made."""
        file = self.path / f"{name}.json"
        if not file.exists():
            runs.write_json(file, make())
        return runs.read_json(file)


def execute(experiment: str, config: Common, procedure: Callable[[Run], Curves]) -> Path:
    """Runs an experiment and returns the directory of the run.

    Args:
      experiment: its name, which `experiments.evaluate` looks up.
      config: of the run.
      procedure: makes the networks; it is called again when an interrupted run goes on.
    """
    path = resume.begin(config, configuration.to_json(config) | {"experiment": experiment})

    def found() -> dict[str, Any]:
        setup = procedures.setup(config)
        resume.rewind(path, resume.finished(path))
        curves = procedure(Run(path, setup))
        resume.drop(path, resume.RUNNING)
        summary = summarize(setup, curves)
        plots.spectrum(path / "spectrum.png", points(summary))
        return summary

    report(path, runs.summarized(path, found))
    return path


def summarize(setup: Setup, curves: Curves) -> dict[str, Any]:
    """Returns all that a run found."""
    networks = {name: each for curve in curves.values() for name, each in curve.items()}
    return {
        "final": next(iter(networks)),
        **results.accuracies(setup, networks),
        "curves": {label: list(curve) for label, curve in curves.items()},
        "networks": {name: _costs(setup, each) for name, each in networks.items()},
        "seed": setup.config.seed,
    }


def points(summary: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Returns (MACs, test accuracy) of every network, for each curve."""
    return {
        label: [(summary["networks"][name]["macs"], summary["accuracy"][name]) for name in names]
        for label, names in summary["curves"].items()
    }


def report(run: Path, summary: Mapping[str, Any]) -> None:
    """Prints what came out, and what to do next."""
    console = Console()
    table = Table("network", "channels", "MACs", "parameters", "ms", "accuracy", title=str(run))
    for names in summary["curves"].values():
        for name in names:
            found = summary["networks"][name]
            counts = (f"{found[cost]:,}" for cost in ("channels", "macs", "parameters"))
            accuracy = f"{summary['accuracy'][name]:.2%}"
            table.add_row(name, *counts, f"{found['latency_ms']:.3f}", accuracy)
        table.add_section()
    console.print(table)
    results.print_next(console, run, summary)


def _costs(setup: Setup, network: Network) -> dict[str, Any]:
    """Returns the costs of one image, and the time of a batch of 64."""
    counts = jp.widths(setup.graph, network.keep)
    return {
        "channels": sum(counts.values()),
        "macs": jp.cost.macs(setup.graph, counts),
        "parameters": jp.cost.params(setup.graph, counts),
        "latency_ms": 1e3 * results.latency(setup, network).median,
        "widths": counts,
    }


def main(
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional], out: Path = Path("spectrum.png")
) -> None:
    """Draw the networks of several runs in one picture.

    Args:
      paths: directories of finished runs.
      out: the picture.

    Raises:
      ValueError: one of them is no finished run of slimmable networks.
    """
    curves = {}
    names = [path.name for path in paths]
    for path in paths:
        summary = runs.read_json(path / runs.SUMMARY)
        if "curves" not in summary:
            raise ValueError(
                f"{path} has no curves.\nFix: runs of slimmable, us_slimmable or autoslim."
            )
        name = path.name if names.count(path.name) == 1 else str(path)
        curves |= {f"{label}, {name}": found for label, found in points(summary).items()}
    plots.spectrum(out, curves)
    print(f"{len(curves)} curves in {out}")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m experiments.spectrum")
