"""Loss and right answers of every test example, for intervals over them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import Dataset
from experiments.data.augment import normalized
from experiments.runner.fit import Variables

BATCH = 500
"""Examples that are evaluated at once."""


def each_example(
    model: Any, variables: Variables, dataset: Dataset
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the loss in nats and the share of right answers of every test example, f32[n] each.

    Where an example has several positions, both are means over them.
    """
    test: Any = dataset.test
    size = min(BATCH, test.size)
    variables, parts = jax.device_put(variables), []
    for start in range(0, test.size, size):
        rows = np.minimum(np.arange(start, start + size), test.size - 1)
        batch = test.images[rows], test.labels[rows]
        made = jax.device_get(_evaluated(model, dataset.mean, dataset.std, variables, *batch))
        parts.append([each[: test.size - start] for each in made])
    losses, right = (np.concatenate(each) for each in zip(*parts, strict=True))
    return losses, right


@partial(jax.jit, static_argnums=(0, 1, 2))
def _evaluated(model: Any, mean: Any, std: Any, variables: Any, images: Any, labels: Any) -> Any:
    logits: Any = model.apply(variables, normalized(mean, std, images), train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = (logits.argmax(-1) == labels).astype(jnp.float32)
    return tuple(each.reshape(len(images), -1).mean(1) for each in (losses, right))
