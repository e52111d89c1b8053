"""An experiment is a declaration: a configuration, its presets, a task and a method."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple

import jax

from experiments.runner import checkpoints, devices, directory, processes
from experiments.runner import config as configuration
from experiments.runner.config import C, Common
from experiments.runner.presets import Presets
from experiments.runner.run import Run
from experiments.runner.task import Task

Summary = Mapping[str, Any]


class Experiment(NamedTuple, Generic[C]):
    """What is learned, how it is pruned, and how that is told.

    Attributes:
      name: in the command, and in the configuration of its runs.
      config: the defaults; the first preset is among the presets.
      presets: {name: what differs from the defaults}.
      task: configuration -> data, model, loss, metrics.
      method: run -> summary: makes the networks of the run, and figures of what they are.
      report: (directory, summary) -> nothing; prints what came out.
      classifies: whether `experiments.evaluate` can read its networks again.
    """

    name: str
    config: C
    presets: Presets
    task: Callable[[C], Task[C]]
    method: Callable[[Run[C]], Summary]
    report: Callable[[Path, Summary], None]
    classifies: bool = True


def execute(experiment: Experiment[C], config: C) -> Path:
    """Runs an experiment and returns the directory of the run.

    Of an error before anything is trained no directory stays, and none is overwritten for data that
    cannot be read.
    """
    value = configuration.to_json(config) | {"experiment": experiment.name}
    before = config.root / config.name
    with devices.using(config):
        finished = config.resume and processes.shared((before / directory.SUMMARY).exists)
        task = None if finished else processes.together(lambda: experiment.task(config))
        processes.check_alike(value, task and task.dataset)
        with begun(config, value) as path:
            summary = directory.summarized(
                path, lambda: experiment.method(Run(path, task or experiment.task(config)))
            )
        if processes.first():
            experiment.report(path, summary)
    return path


@contextmanager
def begun(config: Common, value: Mapping[str, Any]) -> Iterator[Path]:
    """Yields the directory of a run; after an error it is gone if nothing was trained in it."""
    old = config.resume and processes.shared((config.root / config.name).exists)
    path = checkpoints.begin(config, value)
    try:
        yield path
    except Exception as error:
        trained = (path / directory.METRICS).exists() or (path / "checkpoints").exists()
        if not old and not trained and processes.first():
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
            error.add_note(f"If another process was lost: {path} goes on with --resume.")
        raise
