"""A slimmable backbone that feeds the neck and the head of a detector, which stay at full width.

Paper:     Yu et al., "Slimmable Neural Networks", ICLR 2019, https://arxiv.org/abs/1812.08928,
           and the authors' code for detection; the detector is a small FCOS, Tian et al., ICCV
           2019, https://arxiv.org/abs/1904.01355
Command:   python -m experiments.detection
           python -m experiments.detection --grid 1.0 0.5 --seed 1
           python -m experiments.detection --preset raccoon --data-dir DIR
           python -m experiments.detection --preset voc2012 --data-dir DIR
Device:    CPU, 2 cores
CPU time:  225 s, with compilation
Expected:  average precision at an overlap of 0.5, the mean of three classes, on the test images,
           in percent, over five seeds (python -m benchmarks.seeds --only detection):

           width        MACs  slimmable backbone           alone
           1.0    12,531,712      89.39 to 91.64
           0.75    7,735,296      86.24 to 91.00
           0.5     4,265,984      87.22 to 91.30
           0.25    2,123,776      71.70 to 82.53  47.81 to 87.40

The authors pad what the stages of a narrow backbone give with zeros, back to full width, before the
neck reads it. Channels of zeros are what a neck does not read: here a width slices the backbone and
the input of the neck, and `protect=` keeps the rest of neck and head whole. That is the same
function with the same gradients, and it multiplies no zeros. BatchNorm, of which every width has
its own, is that of the classifier, frozen in eval mode; the losses of all widths are summed.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments.report import plots
from experiments.runner.experiment import Experiment, Summary, execute
from experiments.runner.presets import Presets
from experiments.runner.run import Run
from experiments.runner.task import Network
from experiments.tasks.detection.config import NAME, Config
from experiments.tasks.detection.measure import accuracy, precision
from experiments.tasks.detection.parts import classifier, detector, task
from experiments.tasks.detection.training import detect, pretrain

_PHOTOGRAPHS = {"image_size": 128, "widths": (16, 32, 64, 96, 96), "neck": 64, "flip": True}
LARGE = {"image_size": 320, "widths": (32, 64, 128, 256, 256), "neck": 128, "flip": True}
PRESETS: Presets = MappingProxyType(
    {
        "shapes": {},
        "raccoon": _PHOTOGRAPHS
        | {"dataset": "raccoon", "batch_size": 16, "pretrain_epochs": 20, "epochs": 60},
        **{
            name: LARGE | {"dataset": name, "pretrain_epochs": 10, "epochs": 40}
            for name in ("voc2011", "voc2012", "coco")
        },
    }
)
"""Name -> what differs from the defaults of `Config`. Those of photographs are not tuned."""
COLUMNS = 5
"""Classes whose average precision is printed, at most; `summary.json` has that of all."""


def method(run: Run[Config]) -> Summary:
    """Trains, and returns all that a run found: the one place where the test images are used."""
    task = run.task
    small = classifier(task)
    _, graph, widths = detector(task.config)
    names = tuple(widths)
    smallest = names[-1:]
    first = run._replace(task=task._replace(model=small.model, graph=small.graph))

    def trained(tail: str, names: tuple[str, ...]) -> tuple[Network, Network]:
        one, two = f"classifier{tail}", f"detector{tail}"
        backbone = first.network(one, partial(pretrain, task, one, names))
        return backbone, run.network(two, partial(detect, task, two, names, backbone))

    with run.going_on():
        backbone, together = trained("", names)
        _, alone = trained("-alone", smallest)
    summary = {
        "seed": task.config.seed,
        "precision": {name: precision(task, together, name) for name in names},
        "alone": {name: precision(task, alone, name) for name in smallest},
        "accuracy": {name: accuracy(task, backbone, name) for name in names},
        **{
            of: {name: count(graph, keep) for name, keep in widths.items()}
            for of, count in (("macs", jp.cost.macs), ("parameters", jp.cost.params))
        },
    }
    draw(run.path, summary)
    return summary


def mean(precision: Mapping[str, float]) -> float:
    """Returns the mean of the classes that are in the test images."""
    return float(np.nanmean(list(precision.values())))


def draw(run: Path, summary: Mapping[str, Any]) -> None:
    """Writes the figure of a finished run."""
    curves = {
        label: [(summary["macs"][name], mean(each), 0.0) for name, each in summary[of].items()]
        for label, of in (("slimmable backbone", "precision"), ("alone", "alone"))
    }
    plots.spectrum(run / "precision.png", curves, measure="mean AP on test images, IoU 0.5")


def report(run: Path, summary: Mapping[str, Any]) -> None:
    """Prints what came out."""
    kinds = list(next(iter(summary["precision"].values())))
    shown = kinds if len(kinds) <= COLUMNS else []
    table = Table("width", "MACs", "parameters", "AP", *shown, "AP alone", title=str(run))
    for name, found in summary["precision"].items():
        alone = summary["alone"].get(name)
        table.add_row(
            name,
            f"{summary['macs'][name]:,}",
            f"{summary['parameters'][name]:,}",
            *(f"{100 * value:.1f}" for value in (mean(found), *(found[kind] for kind in shown))),
            "" if alone is None else f"{100 * mean(alone):.1f}",
        )
    console = Console()
    console.print(table)
    console.print(f"{summary['wall_time_s']:.0f} s")


EXPERIMENT = Experiment(
    name=NAME,
    config=Config(),
    presets=PRESETS,
    task=task,
    method=method,
    report=report,
    classifies=False,
)


def main(config: Config) -> Path:
    """Runs the experiment and returns the directory of the run."""
    return execute(EXPERIMENT, config)
