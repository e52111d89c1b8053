"""Sensitivity: how much the network loses when each group alone is pruned, and nothing retrained.

Paper:     Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.2 and figure 2,
           https://arxiv.org/abs/1608.08710
Command:   python -m experiments sensitivity
           python -m experiments sensitivity --score fisher --measure loss
Device:    CPU, 2 cores
CPU time:  30 s, with compilation
Expected:  seed 0, validation accuracy in percent with half of one group gone, dense 99.0: the
           three streams 55.5, 81.5 and 98.5, inside of the blocks 85.0, 98.5 and 96.5
Writes:    sensitivity.json, for planners, and sensitivity.png
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import jax
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments.data import Split
from experiments.procedures import dense, scoring, steps
from experiments.report import plots
from experiments.runner import config as configuration
from experiments.runner import training
from experiments.runner.config import Common
from experiments.runner.experiment import Experiment, Summary
from experiments.runner.fit import Variables
from experiments.runner.presets import Presets
from experiments.runner.run import Run
from experiments.runner.task import Task, initial, key
from experiments.tasks import classification
from jaxprune.schedule import Training, stepped

FILE, PICTURE = "sensitivity.json", "sensitivity.png"
"""What a planner reads, and the same as a picture. The JSON value is

    {
      "score": name, "measure": "accuracy" or "loss", "images": how many validation images,
      "dense": the value of the network as it is,
      "groups": {group: {prune ratio: the value, only this group pruned}},
      "channels": {group: {prune ratio: how many of its channels stay}},
      "masked": [groups whose masked network is not exactly the sliced one]
    }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train a network, and prune each of its channel groups alone at several ratios, by masks."""

    name: str = "sensitivity"
    """Name of the run; a name that is taken gets a number."""
    score: str = "l2"
    """Of the channels, a name in experiments/procedures/scoring.py; the lowest go."""
    measure: Literal["accuracy", "loss"] = "accuracy"
    """What is measured on the validation images; a loss is in nats."""
    prune_ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Shares of the channels of a group that go."""
    dense: Training = Training(epochs=15, rates=stepped(0.1))  # noqa: RUF009
    """Before any pruning."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = scoring.unknown(self.score)
        if not self.prune_ratios or not all(0 <= ratio < 1 for ratio in self.prune_ratios):
            problems.append(f"prune_ratios={self.prune_ratios} must be some, each in [0, 1)")
        configuration.check(self, problems)


PRESETS: Presets = MappingProxyType({"digits": {"widths": (16, 32, 64)}})
"""Name -> what differs from the defaults of `Config`."""


def sweep(task: Task[Config], variables: Variables) -> dict[str, Any]:
    """Returns what `sensitivity.json` holds, of the variables of a trained network."""
    config, dataset, graph = task.config, task.dataset, task.graph
    images = dataset.validation
    split = jax.device_put(images) if isinstance(images, Split) else images

    def evaluate(variables: Variables) -> float:
        metrics = training.evaluate(task.model, variables, dataset, split)
        return getattr(metrics, config.measure)

    given = scoring.Given(task, graph, variables, key(config, "sensitivity"))
    scores = scoring.scores(config.score, given)
    ratios = config.prune_ratios
    rows = jp.select.sensitivity(graph, variables, scores, evaluate, prune_ratios=(0.0, *ratios))
    kept = [jp.widths(graph, jp.select.per_group(graph, scores, prune_ratio=r)) for r in ratios]
    return {
        "score": config.score,
        "measure": config.measure,
        "images": images.size,
        "dense": float(next(iter(rows.values()))[0]),
        "groups": {name: _by_ratio(ratios, row[1:].tolist()) for name, row in rows.items()},
        "channels": {name: _by_ratio(ratios, [each[name] for each in kept]) for name in rows},
        "masked": [name for name in rows if graph.groups[name].inexact],
    }


def _by_ratio(ratios: tuple[float, ...], values: list[Any]) -> dict[str, Any]:
    return {str(ratio): value for ratio, value in zip(ratios, values, strict=True)}


def method(run: Run[Config]) -> Summary:
    """Trains the network, sweeps over its groups, and writes both files."""
    task = run.task
    train = steps.Step("dense", partial(dense.trained, task))
    variables = steps.follow(run, [train], initial(task))["dense"].variables
    swept = run.value(Path(FILE).stem, lambda: sweep(task, variables))
    plots.sensitivity(run.path / PICTURE, swept)
    return {"sensitivity": swept, "seed": task.config.seed}


def report(run: Path, summary: Summary) -> None:
    """Prints the value of every group at every ratio."""
    console, swept = Console(), summary["sensitivity"]
    console.print(table(swept, title=str(run)))
    console.print(f"{summary['wall_time_s']:.0f} s; wrote:")
    for name in (FILE, PICTURE):
        console.print(run / name, soft_wrap=True, highlight=False)


def table(swept: Mapping[str, Any], *, title: str) -> Table:
    """Returns one row for each group, the most sensitive at the highest ratio first."""
    groups, accuracy = swept["groups"], swept["measure"] == "accuracy"
    ratios = sorted(next(iter(groups.values())), key=float)
    worst = sorted(groups, key=lambda name: groups[name][ratios[-1]], reverse=not accuracy)

    def shown(value: float) -> str:
        return f"{100 * value:.1f}" if accuracy else f"{value:.4g}"

    measure = f"{swept['measure']}, {'%' if accuracy else 'nats'}, dense {shown(swept['dense'])}"
    result = Table(title=f"{title}\nvalidation {measure}; one group pruned by {swept['score']}")
    result.add_column("of its channels gone", overflow="fold")
    for ratio in ratios:
        result.add_column(f"{100 * float(ratio):g} %", justify="right", no_wrap=True)
    for name in worst:
        result.add_row(name, *(shown(groups[name][ratio]) for ratio in ratios))
    return result


EXPERIMENT = Experiment(
    name="sensitivity",
    config=Config(),
    presets=PRESETS,
    task=classification.task,
    method=method,
    report=report,
    classifies=False,
)
