"""The training of a network before any pruning, as a step of a procedure."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from experiments.procedures import rounds
from experiments.runner import training
from experiments.runner.fit import Journal
from experiments.runner.task import Network, Task, key
from jaxprune.schedule import Training

Optimizer = Callable[[Training, optax.Schedule], optax.GradientTransformation]
"""(how it trains, its learning rate by step) -> the optimizer."""


def sgd(how: Training, rate: optax.Schedule) -> optax.GradientTransformation:
    """Returns SGD with momentum and weight decay."""
    return training.sgd(rate, momentum=how.momentum, weight_decay=how.weight_decay, nesterov=False)


def adam(how: Training, rate: optax.Schedule) -> optax.GradientTransformation:
    """Returns AdamW, with the momentum as its first moment's; gradients are clipped to norm 1.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    """
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(rate, b1=how.momentum, b2=0.99, weight_decay=how.weight_decay),
    )


def trained(
    task: Task[Any], network: Network, journal: Journal, *, optimizer: Optimizer = sgd
) -> Network:
    """Returns the network after the training `dense` of the configuration.

    Args:
      task: its configuration has `dense`, of `jaxprune.schedule.Training`.
      network: where to begin.
      journal: of the training.
      optimizer: makes the optimizer.
    """
    config = task.config
    (how,) = rounds.scaled(config, config.dense)
    steps = how.epochs * (task.dataset.train.size // config.batch_size)
    state = training.fit(
        network.model,
        network.variables,
        task.dataset,
        tx=optimizer(how, how.learning_rate(steps)),
        epochs=how.epochs,
        batch_size=config.batch_size,
        key=key(config, "dense"),
        journal=journal,
    )
    return network._replace(variables=jax.device_get(state.variables))
