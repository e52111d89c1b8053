"""What a run of a task on parts does: a backbone, the detector on it, the cut, the fine-tuning."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments.report import plots, results
from experiments.runner.experiment import Experiment, Summary
from experiments.runner.run import Run
from experiments.tasks.detection.parts import classifier
from experiments.tasks.detection.training import pretrain
from experiments.tasks.instances import kinds
from experiments.tasks.instances.config import PRESETS, Config
from experiments.tasks.instances.kinds import Kind
from experiments.tasks.instances.measure import precision
from experiments.tasks.instances.training import cut, detect, finetune, view

PRUNED, FINETUNED = "pruned", "fine-tuned"


def method(run: Run[Config]) -> Summary:
    """Trains and cuts, and returns all that a run found; only here test images are used."""
    task = run.task
    grid, small = kinds.widths(task), classifier(task)
    first = run._replace(task=task._replace(model=small.model, graph=small.graph))
    with run.going_on():
        name = "classifier"
        backbone = first.network(name, partial(pretrain, task, name, tuple(grid)))
        together = run.network("detector", partial(detect, task, "detector", backbone))
        pruned = run.network(PRUNED, partial(cut, task, together))
        tune = partial(finetune, task, FINETUNED, together, pruned.keep)
        tuned = run.network(FINETUNED, tune)
    networks = {name: view(task, together, name, keep) for name, keep in grid.items()}
    networks |= {PRUNED: pruned, FINETUNED: tuned}
    summary = {
        "seed": task.config.seed,
        "average_precision": {name: precision(task, each) for name, each in networks.items()},
        **{
            of: {name: count(task.graph, each.keep) for name, each in networks.items()}
            for of, count in (("macs", jp.cost.macs), ("parameters", jp.cost.params))
        },
        "widths": {
            "dense": jp.widths(task.graph),
            PRUNED: jp.widths(task.graph, pruned.keep),
        },
    }
    draw(run.path, summary)
    return summary


def draw(run: Path, summary: Mapping[str, Any]) -> None:
    """Writes the figures of a finished run."""
    found, macs = summary["average_precision"], summary["macs"]
    grid = [name for name in found if name not in (PRUNED, FINETUNED)]
    curves = {
        f"{of}, {label}": [(macs[name], found[name][of]["AP"], 0.0) for name in names]
        for of in found[PRUNED]
        for label, names in (("trained", grid), (PRUNED, [PRUNED]), (FINETUNED, [FINETUNED]))
    }
    plots.spectrum(run / "precision.png", curves, measure="AP on test images, 0.5 to 0.95")
    widths = summary["widths"]
    plots.widths(run / "widths.png", before=widths["dense"], after=widths[PRUNED])


def report(run: Path, summary: Mapping[str, Any]) -> None:
    """Prints what came out."""
    found = summary["average_precision"]
    table = Table("test images", *found, title=str(run))
    for of, figures in found[PRUNED].items():
        for name in figures:
            table.add_row(f"{of} {name}", *(f"{each[of][name]:.2%}" for each in found.values()))
    for of in ("macs", "parameters"):
        table.add_row(results.COSTS[of], *(f"{summary[of][name]:,}" for name in found))
    console = Console()
    console.print(table)
    console.print(f"{summary['wall_time_s']:.0f} s")


def experiment(name: str, kind: Mapping[str, Kind]) -> Experiment[Config]:
    """Returns the experiment of that name: {data set: what the head of parts is for}."""
    return Experiment(
        name=name,
        config=Config(name=name),
        presets=PRESETS,
        task=partial(kinds.task, kind),
        method=method,
        report=report,
        classifies=False,
    )
