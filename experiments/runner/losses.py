"""Losses of labels, from logits to a scalar. A label below 0 is void: it counts nowhere."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits, labels) -> scalar."""


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean over the labels that are not void, in nats; 0 if all are."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return mean_of_known(losses, labels)


def mean_of_known(values: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean of the values, like the labels, where these are not void."""
    known = labels >= 0
    return jnp.sum(values, where=known) / jnp.maximum(jnp.sum(known), 1)


def smoothed(share: float) -> Loss:
    """Returns the cross-entropy with labels that give a share to all other classes, evenly.

    Source: Szegedy et al., CVPR 2016; over the other classes alone as in the code of AutoSlim.
    """

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        classes = logits.shape[-1]
        soft = optax.smooth_labels(jax.nn.one_hot(labels, classes), share * classes / (classes - 1))
        return optax.softmax_cross_entropy(logits, soft).mean()

    return loss if share else cross_entropy
