"""Chooses lambda and the ratio of Network Slimming on validation images, not by hand.

For every lambda of a grid the dense network is trained once; then the largest ratio is taken whose
network is at most `tolerance` worse on the validation images than the best dense network. Of all
lambdas the one with the fewest MACs wins, and only that network sees the test images.

Command:   python -m experiments.search --strengths 0.03 0.015 0.005
Device:    CPU, 2 cores
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments.methods.network_slimming import stages
from experiments.methods.network_slimming.config import Config
from experiments.methods.network_slimming.presets import PRESETS
from experiments.procedures import steps
from experiments.report import plots, results
from experiments.runner import config as configuration
from experiments.runner import devices, directory, presets, processes
from experiments.runner.command import one_line
from experiments.runner.experiment import begun
from experiments.runner.run import Run
from experiments.runner.task import Network, Task, initial
from experiments.tasks import classification

SEARCH = "search.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Try lambdas and ratios, and keep what is smallest and good enough on validation images."""

    slimming: Config = field(default_factory=Config)
    strengths: tuple[float, ...] = (1e-3, 1e-4, 1e-5)
    """Lambdas to try."""
    ratios: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
    """Ratios to try, the largest first."""
    tolerance: float = 0.01
    """What the validation accuracy may fall below that of the best dense network."""
    judge: Literal["finetuned", "recalibrated"] = "finetuned"
    """Whether a ratio is judged after retraining, or, quickly, after recalibration."""


def main(search: Search) -> Path:
    """Runs the search and returns its directory."""
    provenance, config = directory.provenance(), search.slimming
    value = configuration.to_json(config) | {"search": _options(search)}
    with devices.using(config):
        task = processes.together(lambda: classification.task(config))
        processes.check_alike(value, task.dataset)
        with begun(config, value) as run:
            summary = chosen(run, task, search) | provenance
        processes.shared(lambda: directory.write_json(run / SEARCH, summary))
        report(run, summary)
    return run


def chosen(run: Path, task: Task, search: Search) -> dict[str, Any]:
    """Returns what was tried, and what of it was chosen."""
    dense = {strength: _dense(run, task, strength) for strength in search.strengths}
    reference = max(_validated(task, network) for network in dense.values())
    rows = [
        row
        for strength, network in dense.items()
        for row in _ratios(run, task, search, strength, network, reference - search.tolerance)
    ]
    summary: dict[str, Any] = {"reference": reference, "rows": rows}
    if good := [row for row in rows if row["good"]]:
        best = min(good, key=lambda row: row["macs"])
        summary |= {"chosen": best, "test": _tested(run, task, search, best)}
    names = {f"lambda {strength:g}": network for strength, network in dense.items()}
    plots.scale_histogram(run / "scales.png", {n: results.scales(v) for n, v in names.items()})
    return summary


def report(run: Path, summary: Mapping[str, Any]) -> None:
    """Prints what was tried and what was chosen."""
    console, chosen = Console(), summary.get("chosen")
    head = ("lambda", "ratio", "dense", "pruned", "MACs kept", "parameters kept", "")
    title = f"{run}: validation accuracy, best dense {summary['reference']:.2%}"
    table = Table(*head, title=title)
    for row in summary["rows"]:
        shares = (f"{row[name]:.2%}" for name in ("dense", "pruned", "macs", "parameters"))
        mark = "chosen" if row == chosen else "good" if row["good"] else ""
        table.add_row(f"{row['strength']:g}", f"{row['ratio']:g}", *shares, mark)
    console.print(table)
    if chosen is None:
        console.print("no ratio is good enough: allow more --tolerance, or smaller --ratios")
    else:
        console.print("test accuracy", *(f"{n} {a:.2%}" for n, a in summary["test"].items()))


def _dense(run: Path, task: Task, strength: float) -> Network:
    task = _with(task, strength=strength)
    dense, *_ = stages.steps(task)
    return steps.follow(Run(_directory(run, strength), task), [dense], initial(task))["dense"]


def _ratios(
    run: Path, task: Task, search: Search, strength: float, dense: Network, least: float
) -> Iterator[dict[str, Any]]:
    """Yields what ratios from the largest down give, up to the first that is good enough."""
    for ratio in sorted(search.ratios, reverse=True):
        try:
            network = _pruned(run, task, search, strength, ratio, dense)
        except jp.errors.BudgetError:  # floors do not allow it
            continue
        costs, accuracy = results.costs(task, network), _validated(task, network)
        yield {
            "strength": strength,
            "ratio": ratio,
            "dense": _validated(task, dense),
            "pruned": accuracy,
            **{n: costs[n]["pruned"] / costs[n]["dense"] for n in ("macs", "parameters")},
            "good": accuracy >= least,
        }
        if accuracy >= least:
            return


def _pruned(
    run: Path, task: Task, search: Search, strength: float, ratio: float, dense: Network
) -> Network:
    task = _with(task, strength=strength, prune_ratio=ratio, target_macs=None, passes=1)
    _, *rest = stages.steps(task)
    if search.judge == "recalibrated":
        rest = [step for step in rest if step.name in ("pruned", "recalibrated")]
    networks = steps.follow(Run(_directory(run, strength, ratio), task), rest, dense)
    return networks[rest[-1].name]


def _tested(run: Path, task: Task, search: Search, row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the test accuracies of the chosen network and of its dense one."""
    dense = _dense(run, task, row["strength"])
    pruned = _pruned(run, task, search, row["strength"], row["ratio"], dense)
    test = task.dataset.test
    return {
        n: results.accuracy(task, v, test) for n, v in {"dense": dense, "pruned": pruned}.items()
    }


def _validated(task: Task, network: Network) -> float:
    return results.accuracy(task, network, task.dataset.validation)


def _with(task: Task, **changes: Any) -> Task:
    return task._replace(config=replace(task.config, **changes))


def _directory(run: Path, strength: float, ratio: float | None = None) -> Path:
    path = run / f"lambda-{strength:g}"
    path = path if ratio is None else path / f"ratio-{ratio:g}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _options(search: Search) -> dict[str, Any]:
    options = {name: value for name, value in asdict(search).items() if name != "slimming"}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in options.items()}


if __name__ == "__main__":
    with one_line():
        start = Search(slimming=replace(presets.chosen(PRESETS, Config()), name="search"))
        text = f"{Search.__doc__}\n\nPresets: {', '.join(PRESETS)}."
        options = (tyro.conf.OmitArgPrefixes,)
        program = "python -m experiments.search"
        main(tyro.cli(Search, prog=program, description=text, default=start, config=options))
