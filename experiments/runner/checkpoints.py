"""Runs the phases of a procedure so that it can be killed at any moment and go on.

A finished phase is a checkpoint of its name; the running one keeps its state in `running`. Random
numbers follow from the seed, the phase and the step, so there is nothing else to store.
"""

import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import jaxprune as jp
from experiments.runner import devices, directory, processes, progress
from experiments.runner.config import Common
from experiments.runner.fit import Epoch, Journal, State
from experiments.runner.task import Network, Task
from jaxprune.keep.check import Keep

RUNNING = "running"
FREE = (
    *("root", "name", "overwrite", "resume", "checkpoint_every", "data_dir", "workers"),
    *("mesh", "distributed", "coordinator", "processes", "process", "heartbeat"),
)
"""Fields of a configuration that may differ when a run goes on."""


def begin(config: Common, value: Mapping[str, Any]) -> Path:
    """Returns the directory of a run, new or to go on with, and writes `value` unless it is done.

    Args:
      config: says where, and whether to go on.
      value: the whole configuration, a JSON value.

    Raises:
      ValueError: the name is not free, the run began with another configuration, or a process
        does not see its directory.
    """

    def made() -> Path:
        if config.resume:
            run = directory.resume(config.root, config.name, value, free=FREE)
        else:
            run = directory.create(config.root, config.name, overwrite=config.overwrite)
        if not (run / directory.SUMMARY).exists():
            directory.write_json(run / directory.CONFIG, value)
        return run

    def seen() -> None:
        if not (run / directory.CONFIG).exists():
            raise ValueError(
                f"{run}, which process 0 made, is not there in another process.\n"
                "Fix: a --root on a file system that all processes see."
            )

    run = processes.shared(made)
    processes.together(seen)
    return run


def finished(run: Path) -> list[str]:
    """Returns the names of the phases that are checkpoints."""

    def there() -> list[str]:
        names = [entry.name for entry in sorted(path(run, "").glob("*")) if entry.name != RUNNING]
        return [name for name in names if metadata(run, name)]

    return processes.shared(there)


def rewind(run: Path, finished: Iterable[str]) -> None:
    """Drops the metrics of what no checkpoint holds: neither finished phases nor the running one.

    Args:
      run: directory of a run.
      finished: names of the finished phases.
    """
    running = metadata(run, RUNNING)
    epochs = {running["phase"]: running["epoch"]} if running else {}
    epochs |= dict.fromkeys(finished, math.inf)
    processes.shared(lambda: directory.drop_metrics(run, epochs))


def save(run: Path, task: Task, name: str, network: Network) -> None:
    """Writes the network as the checkpoint of a finished phase."""
    jp.save(
        path(run, name),
        network.variables,
        jp.spec(task.graph, network.keep),
        opt_state=network.momentum,
        metadata={
            "pruned": bool(network.keep),
            "sliced": network.sliced,
        },
        overwrite=True,
    )


def load(run: Path, task: Task, name: str) -> Network:
    """Returns the network of a finished phase.

    Raises:
      CheckpointError: there is none.
    """
    restored = jp.restore(path(run, name))
    facts = restored.metadata
    keep = jp.keep_from_spec(restored.spec, task.graph) if facts["pruned"] else {}
    model = jp.linen.resize(task.model, task.graph, keep) if facts["sliced"] else task.model
    return Network(model, restored.variables, keep, restored.opt_state)


@contextmanager
def journal(run: Path, task: Task, name: str, keep: Keep) -> Iterator[Journal]:
    """Yields what makes a training in the phase go on from its last checkpoint.

    Args:
      run: directory of a run.
      task: of the run.
      name: of the phase.
      keep: of the network that trains, of the unpruned model's channels.
    """
    every = task.config.checkpoint_every

    def restore(state: State) -> State:
        running = metadata(run, RUNNING)
        if not running or running["phase"] != name:
            return state
        # The templates are of the host: Orbax reads arrays of devices in threads of its own, where
        # there is no float64, and what is committed to a device compiles the step again.
        state = devices.fetched(state)
        like = (state.opt_state, state.tally)
        saved = jp.restore(path(run, RUNNING), like=state.variables, opt_state=like)
        opt_state, tally = saved.opt_state
        step = np.int32(running["step"])
        return state._replace(
            variables=saved.variables, opt_state=opt_state, step=step, tally=tally
        )

    clock = progress.Clock()
    with progress.shown(name) as shown:

        def on_epoch(epoch: Epoch, state: State) -> None:
            seconds = clock.seconds()
            record = progress.records(name, epoch, seconds)
            processes.shared(lambda: directory.append_metrics(run, record))
            shown.on_epoch(epoch, seconds)
            if epoch.number % every == 0 and epoch.number < epoch.total:
                state = devices.fetched(state)
                jp.save(
                    path(run, RUNNING),
                    state.variables,
                    jp.spec(task.graph, keep),
                    opt_state=(state.opt_state, state.tally),
                    metadata={"phase": name, "epoch": epoch.number, "step": int(state.step)},
                    overwrite=True,
                )

        yield Journal(restore, shown.on_step, on_epoch)


def path(run: Path, name: str) -> Path:
    """Returns the directory of a checkpoint."""
    return run / "checkpoints" / name


def drop(run: Path, name: str) -> None:
    """Deletes a checkpoint, if there is one."""
    processes.shared(lambda: shutil.rmtree(path(run, name), ignore_errors=True))


def metadata(run: Path, name: str) -> Any:
    """Returns the metadata of a checkpoint; None where none is complete."""

    def read() -> Any:
        try:
            return jp.restore(path(run, name)).metadata
        except jp.errors.CheckpointError:
            return None

    return processes.shared(read)
