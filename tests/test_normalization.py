"""BatchNorm is found by what it computes, in every spelling and under any names."""

import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.inspecting import sums_of_products as sums
from jaxprune.inspecting.batch_norms import BatchNorm
from jaxprune.inspecting.normalization import normalizations

RANDOM = np.random.default_rng(0)
EPS = 1e-3
CHANNELS = 6
X = RANDOM.normal(size=(2, 3, 5, 4)).astype(np.float32)
V = {
    "w": RANDOM.normal(size=(4, CHANNELS)).astype(np.float32),
    "u": RANDOM.normal(size=(CHANNELS, 3)).astype(np.float32),
} | {name: RANDOM.uniform(0.5, 1.5, CHANNELS).astype(np.float32) for name in "gbmv"}
"""A layer, one that reads it, and between them: gain, bias, mean and variance."""
NAMES = BatchNorm("g", "b", "m", "v")


@pytest.fixture(autouse=True)
def _ranks_may_differ() -> Any:
    with jax.numpy_rank_promotion("allow"):
        yield


def found(norm: Callable[..., Any], variables: Any = V, x: Any = X) -> list[BatchNorm]:
    """Returns the BatchNorms of a network with `norm(y, variables)` between two layers."""

    def fn(v: Any, x: Any) -> Any:
        out = norm(x @ v["w"], v)
        y, *state = out if isinstance(out, tuple) else (out,)
        return jax.nn.relu(y) @ v["u"], *state

    return list(jp.batch_norms(jp.trace(fn, variables, x)).values())


def folded(y: Any, v: Any) -> Any:
    inverse = v["g"] * jax.lax.rsqrt(v["v"] + EPS)
    return y * inverse + (v["b"] - v["m"] * inverse)


def channels_first(y: Any, v: Any) -> Any:
    gain, bias, mean, var = (v[name][:, None, None] for name in "gbmv")
    y = (y.transpose(0, 3, 1, 2) - mean) / jnp.sqrt(var + EPS) * gain + bias
    return y.transpose(0, 2, 3, 1)


def in_rows(y: Any, v: Any) -> Any:
    rows = y.reshape(-1, CHANNELS)
    return ((rows - v["m"]) / jnp.sqrt(v["v"] + EPS) * v["g"] + v["b"]).reshape(y.shape)


def in_float32(y: Any, v: Any) -> Any:
    gain, bias, mean, var = (v[name].astype(jnp.bfloat16).astype(jnp.float32) for name in "gbmv")
    out = (y.astype(jnp.bfloat16).astype(jnp.float32) - mean) * jax.lax.rsqrt(var + EPS)
    return (out * gain + bias).astype(jnp.bfloat16)


def after_a_bias(y: Any, v: Any) -> Any:
    return (y + v["c"] - v["m"]) * (jax.lax.rsqrt(v["v"] + EPS) * v["g"]) + v["b"]


EVAL: dict[str, Callable[..., Any]] = {
    "divided": lambda y, v: (y - v["m"]) / jnp.sqrt(v["v"] + EPS) * v["g"] + v["b"],
    "Flax": lambda y, v: (y - v["m"]) * (jax.lax.rsqrt(v["v"] + EPS) * v["g"]) + v["b"],
    "scaled first": lambda y, v: v["g"] * (y - v["m"]) / jnp.sqrt(v["v"] + EPS) + v["b"],
    "folded": folded,
    "three terms": lambda y, v: y * (k := v["g"] / jnp.sqrt(v["v"] + EPS)) - v["m"] * k + v["b"],
    "a mean times minus one": lambda y, v: (
        (y + -1.0 * v["m"]) * jax.lax.rsqrt(v["v"] + EPS) * v["g"] + v["b"]
    ),
    "a negative mean added": lambda y, v: (
        (y + -v["m"]) * jax.lax.rsqrt(v["v"] + EPS) * v["g"] + v["b"]
    ),
    "power": lambda y, v: (y - v["m"]) * (v["v"] + EPS) ** -0.5 * v["g"] + v["b"],
    "reciprocal": lambda y, v: (
        (y - v["m"]) * jnp.reciprocal(jnp.sqrt(v["v"] + EPS)) * v["g"] + v["b"]
    ),
    "one over the root": lambda y, v: v["b"] + (1 / (v["v"] + EPS) ** 0.5) * v["g"] * (y - v["m"]),
    "epsilon outside": lambda y, v: (y - v["m"]) / (jnp.sqrt(v["v"]) + EPS) * v["g"] + v["b"],
    "a floor": lambda y, v: (y - v["m"]) / jnp.maximum(jnp.sqrt(v["v"]), EPS) * v["g"] + v["b"],
    "a positive variance": lambda y, v: (
        (y - v["m"]) / jnp.sqrt(jnp.maximum(v["v"], 0) + EPS) * v["g"] + v["b"]
    ),
    "standardize": lambda y, v: (
        jax.nn.standardize(y, axis=(0, 1, 2), mean=v["m"], variance=v["v"], epsilon=EPS) * v["g"]
        + v["b"]
    ),
    "in a jit": jax.jit(lambda y, v: folded(y, v)),
    "in a remat": jax.checkpoint(lambda y, v: folded(y, v)),
    "in a cond": lambda y, v: jax.lax.cond(y.sum() > 0, folded, lambda y, _: y, y, v),
    "channels first": channels_first,
    "in rows": in_rows,
    "in float32": in_float32,
}


@pytest.mark.parametrize("norm", EVAL.values(), ids=EVAL)
def test_eval_mode_in_every_spelling(norm: Callable[..., Any]) -> None:
    assert found(norm) == [NAMES]


def test_a_bias_in_front_is_no_mean() -> None:
    assert found(after_a_bias, V | {"c": V["b"]}) == [NAMES]


def test_leaves_may_have_axes_of_size_one() -> None:
    v = V | {name: V[name][None, None, None] for name in "gbmv"}
    assert found(folded, v) == [NAMES]


def moments(y: Any) -> tuple[Any, Any]:
    mean = y.mean((0, 1, 2))
    return mean, (y * y).mean((0, 1, 2)) - mean**2


def by_var(y: Any) -> tuple[Any, Any]:
    return jnp.mean(y, (0, 1, 2), keepdims=True), jnp.var(y, (0, 1, 2), keepdims=True)


def in_two_steps(y: Any) -> tuple[Any, Any]:
    mean = y.mean((1, 2)).mean(0)
    return mean, ((y - mean) ** 2).mean((1, 2)).mean(0)


def side_by_side(y: Any) -> tuple[Any, Any]:
    both = jnp.concatenate([y.mean((0, 1, 2)), (y**2).mean((0, 1, 2))])
    mean, square = jnp.split(jax.lax.optimization_barrier(both), 2)
    return mean, jnp.clip(square - mean**2, 0)


@pytest.mark.parametrize("measure", [moments, by_var, in_two_steps, side_by_side])
@pytest.mark.parametrize("update", ["weights", "step", "debiased"])
def test_train_mode_in_every_spelling(measure: Any, update: str) -> None:
    def norm(y: Any, v: Any) -> Any:
        mean, var = measure(y)
        out = (y - mean) * (v["g"] * jax.lax.rsqrt(var + EPS)) + v["b"]
        pairs = {"m": mean.reshape(-1), "v": var.reshape(-1)}
        if update == "weights":
            return out, {"s": {k: 0.9 * v[k] + 0.1 * new for k, new in pairs.items()}}
        if update == "step":
            return out, {"s": {k: v[k] + 0.1 * (new - v[k]) for k, new in pairs.items()}}
        hidden = {f"h{k}": 0.9 * v[f"h{k}"] + 0.1 * new for k, new in pairs.items()}
        count = v["t"] + 1
        return out, {"s": {k: hidden[f"h{k}"] / (1 - 0.9**count) for k in "mv"} | hidden}

    v = {name: V[name] for name in "gbwu"}
    state = {name: V[name] for name in "mv"} | {"hm": V["m"], "hv": V["v"], "t": np.int32(3)}

    def split(y: Any, v: Any) -> Any:
        return norm(y, {**v, **v["s"]})

    assert found(split, v | {"s": state}) == [BatchNorm("g", "b", "s/m", "s/v")]


@pytest.mark.parametrize("choose", [jnp.where, None])
def test_both_modes_in_one_program(choose: Any) -> None:
    def norm(y: Any, v: Any) -> Any:
        train, measured = v["train"], moments(y)
        if choose is None:
            mean, var = jax.lax.cond(train, lambda: measured, lambda: (v["m"], v["v"]))
        else:
            mean, var = (choose(train, a, v[b]) for a, b in zip(measured, "mv", strict=True))
        out = (y - mean) * jax.lax.rsqrt(var + EPS) * v["g"] + v["b"]
        return out, {"s": {"m": 0.9 * v["m"] + 0.1 * mean, "v": 0.9 * v["v"] + 0.1 * var}}

    assert found(norm, V | {"train": np.bool_(True)}) == [NAMES]


def test_train_mode_without_statistics() -> None:
    def norm(y: Any, v: Any) -> Any:
        return jax.nn.standardize(y, axis=(0, 1, 2)) * v["g"] + v["b"]

    assert found(norm) == [BatchNorm("g", "b", None, None)]


def test_layers_of_a_stack_and_under_vmap() -> None:
    stacked = {name: np.stack([V[name]] * 3) for name in "gbmv"} | {
        "w": RANDOM.normal(size=(3, CHANNELS, CHANNELS)).astype(np.float32)
    }

    def layer(x: Any, v: Any) -> Any:
        return jax.nn.relu(folded(x @ v["w"], v))

    def scanned(v: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, v: (layer(x, v), None), x, v)[0]

    def mapped(v: Any, x: Any) -> Any:
        return jax.vmap(layer, (None, 0))(x, v).sum(0)

    x = np.ones((2, CHANNELS), np.float32)
    for fn in (scanned, mapped):
        assert list(jp.batch_norms(jp.trace(fn, stacked, x)).values()) == [NAMES]


def over(*axes: int) -> Callable[..., Any]:
    def norm(y: Any, v: Any) -> Any:
        mean, var = y.mean(axes, keepdims=True), y.var(axes, keepdims=True)
        return (y - mean) / jnp.sqrt(var + EPS) * v["g"] + v["b"]

    return norm


def groups(size: int) -> Callable[..., Any]:
    def norm(y: Any, v: Any) -> Any:
        apart = y.reshape(*y.shape[:3], -1, size)
        mean, var = (f(apart, (1, 2, 4), keepdims=True) for f in (jnp.mean, jnp.var))
        apart = (apart - mean) / jnp.sqrt(var + EPS)
        return apart.reshape(y.shape) * v["g"] + v["b"]

    return norm


def standardized_kernel(y: Any, v: Any) -> Any:
    kernel = jnp.tanh(v["w"])
    kernel = (kernel - kernel.mean(0)) / jnp.sqrt(kernel.var(0) + EPS) * v["g"]
    return jnp.tanh(y).sum(-1, keepdims=True) * (X[:1] @ kernel) + v["b"]


OTHERS: dict[str, Callable[..., Any]] = {
    "LayerNorm": over(3),
    "InstanceNorm": over(1, 2),
    "GroupNorm": groups(3),
    "GroupNorm of single channels": groups(1),
    "RMSNorm": lambda y, v: y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + EPS) * v["g"],
    "no mean": lambda y, v: y * jax.lax.rsqrt(v["v"] + EPS) * v["g"] + v["b"],
    "no root": lambda y, v: (y - v["m"]) * v["g"] / (v["v"] + EPS) + v["b"],
    "a sum with the mean": lambda y, v: (y + v["m"]) * jax.lax.rsqrt(v["v"] + EPS) * v["g"],
    "three terms with a sum": lambda y, v: (
        y * (k := v["g"] / jnp.sqrt(v["v"] + EPS)) + v["m"] * k + v["b"]
    ),
    "a mean along another axis": lambda y, v: (
        (y - v["p"][:, None]) * jax.lax.rsqrt(v["v"] + EPS) * v["g"] + v["b"]
    ),
    "a learned center": lambda y, v: (
        (y - v["m"]) * jax.lax.rsqrt(y.var((0, 1, 2)) + EPS) * v["g"] + v["b"]
    ),
    "statistics of two axes": lambda y, v: (
        (y - y.mean((0, 1, 2)))
        / jnp.sqrt(y.var((0, 1, 2)) + y.var((0, 1, 3))[:, None] + EPS)
        * v["g"]
        + v["b"]
    ),
    "a gain below the line": lambda y, v: (y - v["m"]) / (jnp.sqrt(v["v"] + EPS) * v["g"]) + v["b"],
    "two variances": lambda y, v: (y - v["m"]) * jax.lax.rsqrt(v["v"] + v["g"]) + v["b"],
    "scale and shift": lambda y, v: y * v["g"] + v["b"],
    "a normalized kernel": standardized_kernel,
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("norm", OTHERS.values(), ids=OTHERS)
def test_other_normalizations_are_none(norm: Callable[..., Any], batch: int) -> None:
    v = V | {"p": RANDOM.normal(size=5).astype(np.float32)}
    assert found(norm, v, X[:batch]) == []


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm, nn.InstanceNorm, nn.GroupNorm])
@pytest.mark.parametrize("batch", [1, 2])
def test_those_of_flax_are_none(kind: Any, batch: int) -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.Conv(CHANNELS, (1, 1))(x)
            x = kind(num_groups=3)(x) if kind is nn.GroupNorm else kind()(x)
            return nn.Conv(2, (1, 1))(x)

    variables = jax.eval_shape(Net().init, jax.random.key(0), X)
    assert jp.batch_norms(jp.trace(Net().apply, variables, X[:batch])) == {}


def test_a_gain_that_is_no_variable_of_its_own() -> None:
    """One plus a variable: the statistics are found, and no scale that a score could read."""

    def norm(y: Any, v: Any) -> Any:
        return (y - v["m"]) * jax.lax.rsqrt(v["v"] + EPS) * (1 + v["g"]) + v["b"]

    assert found(norm) == [BatchNorm(None, "b", "m", "v")]


def test_a_shift_that_is_subtracted_is_no_bias() -> None:
    def norm(y: Any, v: Any) -> Any:
        return (y - v["m"]) * jax.lax.rsqrt(v["v"] + EPS) * v["g"] - v["b"]

    assert found(norm) == [BatchNorm("g", None, "m", "v")]


@pytest.mark.parametrize("layers", range(1, 30))
def test_a_norm_of_the_sum_of_many_layers(layers: int) -> None:
    def norm(y: Any, v: Any) -> Any:
        y = y + sum(jnp.sin(i * y) for i in range(1, layers))
        inverse = jax.lax.rsqrt(v["v"] + EPS) * v["g"]
        centered = y - v["m"]
        return (inverse * centered if layers % 2 else centered * inverse) + v["b"]

    assert found(norm) == [NAMES]


def test_a_long_stream_takes_no_time() -> None:
    def norm(y: Any, v: Any) -> Any:
        for i in range(1000):
            y = y + jnp.sin(i * y)
        return folded(y, v)

    graph = jp.trace(lambda v, x: norm(x @ v["w"], v) @ v["u"], V, X)
    start = time.process_time()
    assert len(normalizations(graph)) == 1
    assert time.process_time() - start < 1  # 0.02 s on an idle machine


class Stream(nn.Module):
    """Many BatchNorms in a row on one stream, with and without scale and bias."""

    train: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        def norm(x: Any, **options: Any) -> Any:
            return nn.BatchNorm(use_running_average=not self.train, **options)(x)

        x = norm(nn.Conv(CHANNELS, (1, 1))(x))
        for i in range(8):
            y = nn.relu(norm(nn.Conv(CHANNELS, (1, 1), use_bias=i > 4)(x)))
            x = x + norm(nn.Conv(CHANNELS, (1, 1))(y), use_scale=i != 2, use_bias=i != 3)
            x = norm(x)
        return nn.Conv(2, (1, 1))(x)


@pytest.mark.parametrize("train", [True, False])
def test_what_is_computed_is_what_flax_names(train: bool) -> None:
    module = Stream(train=train)
    variables = jax.eval_shape(Stream(train=False).init, jax.random.key(0), X)
    graph = jp.trace(lambda v, x: module.apply(v, x, mutable=["batch_stats"]), variables, X)
    named = jp.batch_norms(variables)
    assert jp.batch_norms(graph) == named
    places = list(graph.variables)
    norms = normalizations(graph)
    computed = {BatchNorm(*(p if p is None else places[p] for p in norm)) for norm in norms}
    assert computed == set(named.values())


def test_several_in_one_place_go_by_the_paths_of_their_scales() -> None:
    v = {
        "w": np.ones((4, 5)),
        "u": np.ones((5, 3)),
        **{f"{name}{i}": np.ones(5) for name in ("gamma", "m", "s") for i in range(2)},
    }

    def fn(v: Any, x: Any) -> Any:
        x = x @ v["w"]
        for i in range(2):
            root = jnp.sqrt(v[f"s{i}"] + EPS)
            x = jax.nn.relu((x - v[f"m{i}"]) / root * v[f"gamma{i}"])
        return x @ v["u"]

    assert jp.batch_norms(jp.trace(fn, v, np.ones((2, 4)))) == {
        "gamma0": BatchNorm("gamma0", None, "m0", "s0"),
        "gamma1": BatchNorm("gamma1", None, "m1", "s1"),
    }


def test_what_is_folded_keeps_the_variables_that_multiply_every_array() -> None:
    scale = sums.Factor("variable", 0, (1,))
    batch = sums.Factor("batch", 1, (1,))
    arrays = [sums.Factor("array", i, ()) for i in range(2)]
    every = {tuple(sorted([array, scale, batch], key=hash)): 1 for array in arrays}
    (product,) = sums.folded(every, 7)
    assert set(product) == {sums.Factor("array", 7, ()), scale}
    mixed = dict.fromkeys([(scale, batch), (scale, arrays[0])], -1)
    assert (scale, arrays[0]) not in sums.folded(mixed, 7)
    assert (scale, batch) in sums.folded(mixed, 7)
