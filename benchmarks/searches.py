"""Does AutoSlim find better widths? Its search against others at equal MACs, out of fold.

Greedy slimming of a supernet against one multiplier for all layers, a budget on |gamma|, and random
search. All look at the cross-entropy of one batch; the greedy search also at its wrong answers, as
in the paper, which are few here and often tie. All digits are test images once: in each fold a
supernet is trained on the others, all searches ask it, and what they find is trained from new
weights. A difference of two methods is the mean over all images of the difference of their
log-likelihoods, with a bootstrap over images; log-likelihoods are averaged over `--retrainings`,
but the interval does not cover what other initial weights would give.

Command:   python -m benchmarks.searches
Device:    CPU, 2 cores
Writes:    benchmarks/results/searches.{json,md}; the runs under `--root`, from which it goes on
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

import jaxprune as jp
from benchmarks import folds
from experiments import models
from experiments.methods import autoslim
from experiments.procedures.rounds import scaled
from experiments.runner import checkpoints, directory, presets, training
from experiments.runner import config as configuration
from experiments.runner.run import Run
from experiments.runner.task import Task

TARGETS, OTHERS = (0.25, 0.15), ("uniform", "scores", "random")
CLAIMS = tuple(
    (f"greedy {target}", f"{other} {target}")
    for target in TARGETS
    for other in (*OTHERS, "greedy by top-1")
)
"""(the search that should be at least as good, the other)."""


def _preset() -> autoslim.Config:
    start = presets.config("digits", autoslim.PRESETS, autoslim.Config())
    searches: Any = ("greedy", *OTHERS)
    changes: Any = {"keep_macs": TARGETS, "searches": searches, "judge": "loss"}
    return replace(start, divisor=1, parts=48, **changes)  # one channel a step: near to a target


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Compare searches of the same supernet at equal MACs."""

    folds: int = 5
    """Parts of the digits, each of which is tested on once."""
    retrainings: int = 2
    """From different weights, of what a search found; log-likelihoods are averaged over them."""
    only: tuple[int, ...] = ()
    """Folds to run in this process; all by default."""
    draws: int = 10_000
    """Of the bootstrap."""
    root: Path = Path("runs/searches")
    """Directory of the runs."""
    search: autoslim.Config = field(default_factory=_preset)
    """How the supernet trains, what is searched, and how its networks train."""
    out: Path = Path(__file__).parent / "results" / "searches"
    """Where to write, without the suffix."""


def searches(config: Config, number: int) -> Iterator[tuple[str, autoslim.Config]]:
    """Yields (what is appended to the names of the searches, configuration of a run)."""
    common: Any = {"root": config.root, "resume": True}
    yield "", replace(config.search, name=f"fold-{number}", **common)
    changes: Any = {"judge": "top1", "searches": ("greedy",)}
    yield " by top-1", replace(config.search, name=f"fold-{number}-top1", **changes, **common)


def measure(config: Config, number: int) -> Iterator[dict[str, Any]]:
    """Yields for every search and target what the networks give on a fold."""
    dataset, places = folds.fold(number, config.folds)
    first = Path()
    for tail, search in searches(config, number):
        model = models.build(search.model, classes=10, widths=search.widths)
        task = Task(search, dataset, model, training.channel_graph(model, dataset.image_shape))
        base = jp.cost.macs(task.graph, autoslim.searches.uniform(search, task)(1.0))
        path = checkpoints.begin(
            search, configuration.to_json(search) | {"experiment": autoslim.EXPERIMENT.name}
        )
        missing = not checkpoints.path(path, "supernet").exists()
        if tail and missing:  # the same seed gives the same one
            shutil.copytree(checkpoints.path(first, "supernet"), checkpoints.path(path, "supernet"))
        first = path
        run, (how,) = Run(path, task), scaled(search, search.training)
        for label, networks in autoslim.procedure(search, run).items():
            shares = zip(search.keep_macs, networks.values(), strict=True)
            keeps = {str(share): network.keep for share, network in shares}
            times = range(1, config.retrainings)
            again = [
                autoslim.retrained(search, run, f"{label}-again-{n}", keeps, how) for n in times
            ]
            for trained in (networks, *again):
                for target, network in zip(keeps, trained.values(), strict=True):
                    macs = jp.cost.macs(task.graph, jp.widths(task.graph, network.keep)) / base
                    yield folds.row(f"{label}{tail} {target}", task, network, macs, places)


def main(config: Config) -> None:
    """Runs what is missing, and writes JSON and Markdown."""
    provenance = directory.provenance()
    numbers = config.only or range(config.folds)
    rows = [row for number in numbers for row in measure(config, number)]
    text = [
        "# AutoSlim against other searches, on digits",
        "",
        f"{directory.made(provenance)} Folds {', '.join(map(str, numbers))} of {config.folds}, "
        f"{config.retrainings} trainings of what "
        "each search found. MACs are shares of those of the network at multiplier 1.",
        "",
        *folds.tables(rows, CLAIMS, config.draws),
    ]
    config.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"search": configuration.to_json(config.search), "results": rows, **provenance}
    directory.write_json(config.out.with_suffix(".json"), record)
    config.out.with_suffix(".md").write_text("\n".join(text) + "\n", "utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.searches"))
