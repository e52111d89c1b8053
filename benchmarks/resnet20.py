"""ResNet-20 with a batch of noise, for programs that are compared."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments import models
from experiments.runner import training

MODEL = models.build("resnet20", classes=10)
BATCH, IMAGE = 64, (32, 32, 3)


class Problem(NamedTuple):
    """What a training step needs."""

    graph: jp.ChannelGraph
    variables: Any
    images: jax.Array  # f32[64, 32, 32, 3]
    labels: jax.Array  # i32[64]


def problem() -> Problem:
    """Returns untrained variables, images and labels; the same every time."""
    random = np.random.default_rng(0)
    images = jnp.asarray(random.normal(size=(BATCH, *IMAGE)), jnp.float32)
    labels = jnp.asarray(random.integers(0, 10, BATCH))
    variables = jax.jit(partial(MODEL.init, train=False))(jax.random.key(0), images[:1])
    return Problem(training.channel_graph(MODEL, IMAGE), variables, images, labels)
