"""The runs of `experiments.gradual`: their directories, what they report, and going on with them.

The dense network and what every commit and fine-tuning leaves are checkpoints of their own; between
them `last` holds the latest phase, so that hundreds of rounds take the space of one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

import jaxprune as jp
from experiments import config as configuration
from experiments import gradual, plots, procedures, results, resume, runs, training
from experiments.config import C
from experiments.gradual import Method, State
from experiments.procedures import Setup
from experiments.training import QUIET, DivergedError, Journal
from jaxprune.errors import JaxpruneError
from jaxprune.schedule import Phase

LAST = "last"
KEPT = ("dense", "commit", "finetune")
"""Kinds of phases whose networks stay; the dense one is there once."""


def execute(
    experiment: str,
    config: C,
    method: Callable[[C], Method],
    table: Callable[[Mapping[str, Any]], Table],
) -> Path:
    """Runs an experiment and returns the directory of the run.

    Args:
      experiment: its name, which `experiments.evaluate` looks up.
      config: of the run.
      method: from the configuration to the procedure.
      table: from the summary to what is printed beside the common tables.
    """
    procedure = method(config)
    run = resume.begin(config, configuration.to_json(config) | {"experiment": experiment})

    def found() -> dict[str, Any]:
        setup = procedures.setup(config)
        summary = summarize(run, setup, follow(run, setup, procedure))
        draw(run, summary)
        return summary

    summary = runs.summarized(run, found)
    results.report(run, summary, table(summary))
    return run


def summarize(run: Path, setup: Setup, state: State) -> dict[str, Any]:
    """Returns all that a run found."""
    names = [record["phase"] for record in state.records if record["kind"] in KEPT]
    networks = {name: resume.load(run, setup, name) for name in names}
    found = results.measured(setup, networks)
    widths = found["widths"]
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
    plots.rounds(run / "rounds.png", rounds)
    widths = summary["widths"]
    plots.widths(run / "widths.png", before=widths["dense"], after=widths["pruned"])


def follow(run: Path, setup: Setup, method: Method) -> State:
    """Returns the state after the last phase; a run that was interrupted goes on where it was.

    Raises:
      DivergedError, ScoreError: a loss or a score is not finite; a note says in which phase, and
        where the network before it is.
    """
    state = load(run, setup, gradual.initial(setup, method))
    resume.rewind(run, [record["phase"] for record in state.records])
    for after in gradual.rounds(setup, method, state, partial(_journal, run, setup)):
        state = after
        latest = state.records[-1]
        if latest["kind"] in KEPT:
            resume.save(run, setup, latest["phase"], gradual.network(method, state))
        save(run, setup, state)
    resume.drop(run, resume.RUNNING)
    return state


def save(run: Path, setup: Setup, state: State) -> None:
    """Writes the state as the latest of the run."""
    if state.done is None:
        raise ValueError("nothing is done yet, so there is nothing to save.\nFix: a phase first.")
    jp.save(
        resume.path(run, LAST),
        state.variables,
        jp.spec(setup.graph, state.progress.total),
        metadata={
            "done": jp.schedule.to_json(state.done),
            "progress": state.progress.to_json(),
            "records": list(state.records),
        },
        overwrite=True,
    )


def load(run: Path, setup: Setup, fresh: State) -> State:
    """Returns the latest state of the run; `fresh`, that before any training, if there is none."""
    if resume.metadata(run, LAST) is None:
        return fresh
    restored = jp.restore(resume.path(run, LAST))
    found = restored.metadata
    done, records = jp.schedule.from_json(found["done"]), tuple(found["records"])
    model, graph = setup.model, None
    if done.milestone:
        committed = jp.keep_from_spec(found["progress"]["committed"])
        model = jp.linen.resize(setup.model, setup.graph, committed)
        graph = training.channel_graph(model, setup.dataset.image_shape)
    progress = fresh.progress.restored(found["progress"], graph)
    return State(model, restored.variables, progress, records, done)


@contextmanager
def _journal(run: Path, setup: Setup, state: State, phase: Phase) -> Iterator[Journal]:
    """Yields the journal of a phase; an error says where it came, and where the network is."""
    name, keep = gradual.label(phase), state.progress.total
    trains = resume.journal(run, setup, name, keep) if phase.training else nullcontext(QUIET)
    try:
        with trains as journal:
            yield journal
    except (DivergedError, JaxpruneError) as error:
        before = (
            f"the network before it is in {resume.path(run, LAST)}" if state.done else "none was"
        )
        error.add_note(f"This was in {name}, of which nothing is kept; {before}.")
        raise
