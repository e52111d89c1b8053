"""The runs of `experiments.procedures.rounds`: kept so that they go on, and what they report.

The dense network and what every commit and fine-tuning leaves are checkpoints of their own; between
them `last` holds the latest phase, so that hundreds of rounds take the space of one.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

import jaxprune as jp
from experiments.procedures import rounds
from experiments.procedures.rounds import Method, State
from experiments.report import plots, results
from experiments.runner import checkpoints, training
from experiments.runner.config import C
from experiments.runner.experiment import Summary
from experiments.runner.fit import Journal
from experiments.runner.run import Run
from experiments.runner.task import Task
from jaxprune.schedule import Phase

LAST, PLANS = "last", "plans"
KEPT = ("dense", "commit", "finetune")
"""Kinds of phases whose networks stay; the dense one is there once."""


def procedure(method: Callable[[C], Method]) -> Callable[[Run[C]], Summary]:
    """Returns what follows the rounds of a method, and tells what they gave.

    Args:
      method: from the configuration to the procedure.
    """

    def followed(run: Run[C]) -> Summary:
        summary = summarize(run, follow(run, method(run.task.config)))
        draw(run.path, summary)
        return summary

    return followed


def summarize(run: Run[Any], state: State) -> dict[str, Any]:
    """Returns all that a run found."""
    task = run.task
    names = [record["phase"] for record in state.records if record["kind"] in KEPT]
    networks = {name: checkpoints.load(run.path, task, name) for name in names}
    found = results.measured(task, networks)
    widths, measure = found["widths"], task.measure
    if measure:
        found["networks"] = {name: measure(task, each) for name, each in networks.items()}
    return found | {
        "milestones": {
            record["phase"]: record["macs"]
            for record in state.records
            if record["kind"] == "commit"
        },
        "ratios": {
            name: 1 - left / widths["dense"][name] for name, left in widths["pruned"].items()
        },
        "rounds": state.records,
    }


def draw(run: Path, summary: Mapping[str, Any]) -> None:
    """Writes the figures of a run."""
    rounds = [record for record in summary["rounds"] if record["kind"] != "finetune"]
    images = None if "networks" in summary else summary["images"]["validation"]
    plots.rounds(run / "rounds.png", rounds, images=images)
    widths = summary["widths"]
    plots.widths(run / "widths.png", before=widths["dense"], after=widths["pruned"])


def report(run: Path, summary: Summary) -> None:
    """Prints what came out, with the networks of every cut."""
    results.report(run, summary, table(summary))


def table(summary: Mapping[str, Any]) -> Table:
    """Returns the networks of every cut, one row each."""
    found = Table("network", "MACs kept", "channels kept", "validation", title="rounds")
    for record in summary["rounds"]:
        if record["kind"] in KEPT:
            shares = (record[name] for name in ("macs", "channels", "accuracy"))
            found.add_row(record["phase"], *(f"{share:.1%}" for share in shares))
    return found


def follow(run: Run[Any], method: Method, start: State | None = None) -> State:
    """Returns the state after the last phase; a run that was interrupted goes on where it was.

    Args:
      run: where it is kept.
      method: the procedure.
      start: where it begins; before any training by default.

    Raises:
      DivergedError, ScoreError: a loss or a score is not finite; a note says in which phase, and
        where the network before it is.
    """
    path, task = run.path, run.task
    method = method._replace(journals=path / PLANS)
    state = load(path, task, start or rounds.initial(task, method))
    if method.distill and state.done:
        state = state._replace(teacher=checkpoints.load(path, task, "dense").variables)
    with run.going_on([record["phase"] for record in state.records]):
        for after in rounds.rounds(task, method, state, partial(_journal, run)):
            state = after
            latest = state.records[-1]
            if latest["kind"] in KEPT:
                checkpoints.save(path, task, latest["phase"], rounds.network(method, state))
            save(path, task, state)
    return state


def _journal(run: Run[Any], state: State, phase: Phase) -> AbstractContextManager[Journal]:
    before = LAST if state.done else None
    return run.journal(rounds.label(phase), state.progress.total, before)


def save(run: Path, task: Task, state: State) -> None:
    """Writes the state as the latest of the run."""
    if state.done is None:
        raise ValueError("nothing is done yet, so there is nothing to save.\nFix: a phase first.")
    jp.save(
        checkpoints.path(run, LAST),
        state.variables,
        jp.spec(task.graph, state.progress.total),
        metadata={
            "done": jp.schedule.to_json(state.done),
            "progress": state.progress.to_json(),
            "records": list(state.records),
        },
        overwrite=True,
    )


def load(run: Path, task: Task, fresh: State) -> State:
    """Returns the latest state of the run; `fresh`, that before any training, if there is none."""
    if checkpoints.metadata(run, LAST) is None:
        return fresh
    restored = jp.restore(checkpoints.path(run, LAST))
    found = restored.metadata
    done, records = jp.schedule.from_json(found["done"]), tuple(found["records"])
    model, graph = task.model, None
    if done.milestone:
        committed = jp.keep_from_spec(found["progress"]["committed"])
        model = jp.linen.resize(task.model, task.graph, committed)
        graph = training.channel_graph(model, task.dataset.image_shape)
    progress = fresh.progress.restored(found["progress"], graph)
    return State(model, restored.variables, progress, records, done)
