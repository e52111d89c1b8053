"""Keras models of which branches go: their layers are not made."""

import os

import pytest

os.environ["KERAS_BACKEND"] = "jax"
pytest.importorskip("keras", reason="Keras is not installed")

import jax
import keras
import numpy as np

import jaxprune as jp
from keras_networks import L

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
BRANCH = "+down_1/kernel"


@pytest.fixture(autouse=True)
def _ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def residual() -> keras.Model:
    """Blocks of a layer `Add` and of a `+`, one of them with a model inside."""
    x = start = keras.Input((6,))
    for i in range(3):
        y = L.BatchNormalization(name=f"norm_{i}")(x)
        y = L.Dense(8, activation="relu", name=f"up_{i}")(y)
        y = L.Dense(6, name=f"down_{i}")(y)
        x = x + y if i == 2 else L.Add(name=f"add_{i}")([y, x])
    inside = keras.Input((6,))
    inner = keras.Model(inside, inside + L.Dense(6, name="dense")(inside), name="inner")
    return keras.Model(start, L.Dense(2, name="head")(inner(x)))


def values(model):
    return jax.tree.map(np.asarray, jp.keras.variables(model))


def test_a_functional_model_loses_layers_and_trains_on(tmp_path):
    model = residual()
    graph = jp.keras.trace(model, X, training=True)
    assert set(jp.branches(graph)) == {
        "+down_0/kernel", BRANCH, "+down_2/kernel", "+inner/dense/kernel"
    }  # fmt: skip
    before = values(model)
    keep = {BRANCH: False, "+down_2/kernel": False, "up_0/kernel": np.arange(8) < 5}
    small = jp.keras.resize(model, graph, keep)
    sliced = jp.slice(graph, before, keep)
    jax.tree.map(np.testing.assert_array_equal, values(small), sliced)
    names = {layer.name for layer in small.layers}
    assert {"down_1", "up_1", "norm_1", "add_1", "down_2"}.isdisjoint(names)
    ours = jp.keras.function(small, training=True)(sliced, X)
    wanted = jp.narrow(graph.fn, graph, keep)(sliced, X)
    assert jax.tree.structure(ours) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, wanted)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(loaded(X), small(X), rtol=1e-6)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(X, np.zeros((4, 2)), verbose=0)
    pruned = jp.keras.resize(model, graph, keep)
    optimizer = jp.keras.resize_optimizer(model.optimizer, pruned, graph, keep)
    pruned.compile(optimizer, "mse")
    first = pruned.evaluate(X, np.zeros((4, 2)), verbose=0)
    pruned.fit(X, np.zeros((4, 2)), epochs=3, verbose=0)
    assert pruned.evaluate(X, np.zeros((4, 2)), verbose=0) < first


def test_a_whole_inner_model_keeps_its_name_and_loses_its_branch():
    model = residual()
    graph = jp.keras.trace(model, X)
    keep = {"+inner/dense/kernel": False}
    small = jp.keras.resize(model, graph, keep)
    sliced = jp.slice(graph, values(model), keep)
    np.testing.assert_allclose(
        small(X), jp.narrow(graph.fn, graph, keep)(sliced, X)[0], rtol=1e-5, atol=1e-6
    )


def test_a_sum_inside_of_a_layer_of_another_class_is_refused():
    start = keras.Input((6,))
    model = keras.Model(start, L.Dense(2)(Inner()(start)))
    graph = jp.keras.trace(model, X)
    (name,) = jp.branches(graph)
    before = values(model)
    with pytest.raises(jp.errors.ResizeError, match="added inside of a layer or model of a class"):
        jp.keras.resize(model, graph, {name: False})
    jax.tree.map(np.testing.assert_array_equal, values(model), before)


@keras.saving.register_keras_serializable()
class Inner(L.Layer):
    """A residual MLP."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = L.Dense(6)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return x + self.dense(x)
