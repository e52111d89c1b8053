"""Training and evaluation of an image classifier."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxprune as jp
from experiments.data import Dataset, Split

Variables = Any  # {'params': ..., 'batch_stats': ...}


class TrainState(NamedTuple):
    """What a training step changes."""

    variables: Variables
    opt_state: optax.OptState


class Metrics(NamedTuple):
    """Means over the examples of a split."""

    loss: float  # cross-entropy in nats, without any penalty
    accuracy: float  # share of right answers, 0 to 1


class Epoch(NamedTuple):
    """How one epoch went."""

    number: int  # from 1
    train: Metrics  # means over the epoch, while the weights move
    validation: Metrics  # of the network after the epoch


OnEpoch = Callable[[Epoch], None]


def ignore(epoch: Epoch) -> None:
    """The `OnEpoch` that does nothing."""
    del epoch


def batches(split: Split, batch_size: int, rng: np.random.Generator) -> Iterator[Split]:
    """Yields one epoch in a new order, in full batches; the rest that fills none is left out."""
    order = rng.permutation(len(split.labels))
    for end in range(batch_size, len(order) + 1, batch_size):
        rows = order[end - batch_size : end]
        yield Split(split.images[rows], split.labels[rows])


def sgd(
    learning_rate: float,
    *,
    steps: int,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    extra: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """Returns Nesterov SGD; the rate falls to a tenth after half and three quarters of `steps`.

    Args:
      learning_rate: that of the first half.
      steps: length of the training.
      momentum: that of Nesterov.
      weight_decay: added to the gradient of every parameter, before the momentum.
      extra: a transformation of the gradients, in front of everything else.

    Source: Liu et al., Network Slimming, ICCV 2017, section 4.
    """
    schedule = optax.piecewise_constant_schedule(
        learning_rate, {steps // 2: 0.1, steps * 3 // 4: 0.1}
    )
    return optax.chain(
        extra or optax.identity(),
        optax.add_decayed_weights(weight_decay),
        optax.sgd(schedule, momentum=momentum, nesterov=True),
    )


def train_step(
    model: nn.Module, tx: optax.GradientTransformation
) -> Callable[[TrainState, Split], tuple[TrainState, tuple[jax.Array, jax.Array]]]:
    """Returns the compiled step `(state, batch) -> (state, (loss, accuracy))`."""

    @jax.jit
    def step(state: TrainState, batch: Split) -> tuple[TrainState, tuple[jax.Array, jax.Array]]:
        params = state.variables["params"]

        def loss_and_rest(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            logits, mutated = model.apply(
                state.variables | {"params": params},
                batch.images,
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
            return losses.mean(), (logits, mutated)

        (loss, (logits, mutated)), gradients = jax.value_and_grad(loss_and_rest, has_aux=True)(
            params
        )
        updates, opt_state = tx.update(gradients, state.opt_state, params)
        variables = {"params": optax.apply_updates(params, updates), **mutated}
        accuracy = jnp.mean(logits.argmax(-1) == batch.labels)
        return TrainState(variables, opt_state), (loss, accuracy)

    return step


def fit(
    model: nn.Module,
    variables: Variables,
    dataset: Dataset,
    *,
    tx: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    rng: np.random.Generator,
    on_epoch: OnEpoch = ignore,
) -> Variables:
    """Returns the variables after `epochs` passes over the training images.

    A loop over compiled steps and not a `lax.scan`: XLA for CPU runs convolutions inside a loop
    about eight times slower.

    Raises:
      ValueError: the training images do not fill one batch.
    """
    if batch_size > len(dataset.train.labels):
        raise ValueError(
            f"{len(dataset.train.labels)} training images do not fill a batch of {batch_size}.\n"
            "Fix: a smaller batch_size."
        )
    step = train_step(model, tx)
    state = TrainState(variables, tx.init(variables["params"]))
    for number in range(1, epochs + 1):
        history = []
        for batch in batches(dataset.train, batch_size, rng):
            state, metrics = step(state, batch)
            history.append(metrics)
        loss, accuracy = np.mean(jax.device_get(history), axis=0).tolist()
        validation = evaluate(model, state.variables, dataset.validation)
        on_epoch(Epoch(number, Metrics(loss, accuracy), validation))
    return state.variables


def evaluate(
    model: nn.Module, variables: Variables, split: Split, *, batch_size: int = 200
) -> Metrics:
    """Returns loss and accuracy with running statistics; compiled once per model."""
    starts = range(0, len(split.labels), batch_size)
    parts = [_logits(model, variables, split.images[i : i + batch_size]) for i in starts]
    logits = np.concatenate(jax.device_get(parts))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, split.labels)
    correct = int(np.sum(logits.argmax(-1) == split.labels))
    return Metrics(float(losses.mean()), correct / len(split.labels))


@partial(jax.jit, static_argnums=0)
def _logits(model: nn.Module, variables: Variables, images: jax.Array) -> Any:
    return model.apply(variables, images, train=False)


def channel_graph(model: nn.Module, image_shape: tuple[int, ...]) -> jp.ChannelGraph:
    """Returns the channel graph of the model on one image; needs and computes no weights."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    return jp.trace(partial(model.apply, train=False), variables, image)


def batch_statistics(model: nn.Module) -> Callable[[Variables, jax.Array], Any]:
    """Returns the update that `jaxprune.recover.recalibrate` asks for."""

    def update(variables: Variables, images: jax.Array) -> Any:
        _, mutated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return mutated["batch_stats"]

    return update
