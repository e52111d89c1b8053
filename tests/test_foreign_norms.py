"""BatchNorm of Haiku, Keras, Equinox, NNX and by hand with the names of Torch: scores and masks."""

import os

os.environ["KERAS_BACKEND"] = "jax"

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.arguments.paths import flatten
from jaxprune.inspecting.batch_norms import BatchNorm

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(4, 6, 6, 3)).astype(np.float32)
ROW = X[0, 0, :, :]
WIDTH = 5


class Model(NamedTuple):
    """A convolution, a BatchNorm, a depthwise convolution and a layer, with drawn variables.

    run: (variables, x, train) -> (outputs, state). parameters: how many numbers are trained.
    """

    run: Callable[[Any, Any, bool], tuple[Any, Any]]
    variables: Any
    group: str
    norm: BatchNorm
    parameters: int


def drawn(tree: Any) -> Any:
    def draw(leaf: Any) -> Any:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return RANDOM.uniform(0.2, 1.5, leaf.shape).astype(leaf.dtype) if floating else leaf

    return jax.tree.map(draw, tree)


TRAINED = 3 * WIDTH + 2 * WIDTH + WIDTH * 2
"""Of the convolution, the BatchNorm and the head, none with a bias."""


def of_haiku() -> Model:
    def forward(x: Any, train: bool) -> Any:
        x = hk.Conv2D(WIDTH, 1, with_bias=False)(x)
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, train))
        return hk.Linear(2, with_bias=False)(x.mean((1, 2)))

    net = hk.without_apply_rng(hk.transform_with_state(forward))
    params, state = net.init(jax.random.key(0), X, True)

    def run(v: Any, x: Any, train: bool) -> Any:
        return net.apply(v["weights"], v["moving"], x, train)

    variables = {"weights": drawn(params), "moving": drawn(state)}
    ema = "moving/batch_norm/~/{}_ema/average"
    names = BatchNorm(
        "weights/batch_norm/scale",
        "weights/batch_norm/offset",
        *(ema.format(what) for what in ("mean", "var")),
    )
    return Model(run, variables, "weights/conv2_d/w", names, TRAINED)


def of_keras() -> Model:
    model = keras.Sequential(
        [
            keras.layers.Input((6, 6, 3)),
            keras.layers.Conv2D(WIDTH, 1, use_bias=False, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, use_bias=False, name="head"),
        ]
    )
    trained, fixed = (
        [w.path for w in weights]
        for weights in (model.trainable_variables, model.non_trainable_variables)
    )

    def run(v: Any, x: Any, train: bool) -> Any:
        with jax.numpy_rank_promotion("allow"):
            values = [[v[path] for path in paths] for paths in (trained, fixed)]
            out, state = model.stateless_call(*values, x, training=train)
        return out, dict(zip(fixed, state, strict=True))

    variables = drawn({w.path: np.asarray(w.value) for w in model.variables})
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    conv = next(path for path in variables if path.endswith("conv/kernel"))
    norm = next(path for path in variables if path.endswith("gamma")).removesuffix("gamma")
    return Model(run, variables, conv, BatchNorm(*(norm + name for name in names)), TRAINED)


def of_nnx() -> Model:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.conv = nnx.Conv(3, WIDTH, (1, 1), use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)
            self.head = nnx.Linear(WIDTH, 2, use_bias=False, rngs=rngs)

        def __call__(self, x: Any, train: bool) -> Any:
            x = nnx.relu(self.norm(self.conv(x), use_running_average=not train))
            return self.head(x.mean((1, 2)))

    definition, state = nnx.split(Net(nnx.Rngs(0)))

    def run(v: Any, x: Any, train: bool) -> Any:
        whole = nnx.merge(definition, nnx.State(v))
        out = whole(x, train)
        return out, nnx.to_pure_dict(nnx.state(whole, nnx.BatchStat))

    names = BatchNorm(*(f"norm/{name}" for name in ("scale", "bias", "mean", "var")))
    return Model(run, drawn(nnx.to_pure_dict(state)), "conv/kernel", names, TRAINED)


def of_torch() -> Model:
    """By hand, in the layout and with the names of a state dict."""
    shapes = {"conv.weight": (WIDTH, 3), "head.weight": (2, WIDTH)} | {
        f"bn.{name}": (WIDTH,) for name in ("weight", "bias", "running_mean", "running_var")
    }
    variables = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    variables = drawn(variables) | {"bn.num_batches_tracked": np.int32(7)}

    def run(v: Any, x: Any, train: bool) -> Any:
        y = jnp.einsum("nhwc,oc->nohw", x, v["conv.weight"])
        mean, var = v["bn.running_mean"], v["bn.running_var"]
        state = {}
        if train:
            mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3))
            state = {
                "bn.running_mean": 0.9 * v["bn.running_mean"] + 0.1 * mean,
                "bn.running_var": 0.9 * v["bn.running_var"] + 0.1 * var,
                "bn.num_batches_tracked": v["bn.num_batches_tracked"] + 1,
            }
        mean, var, weight, bias = (
            a[None, :, None, None] for a in (mean, var, v["bn.weight"], v["bn.bias"])
        )
        y = jax.nn.relu((y - mean) / jnp.sqrt(var + 1e-5) * weight + bias)
        return y.mean((2, 3)) @ v["head.weight"].T, state

    names = BatchNorm(*(f"bn.{n}" for n in ("weight", "bias", "running_mean", "running_var")))
    return Model(run, variables, "conv.weight", names, TRAINED)


def of_equinox() -> Model:
    """Its train mode needs collectives under vmap: eval mode, with the state apart."""

    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm
        head: eqx.nn.Linear

        def __call__(self, x: Any, state: Any) -> Any:
            x, state = self.norm(self.conv(x), state, inference=True)
            return self.head(jax.nn.relu(x).mean((1, 2))), state

    def make() -> Any:
        key = jax.random.key(0)
        return Net(
            eqx.nn.Conv2d(3, WIDTH, 1, use_bias=False, key=key),
            eqx.nn.BatchNorm(WIDTH, axis_name="batch", mode="batch"),
            eqx.nn.Linear(WIDTH, 2, use_bias=False, key=key),
        )

    model, state = eqx.nn.make_with_state(make)()
    parts, static = eqx.partition(model, eqx.is_array)
    leaves, treedef = jax.tree.flatten(state)

    def run(v: Any, x: Any, _train: bool) -> Any:
        net, moving = eqx.combine(v["model"], static), jax.tree.unflatten(treedef, v["state"])
        call = jax.vmap(net, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        with jax.numpy_rank_promotion("allow"):
            return call(jnp.moveaxis(x, -1, 1), moving)[0], {}

    variables = {"model": drawn(parts), "state": drawn(leaves)}
    paths = [path for path, leaf in flatten(variables["state"])[0].items() if leaf.size == WIDTH]
    norm = BatchNorm(
        "model/norm/weight", "model/norm/bias", *(f"state/{path}" for path in sorted(paths))
    )
    return Model(run, variables, "model/conv/weight", norm, TRAINED)


MAKERS = (of_haiku, of_keras, of_nnx, of_torch, of_equinox)
CASES = [(make, train) for make in MAKERS for train in (False, True) if make is not of_equinox]
CASES.append((of_equinox, False))


def traced(model: Model, train: bool) -> jp.ChannelGraph:
    return jp.trace(lambda v, x: model.run(v, x, train), model.variables, X)


@pytest.mark.parametrize(("make", "train"), CASES)
def test_norms_scores_masks_and_parameters(make: Callable[[], Model], train: bool) -> None:
    model = make()
    graph, (leaves, _) = traced(model, train), flatten(model.variables)
    assert list(jp.batch_norms(graph).values()) == [model.norm]
    scale = np.abs(leaves[model.norm.scale])
    scores = jp.scores.bn_scale(graph, model.variables)
    assert list(scores) == [model.group]
    np.testing.assert_allclose(scores[model.group], scale.ravel(), rtol=1e-6)
    mask = jp.scale_mask(model.variables, graph)
    marked = [path for path, mark in flatten(mask)[0].items() if mark]
    assert marked == [model.norm.scale]
    assert jp.cost.params(graph) == model.parameters
    assert jp.cost.params(graph, {model.group: 2}) == model.parameters // WIDTH * 2
    decorated = jp.gates.decorate(model.variables, graph=graph)
    back = flatten(jp.gates.melt(decorated.variables, graph=graph))[0]
    np.testing.assert_allclose(back[model.norm.bias], leaves[model.norm.bias], rtol=1e-5)
    assert np.any(flatten(decorated.variables)[0][model.norm.bias] != leaves[model.norm.bias])
    trained = flatten(jp.schedule.trainable(graph, model.variables, jp.schedule.Part.GATES))[0]
    assert {model.norm.scale, model.norm.bias} < {path for path, on in trained.items() if on}
    assert jp.select.members(graph) == {model.group: 1}


@pytest.mark.parametrize("make", [of_keras, of_nnx, of_torch])
def test_statistics_are_measured_anew(make: Callable[[], Model]) -> None:
    model = make()
    graph = traced(model, False)

    def update(v: Any, x: Any) -> Any:
        return model.run(v, x, True)[1]

    batches = [X, X + 1]
    found = flatten(jp.recover.recalibrate(update, model.variables, batches, graph=graph))[0]
    kernel = flatten(model.variables)[0][model.group]
    kernel = kernel.reshape(3, WIDTH) if kernel.shape[-1] == WIDTH else kernel.T
    data = np.concatenate([batch.reshape(-1, 3) for batch in batches]) @ kernel
    np.testing.assert_allclose(found[model.norm.mean], data.mean(0), rtol=1e-3)
    np.testing.assert_allclose(found[model.norm.var], data.var(0), rtol=1e-3)


def test_debiased_averages_are_measured_from_the_start_or_refused() -> None:
    model = of_haiku()
    graph = traced(model, False)

    def update(v: Any, x: Any) -> Any:
        return model.run(v, x, True)[1]

    with pytest.raises(jp.errors.JaxpruneError) as caught:
        jp.recover.recalibrate(update, model.variables, [X], graph=graph)
    assert str(caught.value) == (
        f"recalibrate: update makes {model.norm.mean} of other state that it moves, such as "
        "moving/batch_norm/~/mean_ema/hidden, and not of its old value: the moments would be "
        "wrong.\nFix: pass this state as it was at the start (zeros, as init gives it)."
    )
    fresh = model.variables | {"moving": jax.tree.map(np.zeros_like, model.variables["moving"])}
    found = flatten(jp.recover.recalibrate(update, fresh, [X, X + 1], graph=graph))[0]
    kernel = model.variables["weights"]["conv2_d"]["w"].reshape(3, WIDTH)
    data = np.concatenate([X.reshape(-1, 3), X.reshape(-1, 3) + 1]) @ kernel
    np.testing.assert_allclose(found[model.norm.mean].ravel(), data.mean(0), rtol=1e-3)
    np.testing.assert_allclose(found[model.norm.var].ravel(), data.var(0), rtol=1e-3)


def test_absorbing_and_folding_know_these_norms() -> None:
    model = of_torch()
    graph = traced(model, False)
    keep = {model.group: np.arange(WIDTH) > 1}
    absorbed = jp.recover.absorb_constants(graph, model.variables, keep)
    assert [outcome.group for outcome in absorbed.outcomes] == [model.group]
    view = jp.sparsify.fold_batch_norm(graph, epsilon=1e-5)
    seen = view(jax.tree.map(jnp.asarray, model.variables), model.variables)
    factor = model.variables["bn.weight"] / np.sqrt(model.variables["bn.running_var"] + 1e-5)
    expected = model.variables["conv.weight"] * factor[:, None]
    np.testing.assert_allclose(seen["conv.weight"], expected, rtol=1e-5)


def test_nothing_to_mark_and_nothing_to_score() -> None:
    v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, np.ones((1, 2)))
    with pytest.raises(jp.errors.TreeError, match=r"scale_mask\(variables, graph\) finds Batch"):
        jp.scale_mask(v, graph)
    with pytest.raises(jp.errors.ScoreError) as caught:
        jp.scores.bn_scale(graph, v)
    assert str(caught.value) == (
        "no BatchNorm with a scale is behind a group, so no group has a score.\n"
        "Fix: scores.l2 or scores.taylor, or trace with the running statistics as variables."
    )


def test_trees_without_names() -> None:
    """Haiku's parameters and state as a tuple; what eval mode does not read is not a parameter."""

    def forward(x: Any, train: bool) -> Any:
        return hk.Linear(2)(hk.BatchNorm(True, True, 0.9)(hk.Linear(6)(x), train))

    net = hk.without_apply_rng(hk.transform_with_state(forward))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), ROW, True))
    graph = jp.trace(lambda v, x: net.apply(*v, x, False)[0], tuple(shapes), ROW)
    assert jp.cost.params(graph) == 3 * 6 + 6 + 6 + 6 + 6 * 2 + 2
