"""Loss and right answers of every test example, for intervals over them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import Dataset
from experiments.data.augment import normalized
from experiments.runner import devices
from experiments.runner.fit import Variables

BATCH = 500
"""Examples that are evaluated at once, at most."""


def each_example(
    model: Any, variables: Variables, dataset: Dataset
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the loss in nats and the share of right answers of every test example, f32[n] each.

    Where an example has several positions, both are means over them.
    """
    test: Any = dataset.test
    run = partial(_evaluated, model, dataset.mean, dataset.std)
    return devices.of_each(run, variables, test.images, test.labels, most=BATCH)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _evaluated(model: Any, mean: Any, std: Any, variables: Any, images: Any, labels: Any) -> Any:
    logits: Any = model.apply(variables, normalized(mean, std, images), train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = (logits.argmax(-1) == labels).astype(jnp.float32)
    return tuple(each.reshape(len(images), -1).mean(1) for each in (losses, right))
