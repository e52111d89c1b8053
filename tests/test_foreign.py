"""Complete models of other packages, unmodified, in eval and train mode."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import haiku as hk
import jax
import keras
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.arguments.paths import flatten

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 32, 32, 3)).astype(np.float32)


def of_haiku():
    def forward(x, train):
        return hk.nets.ResNet(
            blocks_per_group=(1, 1, 1, 1),
            num_classes=4,
            channels_per_group=(16, 32, 32, 64),
            resnet_v2=True,
        )(x, is_training=train)

    net = hk.without_apply_rng(hk.transform_with_state(forward))
    params, state = jax.eval_shape(lambda: net.init(jax.random.key(0), X, True))

    def run(v, x, train):
        logits, state = net.apply(v["params"], v["state"], x, train)
        return (logits, state) if train else logits

    return run, {"params": params, "state": state}


def of_keras():
    model = keras.applications.MobileNet(
        alpha=0.25, weights=None, classes=4, classifier_activation=None, input_shape=(32, 32, 3)
    )
    trained, fixed = (
        [w.path for w in weights]
        for weights in (model.trainable_variables, model.non_trainable_variables)
    )

    def run(v, x, train):
        with jax.numpy_rank_promotion("allow"):
            logits, state = model.stateless_call(
                [v[p] for p in trained], [v[p] for p in fixed], x, training=train
            )
        return (logits, dict(zip(fixed, state, strict=True))) if train else logits

    return run, {w.path: jax.ShapeDtypeStruct(w.shape, w.dtype) for w in model.variables}


def drawn(leaf):
    scale = 1.0 if leaf.ndim < 2 else (leaf.size / max(leaf.shape)) ** -0.5
    return (scale * RANDOM.uniform(0.2, 1, leaf.shape)).astype(leaf.dtype)


@pytest.mark.parametrize(
    ("make", "groups", "refusal"),
    [
        (of_haiku, 13, r"'res_net.*/w' with retrieved shape .* does not match shape="),
        (of_keras, 14, "Invalid variable value in StatelessScope"),
    ],
)
def test_foreign_models_prune_in_both_modes(make, groups, refusal):
    run, shapes = make()
    variables = jax.tree.map(drawn, shapes)

    def train(v, x):
        return run(v, x, True)

    def evaluate(v, x):
        return run(v, x, False)

    graph = jp.trace(train, variables, X)
    assert len(graph.groups) == groups
    assert all(group.inexact is None for group in graph.groups.values())
    assert {frozen.reason for frozen in graph.frozen} <= {
        "window of a convolution",
        "axis of output '0'",
        "axis of an input",
        "constant of the function",
    }
    keep = {name: RANDOM.permutation(g.size) % 5 < 3 for name, g in graph.groups.items()}
    small = jp.slice(graph, variables, keep)
    narrow = jax.jit(jp.narrow(evaluate, graph, keep))
    masked = jax.jit(evaluate)(jp.mask(graph, variables, keep), X)
    np.testing.assert_allclose(
        narrow(small, X), masked, rtol=1e-3, atol=1e-4 * np.abs(masked).max()
    )
    updated = jax.eval_shape(jp.narrow(train, graph, keep), small, X)[1]
    kept = {path: np.shape(leaf) for path, leaf in flatten(small)[0].items()}
    for path, leaf in flatten(updated)[0].items():
        assert leaf.shape == kept.get(path, kept.get(f"state/{path}"))
    with pytest.raises(jp.errors.ResizeError, match=refusal):
        jp.resize(train, graph, keep)
