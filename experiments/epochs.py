"""Epochs of any training, kept on the disk so that it can be killed at any moment and go on."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.progress import track

import jaxprune as jp
from experiments import resume, runs
from experiments.training import DivergedError
from jaxprune import slimmable
from jaxprune.keep.check import Keep
from jaxprune.slimmable import Split


class State(NamedTuple):
    """What a training changes, and how far it is."""

    params: Split
    rest: Split
    opt_state: Any
    step: int = 0  # steps so far


Epoch = Callable[[State, int], tuple[State, dict[str, float]]]
"""(state, number of the epoch, from 1) -> the state after it, and what is written down."""


def train(
    run: Path, graph: jp.ChannelGraph, phase: str, state: State, epoch: Epoch, *, epochs: int
) -> State:
    """Returns the state after the epochs of a phase; what a checkpoint holds is not done again.

    Args:
      run: directory of the run, of which `resume.rewind` has dropped what no checkpoint holds.
      graph: of the network.
      phase: its name, that of the checkpoint when it is finished.
      state: where to begin.
      epoch: does one; its random numbers follow from its arguments alone.
      epochs: how many.

    Raises:
      DivergedError: a figure is not finite.
    """
    if resume.metadata(run, phase):
        return _restored(resume.path(run, phase), state)
    first, running = 0, resume.metadata(run, resume.RUNNING)
    if running and running["phase"] == phase:
        first, state = running["epoch"], _restored(resume.path(run, resume.RUNNING), state)
    for number in track(range(first + 1, epochs + 1), description=f"{phase:>12}"):
        start = time.perf_counter()
        state, figures = epoch(state, number)
        _check(phase, number, figures.values())
        seconds = round(time.perf_counter() - start, 3)
        record = {"phase": phase, "epoch": number, **figures, "seconds": seconds}
        runs.append_metrics(run, record)
        name = resume.RUNNING if number < epochs else phase
        state = jax.device_get(state)
        jp.save(
            resume.path(run, name),
            {"params": state.params._asdict(), "rest": state.rest._asdict()},
            jp.spec(graph, {}),
            opt_state=state.opt_state,
            metadata={"phase": phase, "epoch": number, "step": state.step},
            overwrite=True,
        )
    return state


def _restored(path: Path, like: State) -> State:
    saved = jp.restore(path, opt_state=like.opt_state)
    params, rest = (Split(**saved.variables[part]) for part in ("params", "rest"))
    return State(params, rest, saved.opt_state, saved.metadata["step"])


def joint(
    tx: optax.GradientTransformation,
    gradients: Callable[..., slimmable.Gradients],
    draw: Callable[[np.random.Generator], Mapping[str, Keep]],
    batch: Callable[[np.ndarray, int], tuple[Any, Any]],
    *,
    examples: int,
    batch_size: int,
    seed: tuple[int, ...],
    measure: Callable[[State], dict[str, float]] = lambda _: {},
) -> Epoch:
    """Returns an epoch whose every step is one of the optimizer, for several widths together.

    Args:
      tx: the optimizer.
      gradients: what `slimmable.gradients` returned.
      draw: gives the widths of a step.
      batch: (places of its examples, number of the step) -> inputs and targets.
      examples: how many there are.
      batch_size: how many are in a step.
      seed: what the random numbers follow from, beside the number of the epoch.
      measure: what is written down beside the loss of the first width.
    """

    @jax.jit
    def moved(grads: Split, params: Split, opt_state: Any) -> Any:
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def epoch(state: State, number: int) -> tuple[State, dict[str, float]]:
        rng, losses = np.random.default_rng((*seed, number)), []
        for places in rows(rng, examples, batch_size):
            found = gradients(state.params, state.rest, draw(rng), *batch(places, state.step))
            params, opt_state = moved(found.params, state.params, state.opt_state)
            state = State(params, found.rest, opt_state, state.step + 1)
            losses.append(found.losses[0])
        return state, {"loss": float(np.mean(jax.device_get(losses)))} | measure(state)

    return epoch


def begin(params: Split, rest: Split, tx: optax.GradientTransformation) -> State:
    """Returns the state before the first step, on the host."""
    return jax.device_get(State(params, rest, tx.init(params)))


def rows(rng: np.random.Generator, examples: int, size: int) -> Iterator[np.ndarray]:
    """Yields the places of the examples of each batch of an epoch, i64[size], in a random order.

    Raises:
      ValueError: the examples do not fill one batch.
    """
    if examples < size:
        raise ValueError(
            f"{examples} training images do not fill a batch of {size}.\nFix: a smaller batch_size."
        )
    order = rng.permutation(examples)
    yield from order[: examples // size * size].reshape(-1, size)


def _check(phase: str, number: int, figures: Iterable[float]) -> None:
    if not np.isfinite(list(figures)).all():
        raise DivergedError(
            f"{phase}: {list(figures)} in epoch {number} are not all finite.\n"
            "Fix: a lower learning rate, in a run of another --name."
        )
