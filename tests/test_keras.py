"""Keras models at the kept widths: new models, the same networks."""

import os
import subprocess
import sys
from functools import partial

import pytest

os.environ["KERAS_BACKEND"] = "jax"
pytest.importorskip("keras", reason="Keras is not installed")

import jax
import keras
import numpy as np

import jaxprune as jp
from jaxprune.running.verify import following
from keras_networks import NETWORKS, OBJECTS, L, Net, call, half, made

# Keras itself, when it saves a model, or an optimizer its configuration.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
FOUND = {"attention": 0, "squeezed": 1, "custom": 1}
"""How many layers have what no table knows, in the models of which another number is not 0."""


@pytest.fixture(autouse=True)
def _ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def values(model):
    return jax.tree.map(np.asarray, jp.keras.variables(model))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_resized_model_is_the_narrow_one(name, tmp_path):
    model, x = made(name)
    before = values(model)
    graph = jp.keras.trace(model, x, training=True)
    keep = half(graph)
    assert keep
    small = jp.keras.resize(model, graph, keep)
    sliced = jp.slice(graph, before, keep)
    jax.tree.map(np.testing.assert_array_equal, values(small), sliced)
    run = jp.keras.function(small, training=True)
    expected = jax.jit(following(graph.fn, graph, keep, run))(sliced, x)
    jax.tree.map(close, jax.jit(run)(sliced, x), expected)  # the statistics too
    jax.tree.map(np.testing.assert_array_equal, values(model), before)
    if name != "subclassed":  # its class makes the full widths
        small.save(tmp_path / "small.keras")
        loaded = keras.models.load_model(
            tmp_path / "small.keras", custom_objects=OBJECTS, safe_mode=False
        )
        jax.tree.map(close, call(loaded, x), call(small, x))
    assert len(jp.keras.overrides(graph, keep)) == FOUND.get(name, 0)


def test_variables_go_by_the_names_of_layers():
    model, x = made("nested")
    graph = jp.keras.trace(model, x)
    assert any(path.startswith("backbone/batch_normalization") for path in graph.variables)
    assert any(path.startswith("inner/conv2d") for path in graph.variables)


def test_a_dropout_keeps_its_seed_and_draws_anew():
    inputs = [keras.Input((6,)), L.Dense(8, name="first"), L.Dropout(0.5, name="drop")]
    model = keras.Sequential([*inputs, L.Dense(2)])
    x = np.ones((2, 6), np.float32)
    graph = jp.keras.trace(model, x, training=True)
    keep = half(graph)
    small = jp.keras.resize(model, graph, keep)
    seed = "seed_generator_state"
    ours, theirs = values(model)["drop"], values(small)["drop"]
    np.testing.assert_array_equal(ours[seed], theirs[seed])
    assert len(jp.keras.draws(graph, keep)) == 1
    _, updates = graph.fn(jp.keras.variables(model), x)
    assert [*updates] == ["drop"]


def test_what_a_layer_was_adapted_to_and_what_is_not_trained_stay():
    scaled = L.Normalization()
    scaled.adapt(np.arange(24.0).reshape(4, 6))
    model = keras.Sequential([keras.Input((6,)), scaled, L.Dense(8, name="first"), L.Dense(2)])
    model.get_layer("first").trainable = False
    x = np.ones((1, 6), np.float32)
    graph = jp.keras.trace(model, x)
    small = jp.keras.resize(model, graph, half(graph))
    narrow = jp.narrow(graph.fn, graph, half(graph))(jp.keras.variables(small), x)[0]
    close(small(x), narrow)
    assert len(small.trainable_variables) == len(model.trainable_variables) == 2


def test_a_variable_that_only_training_reads_needs_the_training_call():
    layer = L.SpectralNormalization(L.Dense(8), name="spectral")
    model = keras.Sequential([keras.Input((6,)), layer, L.ReLU(), L.Dense(2)])
    x = np.ones((1, 6), np.float32)
    graph = jp.keras.trace(model, x)
    with pytest.raises(jp.errors.ResizeError, match=r"'spectral/vector_u'[\s\S]*training=True"):
        jp.keras.resize(model, graph, half(graph))
    graph = jp.keras.trace(model, x, training=True)
    assert jp.keras.resize(model, graph, half(graph)).count_params() < model.count_params()


def test_what_follows_a_width_is_listed():
    model, x = made("attention")
    graph = jp.keras.trace(model, x)
    keep = {n: k for n, k in half(graph).items() if n.startswith("mha")}
    assert any("0.57735 became" in line for line in jp.keras.follows(graph, keep))


def test_what_was_found_can_be_given(monkeypatch):
    model, x = made("squeezed")
    graph = jp.keras.trace(model, x)
    found = jp.keras.overrides(graph, half(graph))
    ((operation, way),) = (key.split(".", 1) for key in found[""])
    assert (way, *found[""].values()) == ("newshape.2", 4)
    monkeypatch.setattr("jaxprune.running.attribute_search.TRIES", 0)
    with pytest.raises(jp.errors.ResizeError, match="Fix: give the layer the right value"):
        jp.keras.resize(model, graph, half(graph))
    for given in (found, {operation: {"newshape": (-1, 16, 4)}}):
        small = jp.keras.resize(model, graph, half(graph), overrides=given)
        assert small.get_layer("grouped").groups == 2
    with pytest.raises(jp.errors.PatternError, match="override for layers"):
        jp.keras.resize(model, graph, half(graph), overrides={"absent": {"units": 2}})
    with pytest.raises(jp.errors.ResizeError, match=r"overrides give \['unit'\]"):
        jp.keras.resize(model, graph, half(graph), overrides={"grouped": {"unit": 2}})


def test_a_configuration_explains_the_layers_inside():
    model, x = made("custom")
    graph = jp.keras.trace(model, x)
    small = jp.keras.resize(model, graph, half(graph))
    block = small.get_layer("block")
    assert (block.width, block.first.units, block.get_config()["width"]) == (4, 4, 4)


def test_another_model_is_refused():
    model, x = made("subclassed")
    graph = jp.keras.trace(model, x)
    keep = half(graph)
    model.norm.epsilon = 0.5
    with pytest.raises(jp.errors.ResizeError, match="is not the one that was traced"):
        jp.keras.resize(model, graph, keep)
    with pytest.raises(jp.errors.TreeError, match=r"mirror|no variables"):
        jp.keras.resize(made("custom")[0], graph, keep)
    with pytest.raises(jp.errors.ResizeError, match=r"Fix: jp.keras.trace"):
        jp.keras.resize(model, jp.trace(lambda v, x: x @ v, x.T, x), {})


def test_a_size_in_code_is_refused_in_few_words():
    inputs = keras.Input((6,))
    x = L.Lambda(lambda y: keras.ops.reshape(y, (-1, 2, 4)), name="code")(L.Dense(8)(inputs))
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(keras.ops.relu(x))))
    graph = jp.keras.trace(model, np.ones((1, 6), np.float32))
    keep = half(graph)
    assert keep
    with pytest.raises(jp.errors.ResizeError) as caught:
        jp.keras.resize(model, graph, keep)
    text = str(caught.value)
    assert "jp.narrow(graph.fn, graph, keep)" in text
    assert "at the layer 'code'" in text
    assert len(text) < 1500


def test_a_layer_without_a_configuration_is_refused():
    class Held(L.Layer):
        def __init__(self, fn):
            super().__init__()
            self.fn = fn

        def call(self, x):
            return self.fn(x)

    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(2)(Held(keras.ops.relu)(L.Dense(8)(inputs))))
    graph = jp.keras.trace(model, np.ones((1, 6), np.float32))
    with pytest.raises(jp.errors.ResizeError, match=r"'held.*cannot be made anew"):
        jp.keras.resize(model, graph, half(graph))


def test_only_built_models_are_traced():
    with pytest.raises(jp.errors.TraceError, match="is not built"):
        jp.keras.variables(Net())
    with pytest.raises(jp.errors.TraceError, match=r"expected a keras.Model"):
        jp.keras.trace(lambda x: x, np.ones(2))
    model, x = made("subclassed")
    with pytest.raises(jp.errors.TraceError, match="takes no keyword 'trainig'"):
        jp.keras.trace(model, x, trainig=True)
    with pytest.raises(jp.errors.TreeError, match=r"the model has \(6, 8\)"):
        jp.keras.assign(model, {model.first.name: {"kernel": np.ones((6, 4))}})


def test_prune_is_one_call():
    model, x = made("convolutions")
    pruned = jp.keras.prune(model, x, keep_macs=0.5)
    assert pruned.model.count_params() < model.count_params()
    assert jp.cost.macs(jp.keras.trace(pruned.model, x)) <= 0.5 * jp.cost.macs(pruned.graph)


@pytest.mark.parametrize("make", ["Adam", "SGD"])
def test_the_optimizer_goes_on(make):
    model, x = made("convolutions")
    y = np.arange(8.0, dtype=np.float32).reshape(2, 4)
    options = {"momentum": 0.9} if make == "SGD" else {"use_ema": True}
    model.compile(getattr(keras.optimizers, make)(0.01, **options), "mse")
    model.fit(x, y, epochs=2, verbose=0)
    graph = jp.keras.trace(model, x, training=True)
    small = jp.keras.resize(model, graph, half(graph))
    optimizer = jp.keras.resize_optimizer(model.optimizer, small, graph, half(graph))
    assert int(optimizer.iterations.value) == 2
    ours = [v for v in model.optimizer.variables if v.path.endswith("conv_kernel_momentum")]
    theirs = [v for v in optimizer.variables if v.path.endswith("conv_kernel_momentum")]
    np.testing.assert_array_equal(theirs[0].numpy(), ours[0].numpy()[..., ::2])
    small.compile(optimizer, "mse")
    given = jp.keras.variables(small)
    jp.keras.assign(small, given)
    small.fit(x, y, verbose=0)
    jax.tree.map(np.asarray, (given, values(model)))  # `fit` deletes the arrays of its own model
    assert int(model.optimizer.iterations.value) == 2
    with pytest.raises(jp.errors.TraceError, match="expected a Keras optimizer"):
        jp.keras.resize_optimizer("adam", small, graph, half(graph))


def test_factors_of_moments_cannot_be_cut():
    model, x = made("subclassed")
    model.compile(keras.optimizers.Adafactor(), "mse")
    model.optimizer.build(model.trainable_variables)
    graph = jp.keras.trace(model, x)
    small = jp.keras.resize(model, graph, half(graph))
    with pytest.raises(jp.errors.TreeError, match="Fix: compile the resized model with a new"):
        jp.keras.resize_optimizer(model.optimizer, small, graph, half(graph))


def test_keras_is_imported_when_it_is_used_and_must_run_on_jax():
    code = """
import sys, jaxprune as jp
assert "keras" not in sys.modules
try:
    jp.keras.variables(None)
except jp.errors.JaxpruneError as error:
    print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "numpy"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        "it runs on 'numpy'.\nFix: set the environment variable KERAS_BACKEND=jax" in found.stdout
    )


def test_without_keras_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(jp.errors.JaxpruneError, match="Fix: pip install keras"):
        jp.keras.variables(None)
