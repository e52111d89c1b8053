"""Several widths trained together, step by step on the batches of any task.

Widths and batches are drawn on the host; what a task gives is pictures, boxes, or labels.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jaxprune as jp
from experiments.runner import devices, precision
from experiments.runner import fit as loop
from experiments.runner.fit import QUIET, Figures, Journal, OnStep, State, Variables
from experiments.runner.training import Loss
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


def gradients(
    network: slimmable.Network,
    graph: jp.ChannelGraph,
    loss: Loss,
    *,
    distill: slimmable.Distillation | None = None,
) -> Callable[..., slimmable.Gradients]:
    """Returns `slimmable.gradients` of a network that computes in the precision of the run."""

    def lowered(keep: Keep) -> Callable[..., Any]:
        return precision.lowered(network(keep))

    return slimmable.gradients(lowered, graph, loss, distill=distill)


def train(how: Joint, params: Split, rest: Split, journal: Journal = QUIET) -> Variables:
    """Returns {"params", "rest"} after the training, on the host.

    Raises:
      ValueError: the examples do not fill one batch.
      DivergedError: a figure is not finite.
    """

    @jax.jit
    def moved(found: slimmable.Gradients, params: Split, opt_state: Any) -> Any:
        updates, opt_state = how.tx.update(found.params, opt_state, params)
        return devices.constrained((optax.apply_updates(params, updates), found.rest, opt_state))

    def epoch(state: State, number: int, on_step: OnStep) -> tuple[State, Figures]:
        rng, losses = np.random.default_rng((*how.seed, number)), []
        params, rest = parts(state.variables)
        opt_state, step = state.opt_state, int(state.step)
        for places in rows(rng, how.examples, how.batch_size):
            batch = devices.spread(how.batch(places, step))
            found = how.gradients(params, rest, how.draw(rng), *batch)
            params, rest, opt_state = moved(found, params, opt_state)
            step += 1
            losses.append(found.losses[0])
            on_step()
        after = State(whole(params, rest), opt_state, np.int32(step))
        loss = float(np.mean(jax.device_get(losses)))
        return after, {"loss": loss, **how.measure(devices.gathered(after.variables))}

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
