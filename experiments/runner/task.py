"""What is learned: the task of a run, and the networks that it is given to."""

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxprune as jp
from experiments.data import Dataset
from experiments.runner import precision
from experiments.runner.config import C, Common
from experiments.runner.fit import Variables
from experiments.runner.training import Loss, cross_entropy
from jaxprune.keep.check import Keep


class Network(NamedTuple):
    """A model definition and its variables, on the host."""

    model: nn.Module
    variables: Variables
    keep: Keep  # {group: bool[n]} of the unpruned model's channels; empty before pruning
    momentum: Any = None  # that of the last training, like the params

    @property
    def sliced(self) -> bool:
        """Whether the pruned channels are cut out, not held at zero."""
        return isinstance(self.model, jp.linen.Resized)


class Task(NamedTuple, Generic[C]):
    """Data, a model, its loss and its metrics.

    Attributes:
      config: what was asked for.
      dataset: the data; a `Dataset` of `experiments.data` where images have labels.
      model: unpruned.
      graph: the channel graph of the unpruned model.
      loss: (outputs, targets) -> scalar.
      measure: (task, network) -> JSON values beside loss and accuracy, on the test images.
    """

    config: C
    dataset: Dataset
    model: nn.Module
    graph: jp.ChannelGraph
    loss: Loss = cross_entropy
    measure: Callable[[Any, Network], Mapping[str, Any]] | None = None


def initial(task: Task) -> Network:
    """Returns the network before any training; the same for the same seed."""
    variables = fresh(task.model, task.dataset, jax.random.key(task.config.seed))
    return Network(task.model, variables, {})


def fresh(model: nn.Module, dataset: Dataset, key: jax.Array) -> Variables:
    """Returns the variables of a model before any training, on the host."""
    image = jnp.zeros((1, *dataset.image_shape))
    found = jax.jit(partial(model.init, train=False))(key, image)
    return jax.device_get(precision.widened(found))


def key(config: Common, name: str) -> jax.Array:
    """Returns the key of a phase, from the seed and the name."""
    return jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(name.encode()))
