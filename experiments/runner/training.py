"""Training and evaluation of a classifier of images, or of their pixels.

The images are on the device or streamed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, repeat
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxprune as jp
from experiments.data import Dataset, Split, Stream
from experiments.data.augment import augmented, normalized
from experiments.runner import devices, precision
from experiments.runner import fit as loop
from experiments.runner.fit import QUIET, DivergedError, Figures, Journal, OnStep, State, Variables
from experiments.runner.losses import Loss as Loss
from experiments.runner.losses import cross_entropy as cross_entropy
from experiments.runner.losses import mean_of_known
from experiments.runner.losses import smoothed as smoothed
from experiments.runner.optimizers import schedule as schedule
from experiments.runner.optimizers import sgd as sgd

Gather = Callable[[Variables, Any, jax.Array, jax.Array], Mapping[str, jax.Array]]
"""(variables, gradients like them, images, labels) of a batch -> scores, {group: f32[n]}."""


class Model(Protocol):
    """What can be trained: a Flax module, or what is called like one."""

    def apply(self, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        """As `nn.Module.apply`."""
        ...


class Metrics(NamedTuple):
    """Means over the examples of a split."""

    loss: float  # cross-entropy in nats, without any penalty
    accuracy: float  # share of right answers, 0 to 1


class Taught(NamedTuple):
    """What stands for the loss of a network that learns from another, `State.teacher`."""

    model: Model  # of the teacher
    loss: Callable[[Any, Any, Any], jax.Array]  # (logits, the teacher's, labels) -> scalar


Step = Callable[[State, Split, jax.Array | None, jax.Array], tuple[State, Metrics]]

Forward = Callable[[State, Any, jax.Array, jax.Array, jax.Array], Any]
"""(state, params, images, labels, key) -> what is minimized, (loss, logits, what mutated)."""


def train_step(
    model: Model,
    tx: optax.GradientTransformation,
    dataset: Dataset,
    batch_size: int,
    *,
    loss: Loss = cross_entropy,
    gather: Gather | None = None,
    taught: Taught | None = None,
) -> Step:
    """Returns the compiled step `(state, train, order, key) -> (state, metrics)`.

    The step takes its batch from the training images on the device, augments and normalizes it.
    Which batch, and which random numbers, follow from `state.step`; the state is donated. With
    `gather` the scores of every batch are added to `state.tally`; with `taught` its loss stands for
    `loss`.
    """
    apply = precision.lowered(model.apply)

    def forward(state: State, params: Any, images: Any, labels: Any, _: jax.Array) -> Any:
        variables = state.variables | {"params": params}
        logits, mutated = apply(variables, images, train=True, mutable=["batch_stats"])
        if taught is None:
            value = loss(logits, labels)
        else:
            told = taught.model.apply(state.teacher, images, train=False)
            value = taught.loss(logits, told, labels)
        return value, (value, logits, mutated)

    return step_of(forward, tx, dataset, batch_size, gather=gather)


def step_of(
    forward: Forward,
    tx: optax.GradientTransformation,
    dataset: Dataset,
    batch_size: int,
    *,
    gather: Gather | None = None,
) -> Step:
    """Returns the compiled step of `train_step`, of whatever is minimized."""
    tx = optax.with_extra_args_support(tx)

    @partial(jax.jit, donate_argnums=0)
    def step(
        state: State, train: Split, order: jax.Array | None, key: jax.Array
    ) -> tuple[State, Metrics]:
        params = state.variables["params"]
        images, labels = batch(dataset, train, order, state.step, key, batch_size)
        drawn = jax.random.fold_in(jax.random.fold_in(key, 1), state.step)
        gradient = jax.grad(partial(forward, state), has_aux=True)
        gradients, (value, logits, mutated) = gradient(params, images, labels, drawn)
        held = {"keep": state.keep, "variables": state.variables}
        updates, opt_state = tx.update(gradients, state.opt_state, params, **held)
        tally = state.tally
        if gather is not None and tally is not None:
            tally = tally.add(gather(state.variables, {"params": gradients}, images, labels))
        variables = {"params": optax.apply_updates(params, updates), **mutated}
        accuracy = mean_of_known(logits.argmax(-1) == labels, labels)
        state = state._replace(variables=variables, opt_state=opt_state, tally=tally)
        state = state._replace(step=state.step + 1)
        return devices.constrained(state), Metrics(value, accuracy)  # pyright: ignore[reportArgumentType]

    return step


def batch(
    dataset: Dataset,
    train: Split,
    order: jax.Array | None,
    step: jax.Array,
    key: jax.Array,
    size: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns the images, augmented and normalized, and the labels of a step; for use in jit.

    Random numbers follow from the step and from the place in the batch, not from a device.

    Args:
      dataset: says how.
      train: all images, or, without an order, those of the step.
      order: in which all images are taken.
      step: its number.
      key: of all steps.
      size: images in a step.
    """
    if order is not None:
        rows = jax.lax.dynamic_slice_in_dim(order, step % (len(order) // size) * size, size)
        train = Split(train.images[rows], train.labels[rows])  # pyright: ignore[reportArgumentType]
    images, labels = devices.divided(tuple(train), devices.along_data())
    images = augmented(dataset.augment, jax.random.fold_in(key, step), images)
    return normalized(dataset.mean, dataset.std, images), labels


@partial(jax.jit, static_argnums=(2, 3))
def shuffled(key: jax.Array, step: jax.Array, examples: int, steps: int) -> jax.Array:
    """Returns the order of the examples, i32[examples], in the epoch of `steps` around `step`."""
    return jax.random.permutation(jax.random.fold_in(key, step // steps), examples)


def train_epoch(
    step: Step,
    state: State,
    train: Split | Stream,
    keys: Sequence[jax.Array],
    *,
    batch_size: int,
    steps: int | None = None,
    examples: int | None = None,
    on_step: OnStep = lambda: None,
) -> tuple[State, list[Metrics]]:
    """Returns the state after one epoch and the metrics of its steps; all of it on the device.

    An epoch has as many steps as the images fill batches, or only `steps`. Of the images the first
    `examples` count, if others fill up what the devices divide.

    A loop over compiled steps and not a `lax.scan`: XLA for CPU runs convolutions inside a loop
    about eight times slower.
    """
    order_key, step_key = keys
    history = []
    examples = train.size if examples is None else examples
    steps = examples // batch_size if steps is None else steps
    for part, order in _parts(train, order_key, state.step, batch_size, steps, examples):
        state, metrics = step(state, part, order, step_key)
        history.append(metrics)
        on_step()
    return state, history


def _parts(
    train: Split | Stream,
    key: jax.Array,
    step: jax.Array,
    batch_size: int,
    steps: int,
    examples: int,
) -> Iterator[tuple[Split, jax.Array | None]]:
    """Returns for each step of an epoch what it takes its batch from: all images, or that batch."""
    if isinstance(train, Split):
        order = shuffled(key, step, examples, steps)
        if steps < examples // batch_size:
            order = order[: steps * batch_size]
        return repeat((train, order), steps)
    seed = int(jax.random.bits(jax.random.fold_in(key, step // steps)))
    batches = islice(train.batches(batch_size, seed, *devices.rows(batch_size)), steps)
    return ((devices.batch(each, batch_size), None) for each in batches)


def epoch_steps(dataset: Dataset, batch_size: int, share: float = 1.0) -> int:
    """Returns how many steps an epoch has that takes a share of the full batches; at least one."""
    return max(1, int(share * (dataset.train.size // batch_size)))


def fit(
    model: Model,
    variables: Variables,
    dataset: Dataset,
    *,
    tx: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    key: jax.Array,
    opt_state: optax.OptState | None = None,
    keep: Mapping[str, Any] | None = None,
    tally: jp.schedule.Tally | None = None,
    teacher: Variables | None = None,
    share: float = 1.0,
    step: Step | None = None,
    journal: Journal = QUIET,
) -> State:
    """Returns the state after `epochs` passes over the training images.

    Args:
      model: is called as `model.apply(variables, images, train=True, mutable=["batch_stats"])`.
      variables: where to begin; they stay valid.
      dataset: trains on `train`, without what fills no batch, and measures on `validation`.
      tx: the optimizer.
      epochs: number of passes.
      batch_size: images in a step.
      key: of all random numbers.
      opt_state: that of `tx.init` by default.
      keep: the masks that the optimizer asks for, if it is `jp.schedule.masked_updates`.
      tally: where the step adds its scores, if it gathers some.
      teacher: the variables of the network that teaches, if the step is `Taught`.
      share: of the batches, how many an epoch takes; another part in every epoch.
      step: that of an earlier training, which is not compiled again; `train_step` by default.
      journal: gives the state to begin with, and hears of every epoch.

    Raises:
      ValueError: the training images do not fill one batch.
      DivergedError: a loss is not finite; of that epoch the journal does not hear.
    """
    if dataset.train.size < batch_size:
        raise ValueError(
            f"{dataset.train.size} training images do not fill a batch of {batch_size}.\n"
            "Fix: a smaller batch_size."
        )
    steps = epoch_steps(dataset, batch_size, share)
    step, train = step or train_step(model, tx, dataset, batch_size), dataset.train
    if isinstance(train, Split):
        train = devices.whole(train)
    keys = devices.everywhere(tuple(jax.random.split(key)))

    def epoch(state: State, number: int, on_step: OnStep) -> tuple[State, Figures]:
        state, history = train_epoch(
            step,
            state,
            train,
            keys,
            batch_size=batch_size,
            steps=steps,
            examples=dataset.train.size,
            on_step=on_step,
        )
        history = np.array(jax.device_get(history))
        loss, accuracy = np.mean(history, axis=0).tolist()
        validation = evaluate(model, state.variables, dataset, dataset.validation)
        _check_losses(number, [*history[:, 0], validation.loss])
        trained = Metrics(loss, accuracy)
        return state, {"train": trained._asdict(), "validation": validation._asdict()}

    opt_state = tx.init(variables["params"]) if opt_state is None else opt_state
    start = State(variables, opt_state, keep=keep, tally=tally, teacher=teacher)
    return loop.fit(start, epoch, epochs=epochs, steps=steps, journal=journal)


def _check_losses(epoch: int, losses: Sequence[float]) -> None:
    """Raises DivergedError unless all are finite: one for each batch, then that of validation."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        first, steps = int(bad[0]), len(losses) - 1
        where = f"batch {first + 1} of {steps}" if first < steps else "the validation after it"
        raise DivergedError(
            f"the loss is {losses[first]} in epoch {epoch}, {where}.\n"
            "Fix: a lower learning rate or a weaker penalty, in a run of another --name."
        )


def evaluate(
    model: Model,
    variables: Variables,
    dataset: Dataset,
    split: Split | Stream,
    *,
    batch_size: int = 500,
) -> Metrics:
    """Returns loss and accuracy on a split of the data set, with running statistics.

    Both are means over all labels of the split that are not void.
    """
    count, along = split.size, devices.along_data()
    size, variables = devices.multiple(min(batch_size, count)), devices.everywhere(variables)
    score = partial(_score, model, dataset.mean, dataset.std, size, along, variables)
    starts = range(0, count, size)
    if isinstance(split, Split):
        split = devices.whole(split)
        parts = [score(split, np.int32(start), np.int32(count)) for start in starts]
    else:
        batches = devices.padded(split.batches(size, None, *devices.rows(size)), split, size)
        parts = [
            score(each, np.int32(0), np.int32(min(size, count - start)))
            for start, each in zip(starts, batches, strict=True)
        ]
    loss, right, known = (
        sum(map(float, values)) for values in zip(*jax.device_get(parts), strict=True)
    )
    return Metrics(loss / max(known, 1), right / max(known, 1))


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _score(
    model: Model,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size: int,
    along: jax.NamedSharding | None,
    variables: Variables,
    split: Split,
    start: jax.Array,
    count: jax.Array,
) -> tuple[jax.Array, ...]:
    """Returns the sums over the labels of a batch: their loss, how many are right, how many count.

    Labels of each image are summed first: in float32 a sum of millions would stand still.
    """
    rows = start + jnp.arange(size)
    inside = rows < count
    taken = jax.tree.map(lambda part: part.at[rows].get(mode="clip"), split)
    images, labels = devices.divided(tuple(taken), along)
    logits: Any = model.apply(variables, normalized(mean, std, images), train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    right, known = logits.argmax(-1) == labels, (labels >= 0).reshape(size, -1)
    sums = (
        jnp.sum(each.reshape(size, -1), axis=1, where=known, dtype=losses.dtype)
        for each in (losses, right, known)
    )
    return tuple(jnp.sum(each, where=inside) for each in sums)


def channel_graph(
    model: nn.Module, image_shape: tuple[int, ...], *, select_inputs: bool = True
) -> jp.ChannelGraph:
    """Returns the channel graph of the model on one image; needs and computes no weights.

    Every BatchNorm that reads a stream with several readers may keep its own channels of it; not
    without `select_inputs`, where all of them keep the same.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    init = partial(model.init, train=False)
    variables = jax.eval_shape(lambda *x: precision.widened(init(*x)), jax.random.key(0), image)
    apply = partial(model.apply, train=False)
    return jp.trace(jp.linen.mark_readers(apply) if select_inputs else apply, variables, image)


def batch_statistics(model: nn.Module, dataset: Dataset) -> Callable[[Variables, jax.Array], Any]:
    """Returns the update that `jaxprune.recover.recalibrate` asks for, of raw images."""

    def update(variables: Variables, images: jax.Array) -> Any:
        images = normalized(dataset.mean, dataset.std, images)
        _, mutated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return mutated["batch_stats"]

    return update
