"""Several widths trained together, step by step on the batches of any task.

Widths and batches are drawn on the host; what a task gives is pictures, boxes, or labels.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.runner import fit as loop
from experiments.runner.fit import QUIET, Figures, Journal, OnStep, State, Variables
from jaxprune import slimmable
from jaxprune.keep.check import Keep
from jaxprune.slimmable import Split


class Joint(NamedTuple):
    """How several widths train together.

    Attributes:
      tx: the optimizer.
      gradients: what `slimmable.gradients` returned.
      draw: gives the widths of a step.
      batch: (places of its examples, number of the step) -> inputs and targets.
      examples: how many there are.
      batch_size: how many are in a step.
      epochs: passes over them.
      seed: what the random numbers follow from, beside the number of the epoch.
      measure: what is written down beside the loss of the first width.
    """

    tx: optax.GradientTransformation
    gradients: Callable[..., slimmable.Gradients]
    draw: Callable[[np.random.Generator], Mapping[str, Keep]]
    batch: Callable[[np.ndarray, Any], tuple[Any, Any]]
    examples: int
    batch_size: int
    epochs: int
    seed: tuple[int, ...]
    measure: Callable[[Variables], Figures] = lambda _: {}


def train(how: Joint, params: Split, rest: Split, journal: Journal = QUIET) -> Variables:
    """Returns {"params", "rest"} after the training, on the host.

    Raises:
      ValueError: the examples do not fill one batch.
      DivergedError: a figure is not finite.
    """

    @jax.jit
    def moved(grads: Split, params: Split, opt_state: Any) -> Any:
        updates, opt_state = how.tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def epoch(state: State, number: int, on_step: OnStep) -> tuple[State, Figures]:
        rng, losses = np.random.default_rng((*how.seed, number)), []
        params, rest = parts(state.variables)
        opt_state, step = state.opt_state, int(state.step)
        for places in rows(rng, how.examples, how.batch_size):
            found = how.gradients(params, rest, how.draw(rng), *how.batch(places, step))
            params, opt_state = moved(found.params, params, opt_state)
            rest, step = found.rest, step + 1
            losses.append(found.losses[0])
            on_step()
        after = State(whole(params, rest), opt_state, np.int32(step))
        loss = float(np.mean(jax.device_get(losses)))
        return after, {"loss": loss, **how.measure(after.variables)}

    start = jax.device_get(State(whole(params, rest), how.tx.init(params)))
    steps = max(1, how.examples // how.batch_size)
    state = loop.fit(start, epoch, epochs=how.epochs, steps=steps, journal=journal)
    return jax.device_get(state.variables)


def whole(params: Split, rest: Split) -> Variables:
    """Returns the variables of a supernet, which its checkpoints hold."""
    return {"params": params._asdict(), "rest": rest._asdict()}


def parts(variables: Variables) -> tuple[Split, Split]:
    """Returns params and rest of the variables of a supernet."""
    return Split(**variables["params"]), Split(**variables["rest"])


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
