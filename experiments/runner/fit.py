"""The loop of every training: epoch by epoch, heard by a journal that can make it go on."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jaxprune as jp
from experiments.runner import devices, precision, processes

Variables = Any  # {'params': ..., 'batch_stats': ...}

Figures = Mapping[str, Any]
"""What is written down of an epoch: numbers, or mappings of them."""


class DivergedError(ArithmeticError):
    """A loss was not finite."""


class State(NamedTuple):
    """What a training step changes, and the masks of what it must not move."""

    variables: Variables
    opt_state: optax.OptState
    step: Any = np.int32(0)  # i32[], steps so far
    keep: Mapping[str, Any] | None = None  # for an optimizer of `jaxprune.schedule.masked_updates`
    tally: jp.schedule.Tally | None = None  # of the scores that the step gathers
    teacher: Variables | None = None  # of the network that teaches; they do not change


class Epoch(NamedTuple):
    """How one epoch went."""

    number: int  # from 1
    total: int  # epochs in all
    figures: Figures


class Journal(NamedTuple):
    """What follows a training, and where it begins."""

    restore: Callable[[State], State]  # the first state -> the one to go on from
    on_step: Callable[[int, int], None]  # (steps so far, steps in all)
    on_epoch: Callable[[Epoch, State], None]


QUIET = Journal(restore=lambda state: state, on_step=lambda *_: None, on_epoch=lambda *_: None)

OnStep = Callable[[], None]

Train = Callable[[State, int, OnStep], tuple[State, Figures]]
"""(state, number of the epoch from 1, what is called after each step) -> what the epoch gave.

Its random numbers follow from its arguments alone.
"""


def fit(start: State, train: Train, *, epochs: int, steps: int, journal: Journal = QUIET) -> State:
    """Returns the state after the epochs; of a mesh it comes back to the host.

    Args:
      start: where to begin; its arrays stay valid.
      train: does one epoch.
      epochs: how many.
      steps: of an epoch.
      journal: gives the state to begin with, and hears of every epoch.

    Raises:
      DivergedError: a figure is not finite; of that epoch the journal does not hear.
    """
    state = processes.adopted(journal.restore(precision.widened(start)))
    state = devices.settled(state)  # copied: steps may donate it
    first = int(state.step) // steps
    for number in range(first + 1, epochs + 1):
        done = (number - 1) * steps

        def on_step() -> None:
            nonlocal done
            done += 1
            journal.on_step(done, epochs * steps)

        state, figures = train(state, number, on_step)
        _check(number, figures)
        journal.on_epoch(Epoch(number, epochs, figures), state)
    return devices.gathered(state)


def _check(number: int, figures: Figures) -> None:
    numbers = jax.tree.leaves(figures)
    if not np.isfinite(numbers).all():
        raise DivergedError(
            f"{numbers} in epoch {number} are not all finite.\n"
            "Fix: a lower learning rate, in a run of another --name."
        )
