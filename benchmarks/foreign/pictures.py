"""Networks in Haiku, Keras, Linen, NNX and Equinox, most of them of images."""

import importlib
from collections.abc import Callable
from typing import Any

import equimo.models
import esm2quinox
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pdequinox
from flax import nnx

import jaxprune as jp
from benchmarks.foreign.model import (
    KEY,
    Model,
    equinox,
    image,
    linen,
    numbers,
    of_nnx,
    plain,
    tokens,
)


def of_haiku(make: Callable[[], Any], size: int) -> Model:
    """Returns a Haiku network in eval mode."""
    net = hk.without_apply_rng(
        hk.transform_with_state(lambda x, train: make()(x, is_training=train))
    )
    x = image(size)
    params, state = jax.eval_shape(lambda: net.init(KEY, x, True))

    def fn(v: Any, x: Any) -> Any:
        return net.apply(v["params"], v["state"], x, False)[0]

    model = plain(fn, {"params": params, "state": state}, x)
    return model._replace(resize=lambda graph, keep: jp.haiku.resize(fn, graph, keep))


def of_keras(name: str, size: int) -> Model:
    """Returns a model of `keras.applications` in eval mode."""
    model = getattr(keras.applications, name)(
        weights=None, classifier_activation=None, input_shape=(size, size, 3)
    )
    x = image(size)
    return Model(
        fn=jp.keras.function(model),
        variables=jp.keras.variables(model),
        inputs=(x,),
        resize=lambda graph, keep: jp.keras.function(jp.keras.resize(model, graph, keep)),
        trace=lambda: jp.keras.trace(model, x),
        output=lambda outputs: outputs[0],
    )


def of_equimo(name: str, size: int, **options: Any) -> Model:
    """Returns an Equinox model of equimo at inference."""
    model = getattr(equimo.models, name)(key=KEY, **options)
    return equinox(
        model, image(size, first=True)[0], call=lambda model, x: model(x, key=KEY, inference=True)
    )


def jaxonmodels_vit() -> Model:
    """Returns the vision transformer of CLIP by jaxonmodels."""
    make = importlib.import_module("jaxonmodels.models.vit").VisionTransformer
    model = make(32, 8, 64, 2, 4, 16, key=KEY, dtype=jnp.float32)
    return equinox(model, image(32, first=True)[0], call=lambda model, x: model(x)[0])


def jaxonmodels_mamba() -> Model:
    """Returns Mamba by jaxonmodels."""
    make = importlib.import_module("jaxonmodels.models.mamba").Mamba
    return equinox(make(n_embd=32, n_dims=100, n_layers=2, key=KEY), tokens(8)[0])


def of_pdequinox(name: str, **options: Any) -> Model:
    """Returns an emulator of a partial differential equation."""
    return equinox(getattr(pdequinox.arch, name)(2, 2, 1, key=KEY, **options), numbers(2, 16, 16))


def esm2() -> Model:
    """Returns ESM-2, whose layers are stacked."""
    model = esm2quinox.ESM2(2, 32, 4, False, key=KEY)
    return equinox(model, tokens(8)[0] % 20 + 4, call=lambda model, x: model(x).logits)


def of_jax_resnet(name: str) -> Model:
    """Returns a network of jax-resnet in eval mode."""
    made = getattr(importlib.import_module("jax_resnet"), name)(n_classes=10)
    x = image(64)
    return linen(made, jax.eval_shape(made.init, KEY, x), x, mutable=False)


def of_flaxmodels(name: str, size: int, **options: Any) -> Model:
    """Returns a network of flaxmodels in eval mode."""
    module = getattr(importlib.import_module("flaxmodels"), name)(
        output="logits", pretrained=None, num_classes=10, **options
    )
    x = np.abs(image(size)) / 4
    shapes = jax.eval_shape(lambda x: module.init(KEY, x, train=False), x)
    return linen(module, shapes, x, train=False)


def jraphx(name: str, **options: Any) -> Model:
    """Returns a network on a graph of 6 nodes and 8 edges."""
    models = importlib.import_module("jraphx.nn.models")
    model = getattr(models, name)(
        in_features=5, hidden_features=16, num_layers=2, out_features=3, rngs=nnx.Rngs(0), **options
    )
    edges = np.random.default_rng(0).integers(0, 6, (2, 8)).astype(np.int32)
    return of_nnx(model, numbers(6, 5), edges)


def nano_moe() -> Model:
    """Returns the mixture of experts of nano-moe-jax."""
    package = importlib.import_module("nano_moe")
    config = importlib.import_module("nano_moe.config").NanoMoEConfig(
        vocab_size=100, n_layers=2, n_heads=4, d_model=32, d_ff=64, block_size=8
    )
    module = package.NanoMoE(config)
    ids = tokens(8)
    return linen(module, jax.eval_shape(lambda x: module.init(KEY, x), ids), ids, output=0)
