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

import jax
import numpy as np

import jaxprune as jp
from experiments import runs
from experiments.config import Common
from experiments.procedures import Network, Phase, Setup
from experiments.training import Epoch, Journal, TrainState
from jaxprune.keep.check import Keep

RUNNING = "running"
FREE = ("root", "name", "overwrite", "resume", "checkpoint_every", "data_dir", "workers")
"""Fields of a configuration that may differ when a run goes on."""


def begin(config: Common, value: Mapping[str, Any]) -> Path:
    """Returns the directory of a run, new or to go on with, and writes `value` unless it is done.

    Args:
      config: says where, and whether to go on.
      value: the whole configuration, a JSON value.

    Raises:
      ValueError: the name is not free, or the run began with another configuration.
    """
    if config.resume:
        run = runs.resume(config.root, config.name, value, free=FREE)
    else:
        run = runs.create(config.root, config.name, overwrite=config.overwrite)
    if not (run / runs.SUMMARY).exists():
        runs.write_json(run / runs.CONFIG, value)
    return run


def run_phases(
    run: Path, setup: Setup, phases: Iterable[Phase], network: Network
) -> dict[str, Network]:
    """Returns the network after each phase; those that are finished are read, not run."""
    found: dict[str, Network] = {}
    rewind(run, finished(run))
    for phase in phases:
        found[phase.name] = network = carried_out(run, setup, phase, network)
    drop(run, RUNNING)
    return found


def finished(run: Path) -> list[str]:
    """Returns the names of the phases that are checkpoints."""
    names = [found.name for found in sorted(path(run, "").glob("*")) if found.name != RUNNING]
    return [name for name in names if metadata(run, name)]


def carried_out(run: Path, setup: Setup, phase: Phase, network: Network) -> Network:
    """Returns the network after a phase that begins with `network`; read, if it is finished."""
    if metadata(run, phase.name):
        return load(run, setup, phase.name)
    with journal(run, setup, phase.name, network.keep) as hears:
        network = phase.run(network, hears)
    save(run, setup, phase.name, network)
    return network


def rewind(run: Path, finished: Iterable[str]) -> None:
    """Drops the metrics of what no checkpoint holds: neither finished phases nor the running one.

    Args:
      run: directory of a run.
      finished: names of the finished phases.
    """
    running = metadata(run, RUNNING)
    epochs = {running["phase"]: running["epoch"]} if running else {}
    runs.drop_metrics(run, epochs | dict.fromkeys(finished, math.inf))


def save(run: Path, setup: Setup, name: str, network: Network) -> None:
    """Writes the network as the checkpoint of a finished phase."""
    jp.save(
        path(run, name),
        network.variables,
        jp.spec(setup.graph, network.keep),
        opt_state=network.momentum,
        metadata={
            "pruned": bool(network.keep),
            "sliced": network.sliced,
        },
        overwrite=True,
    )


def load(run: Path, setup: Setup, name: str) -> Network:
    """Returns the network of a finished phase.

    Raises:
      CheckpointError: there is none.
    """
    restored = jp.restore(path(run, name))
    found = restored.metadata
    keep = jp.keep_from_spec(restored.spec, setup.graph) if found["pruned"] else {}
    model = jp.linen.resize(setup.model, setup.graph, keep) if found["sliced"] else setup.model
    return Network(model, restored.variables, keep, restored.opt_state)


@contextmanager
def journal(run: Path, setup: Setup, name: str, keep: Keep) -> Iterator[Journal]:
    """Yields what makes a training in the phase go on from its last checkpoint.

    Args:
      run: directory of a run.
      setup: of the run.
      name: of the phase.
      keep: of the network that trains, of the unpruned model's channels.
    """
    every = setup.config.checkpoint_every

    def restore(state: TrainState) -> TrainState:
        running = metadata(run, RUNNING)
        if not running or running["phase"] != name:
            return state
        like = (state.opt_state, state.tally)
        saved = jp.restore(path(run, RUNNING), like=state.variables, opt_state=like)
        opt_state, tally = saved.opt_state
        step: Any = np.int32(running["step"])
        state = TrainState(saved.variables, opt_state, step, state.keep, tally)
        return jax.device_get(state)  # what is committed to a device compiles the step again

    with runs.progress(run, name) as record:

        def on_epoch(epoch: Epoch, state: TrainState) -> None:
            record(epoch)
            if epoch.number % every == 0 and epoch.number < epoch.total:
                state = jax.device_get(state)
                jp.save(
                    path(run, RUNNING),
                    state.variables,
                    jp.spec(setup.graph, keep),
                    opt_state=(state.opt_state, state.tally),
                    metadata={"phase": name, "epoch": epoch.number, "step": int(state.step)},
                    overwrite=True,
                )

        yield Journal(restore, on_epoch)


def path(run: Path, name: str) -> Path:
    """Returns the directory of a checkpoint."""
    return run / "checkpoints" / name


def drop(run: Path, name: str) -> None:
    """Deletes a checkpoint, if there is one."""
    shutil.rmtree(path(run, name), ignore_errors=True)


def metadata(run: Path, name: str) -> Any:
    """Returns the metadata of a checkpoint; None where none is complete."""
    try:
        return jp.restore(path(run, name)).metadata
    except jp.errors.CheckpointError:
        return None
