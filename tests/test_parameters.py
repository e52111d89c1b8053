"""Parameters are told from state by what the function does with a leaf."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.inspecting.parameters import parameters

X = np.ones((2, 4), np.float32)
WEIGHTS = {"a": np.ones((4, 6), np.float32), "b": np.ones((6, 3), np.float32)}


def of(fn: Any, variables: Any, x: Any = X) -> set[str]:
    return set(parameters(jp.trace(fn, variables, x)))


def chain(v: Any, x: Any) -> Any:
    return jax.nn.relu(x.astype(v["a"].dtype) @ v["a"]) @ v["b"]


TYPES = "bool uint8 int8 int4 uint4 int32 float16 bfloat16 float8_e4m3fn float32 complex64".split()


@pytest.mark.parametrize("dtype", TYPES)
def test_weights_of_every_type_count(dtype: str) -> None:
    """A mask of bools is not a parameter, not even one that is multiplied."""
    v = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, jnp.dtype(dtype)), WEIGHTS)

    def fn(v: Any, x: Any) -> Any:
        a, b = (v[name].astype(jnp.complex64) for name in "ab")
        return jnp.abs(x.astype(jnp.complex64) @ a @ b)

    graph = jp.trace(fn, v, X)
    assert parameters(graph) == (() if dtype == "bool" else ("a", "b"))
    if dtype != "bool":
        assert jp.cost.params(graph) == 4 * 6 + 6 * 3
        scores = jp.scores.random(graph, jax.random.key(0))
        keep = jp.select.budget(graph, scores, keep_params=0.5)
        assert keep["a"].sum() == 3


def test_quantized_layers_with_scales_and_zero_points() -> None:
    v = {
        "kernel": np.ones((4, 6), np.int8),
        "scale": np.ones(6, np.float32),
        "zero": np.int32(3),
        "zeros": np.ones(6, np.uint8),
        "bias": np.ones(6, np.int32),
        "table": np.ones((9, 4), np.int8),
        "head": np.ones((6, 3), np.float32),
        "step": np.int32(7),
    }

    def fn(v: Any, tokens: Any) -> Any:
        x = v["table"][tokens].astype(jnp.int32)
        w = v["kernel"].astype(jnp.int32) - v["zero"] - v["zeros"][None].astype(jnp.int32)
        y = (x @ w + v["bias"][None]) * v["scale"][None]
        return y @ v["head"] * (1.0 + v["step"])

    graph = jp.trace(fn, v, np.array([1, 2]))
    assert set(parameters(graph)) == set(v) - {"step"}
    assert jp.cost.params(graph) == 24 + 6 + 1 + 6 + 6 + 36 + 18


def test_what_only_says_which_is_no_parameter() -> None:
    v = WEIGHTS | {
        "ids": np.arange(2),
        "limit": np.ones((2, 1), np.int32),
        "order": np.arange(2),
        "shift": np.zeros(2, np.int32),
        "mask": np.ones((2, 6), bool),
        "key": jax.random.key(0),
        "raw": jax.random.PRNGKey(1),
        "at": np.int32(0),
        "label": np.arange(2),
    }

    def fn(v: Any, x: Any) -> Any:
        x = x[v["ids"]].at[v["order"]].add(1.0)
        x = jnp.where(v["limit"] > 0, x, 0.0)
        x = jnp.take_along_axis(x, (v["order"] + v["shift"])[:, None], 0)
        x = jax.lax.dynamic_slice(x, (v["at"], 0), (2, 4))
        noise = jax.random.normal(v["key"], x.shape) + jax.random.uniform(v["raw"], x.shape)
        y = jnp.where(v["mask"], (x + noise) @ v["a"], 0.0)
        return y @ v["b"] + jax.nn.one_hot(v["label"], 3)

    assert of(fn, v) == {"a", "b"}


def test_state_that_the_function_updates() -> None:
    v = WEIGHTS | {"cache": np.ones((2, 6), np.float32), "ema": np.ones(6), "u": np.ones(4)}

    def fn(v: Any, x: Any) -> Any:
        y = jnp.tanh(x * v["u"][None] @ v["a"])
        cache = 0.5 * v["cache"] + y
        u = v["u"] / jnp.sqrt((v["u"] ** 2).sum())
        return cache @ v["b"], {"s": {"cache": cache, "ema": 0.9 * v["ema"] + y.mean(0), "u": u}}

    def nested(v: Any, x: Any) -> Any:
        return fn(v["p"] | v["s"], x)

    state = {name: v[name] for name in ("cache", "ema", "u")}
    assert of(nested, {"p": WEIGHTS, "s": state}) == {"p/a", "p/b"}


def test_what_is_returned_as_it_was_is_not_updated() -> None:
    assert of(lambda v, x: (chain(v["v"], x), v), {"v": WEIGHTS}) == {"v/a", "v/b"}


def test_weights_that_are_returned_beside_state_that_moves() -> None:
    def fn(v: Any, x: Any) -> Any:
        y = chain(v["p"], x)
        return y, {"p": v["p"], "s": {"mean": 0.9 * v["s"]["mean"] + 0.1 * y.mean(0)}}

    assert of(fn, {"p": WEIGHTS, "s": {"mean": np.ones(3, np.float32)}}) == {"p/a", "p/b"}


def test_a_training_step_updates_its_parameters() -> None:
    def step(v: Any, x: Any) -> Any:
        loss, slopes = jax.value_and_grad(lambda v: chain(v, x).sum())(v["v"])
        return loss, {"v": jax.tree.map(lambda w, g: w - 0.1 * g, v["v"], slopes)}

    assert of(step, {"v": WEIGHTS}) == {"v/a", "v/b"}
    assert of(lambda v, x: step(v, x)[1], {"v": WEIGHTS}) == {"v/a", "v/b"}


def test_what_the_call_does_not_read_is_none() -> None:
    v = WEIGHTS | {"aux": np.ones((6, 2), np.float32), "dead": np.ones(4, np.float32)}

    def fn(v: Any, x: Any) -> Any:
        jnp.sin(v["dead"])
        return chain(v, x)

    assert of(fn, v) == {"a", "b"}


def test_through_control_flow() -> None:
    names = "carried scanned looped bound chosen other which idle inner".split()
    v = {name: np.ones((4, 4), np.float32) for name in names}
    v |= {"scanned": np.ones((3, 4, 4), np.float32), "which": np.ones((4, 4), np.int32)}
    v |= {"times": np.ones((1, 1), np.int32), "pick": np.ones(1, np.int32)}

    def fn(v: Any, x: Any) -> Any:
        x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w @ v["carried"]), None), x, v["scanned"])[0]
        x, _ = jax.lax.while_loop(
            lambda c: c[1] < v["times"][0, 0], lambda c: (c[0] @ v["looped"], c[1] + 1), (x, 0)
        )
        pred = (x.sum() > v["bound"].sum()) & (v["which"].sum() > 0)
        x = jax.lax.cond(pred, lambda x: x @ v["chosen"], lambda x: x @ v["other"], x)
        x = jax.lax.switch(v["pick"][0], [lambda x: x, lambda x: 2 * x], x)
        x = jax.lax.scan(lambda x, _: (jnp.tanh(x @ v["inner"]), x), x, None, length=3)[1][-1]
        return jax.checkpoint(jax.jit(lambda x: x * 2.0))(x)

    assert of(fn, v) == set(v) - {"which", "idle", "times", "pick"}


def test_a_collection_of_parameters_is_taken_at_its_word() -> None:
    v = {"params": WEIGHTS | {"count": np.ones(3, np.int32)}, "extra": {"c": np.ones((3, 3))}}

    def fn(v: Any, x: Any) -> Any:
        return chain(v["params"], x) @ v["extra"]["c"]

    assert of(fn, v) == {"params/a", "params/b", "params/count"}
    paths = ("p/a", "p/b", "extra/c")
    renamed = {"p": WEIGHTS, "extra": v["extra"]}
    assert of(lambda v, x: chain(v["p"], x) @ v["extra"]["c"], renamed) == set(paths)


def test_complex_numbers_in_an_nnx_state() -> None:
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            kind = {"param_dtype": jnp.complex64, "rngs": rngs, "use_bias": False}
            self.up = nnx.Linear(4, 8, **kind)
            self.norm = nnx.BatchNorm(8, rngs=rngs, use_running_average=True)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.down = nnx.Linear(8, 2, **kind)

        def __call__(self, x: Any) -> Any:
            return jnp.abs(self.down(self.drop(self.norm(jnp.abs(self.up(x))))))

    graph = jp.nnx.trace(Net(nnx.Rngs(0)), X)
    names = ("down/kernel", "norm/bias", "norm/scale", "up/kernel")
    assert sorted(parameters(graph)) == list(names)
    assert jp.cost.params(graph) == 16 + 16 + 32
