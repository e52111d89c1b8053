"""The training loop: one compilation, nothing from the host inside an epoch, the same numbers."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

from experiments import models
from experiments.data import Dataset, Split
from experiments.data.augment import Augment
from experiments.methods.network_slimming import Config, stages
from experiments.methods.network_slimming.presets import PAPER, PRESETS
from experiments.runner import fit, presets, training


def preset(name: str) -> Config:
    return presets.config(name, PRESETS, Config())


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in PRESETS]
ONE_PER_MODEL = {preset(name).model: name for name in reversed(PRESETS)}.values()


def made(name: str, *, images: int = 8) -> Dataset:
    """Random images in the shape of a data set."""
    shape = {"digits": (8, 8, 1), "mnist": (28, 28, 1)}.get(name, (32, 32, 3))
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        pixels = rng.integers(0, 256, (count, *shape), np.uint8)
        return Split(pixels, rng.integers(0, 10, count, dtype=np.int32))

    return Dataset(
        name=name,
        classes=10,
        train=split(images),
        validation=split(3),
        test=split(3),
        mean=(120.0,) * shape[-1],
        std=(60.0,) * shape[-1],
        augment=Augment(pad=4, flip=True) if name.startswith("cifar") else Augment(),
    )


class Case(NamedTuple):
    step: training.Step
    start: Callable[[Any], fit.State]  # variables -> the first state
    init: Callable[[], Any]
    dataset: Dataset


def case(name: str, **changes: Any) -> Case:
    """The step of a preset on made images, with other values for some fields of the model."""
    config = preset(name)
    dataset = made(config.dataset)
    fields = ({"widths": config.widths} if config.widths else {}) | changes
    model = models.build(config.model, classes=10, **fields)
    image = jnp.zeros((1, *dataset.image_shape))
    init = partial(model.init, jax.random.key(0), image, train=False)
    rate = training.schedule(0.1, steps=4)
    scales = jax.eval_shape(init)
    tx = training.sgd(rate, **stages.penalty(config, rate, scales))

    def start(variables: Any) -> fit.State:
        return fit.State(variables, tx.init(variables["params"]), jnp.array(0, jnp.int32))

    return Case(training.train_step(model, tx, dataset, 2), start, init, dataset)


@pytest.mark.parametrize("name", ONE_PER_MODEL)
def test_what_the_step_returns_is_what_it_takes(name):
    step, start, init, dataset = case(name)
    before = jax.eval_shape(lambda: start(init()))
    order = jax.ShapeDtypeStruct((8,), jnp.int32)
    after, _ = jax.eval_shape(step, before, dataset.train, order, jax.random.key(0))

    def kinds(state):
        return [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(state)]

    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert kinds(before) == kinds(after)


def check_an_epoch(found: Case) -> None:
    """An epoch compiles one step and reads nothing from the host."""
    state, train = found.start(jax.jit(found.init)()), jax.device_put(found.dataset.train)
    keys, order = tuple(jax.random.split(jax.random.key(0))), jnp.arange(8, dtype=jnp.int32)
    epoch = partial(training.train_epoch, found.step, train=train, keys=keys, batch_size=2)
    state, _ = epoch(state)  # compiles, which may move constants
    with jax.transfer_guard_host_to_device("disallow"):
        state, history = epoch(state)
        assert found.step._cache_size() == 1
        with pytest.raises(RuntimeError, match="Disallowed host-to-device"):
            found.step(state, found.dataset.train, order, keys[1])
    assert len(history) == 4


@pytest.mark.parametrize(("name", "widths"), [("digits", (4,)), ("mlp-mnist", (8, 4))])
def test_an_epoch_compiles_one_step_and_reads_nothing_from_the_host(name, widths):
    check_an_epoch(case(name, widths=widths))


@pytest.mark.parametrize("name", SLOW)
def test_an_epoch_of_every_preset_compiles_one_step(name):
    check_an_epoch(case(name))


@pytest.fixture(scope="module")
def network():
    """A small network and its variables."""
    model = models.build("convnet", classes=10, widths=(4,))
    init = jax.jit(partial(model.init, train=False))
    return model, jax.device_get(init(jax.random.key(1), jnp.zeros((1, 8, 8, 1))))


def test_every_epoch_sees_every_image_once_in_its_own_order():
    key = jax.random.key(3)
    orders = [np.asarray(training.shuffled(key, jnp.array(step), 10, 5)) for step in (0, 4, 5)]
    assert all(sorted(order.tolist()) == list(range(10)) for order in orders)
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_a_step_takes_its_batch_from_the_order(network):
    (model, variables), dataset = network, made("digits")
    tx = training.sgd(0.0, weight_decay=0.0)
    step = training.train_step(model, tx, dataset, 2)
    order = jnp.array([7, 1, 5, 0, 2, 3, 4, 6])
    apply = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])[0])
    for number in range(5):
        copied = jax.tree.map(jnp.array, variables)
        state = fit.State(copied, tx.init(copied["params"]), jnp.array(number))
        _, metrics = step(state, jax.device_put(dataset.train), order, jax.random.key(0))
        rows = np.asarray(order)[2 * (number % 4) :][:2]
        logits = apply(variables, pixels(dataset.train.images[rows]))
        assert_metrics(metrics, logits, dataset.train.labels[rows])


@pytest.mark.parametrize("batch_size", [3, 7, 100])
def test_evaluation_counts_every_image_once(network, batch_size):
    (model, variables), dataset = network, made("digits", images=7)
    got = training.evaluate(model, variables, dataset, dataset.train, batch_size=batch_size)
    apply = jax.jit(partial(model.apply, train=False))
    logits = apply(variables, pixels(dataset.train.images))
    assert_metrics(got, logits, dataset.train.labels)


def pixels(images: np.ndarray) -> np.ndarray:
    return (images.astype(np.float32) - 120) / 60


def assert_metrics(got: training.Metrics, logits: Any, labels: np.ndarray) -> None:
    losses = -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels]
    np.testing.assert_allclose(got.loss, losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(got.accuracy, np.mean(logits.argmax(-1) == labels))


def test_the_learning_rate_falls_at_the_milestones():
    rate = training.schedule(1.0, steps=9, milestones=(1 / 3, 2 / 3))
    rates = jax.vmap(rate)(jnp.arange(9))
    np.testing.assert_allclose(rates, [1] * 3 + [0.1] * 3 + [0.01] * 3, rtol=1e-6)


def test_fit_leaves_its_variables_valid_and_repeats_itself(network):
    (model, variables), dataset = network, made("digits")
    variables = jax.tree.map(jnp.array, variables)
    epochs = []

    def fitted(key: int, journal=fit.QUIET):
        return training.fit(
            model,
            variables,
            dataset,
            tx=training.sgd(0.1),
            epochs=2,
            batch_size=4,
            key=jax.random.key(key),
            journal=journal,
        )

    journal = fit.QUIET._replace(on_epoch=lambda epoch, _: epochs.append(epoch))
    first, again, other = fitted(0, journal), fitted(0), fitted(1)
    assert [(epoch.number, epoch.total) for epoch in epochs] == [(1, 2), (2, 2)]
    same = jax.tree.map(np.array_equal, first.variables, again.variables)
    assert all(jax.tree.leaves(same))
    kernels = [state.variables["params"]["Dense_0"]["kernel"] for state in (first, other)]
    assert not np.array_equal(*kernels)
    assert np.isfinite(variables["params"]["Dense_0"]["kernel"]).all()


def test_a_batch_larger_than_the_data_is_an_error():
    with pytest.raises(ValueError, match=r"8 training images do not fill a batch of 2000.\nFix:"):
        training.fit(
            models.build("convnet"),
            {"params": {}},
            made("digits"),
            tx=training.sgd(0.1),
            epochs=1,
            batch_size=2000,
            key=jax.random.key(0),
        )


def test_every_preset_says_what_it_changes():
    for name in PRESETS:
        config = preset(name)
        assert config.preset == name
        assert replace(config, **PRESETS[name]) == config
    assert {name for name, _ in PAPER} <= set(PRESETS)
    assert all((n, PRESETS[n]["prune_ratio"]) in PAPER for n, _ in PAPER)
