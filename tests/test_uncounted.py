"""What no cost counts is said, and a budget of such a cost warns."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental import sparse

import jaxprune as jp
from jaxprune.errors import UncountedWarning

V = {
    "a": np.ones((4, 6), np.float32),
    "b": np.ones((6, 3), np.float32),
    "q": np.eye(4, dtype=np.float32),
}
X = np.ones((4, 4), np.float32)


def names(fn: Any, v: Any = V, x: Any = X) -> list[str]:
    return [item.name for item in jp.cost.uncounted(jp.trace(fn, v, x))]


def head(v: Any, x: Any) -> Any:
    return jax.nn.relu(x @ v["a"]) @ v["b"]


def _double(x: Any, out: Any) -> None:
    out[...] = 2 * x[...]


PLACES = np.array([[0, 1], [2, 3]])
DOT = (((1,), (0,)), ((), ()))


def _sparse(x: Any) -> sparse.BCOO:
    return sparse.BCOO((x[0, :2], PLACES), shape=(4, 4))


CASES = {
    "fft": lambda v, x: head(v, jnp.fft.fft(x).real),
    "cholesky": lambda v, x: head(v, x @ jax.lax.linalg.cholesky(v["q"])),
    "lu": lambda v, x: head(v, jax.lax.linalg.lu(v["q"] + x)[0]),
    "triangular_solve": lambda v, x: head(
        v, jax.lax.linalg.triangular_solve(v["q"], x, left_side=True)
    ),
    "pure_callback": lambda v, x: head(
        v, jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
    ),
    "ffi_call": lambda v, x: head(
        v, jax.ffi.ffi_call("kernel", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)
    ),
    "pallas_call": lambda v, x: head(
        v, pl.pallas_call(_double, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype))(x)
    ),
    "bcoo_spdot_general": lambda v, x: head(v, (_sparse(x) @ _sparse(v["q"])).todense()),
    "bcoo_dot_general_sampled": lambda v, x: head(
        v,
        sparse.BCOO(
            (sparse.bcoo_dot_general_sampled(x, v["q"], PLACES, dimension_numbers=DOT), PLACES),
            shape=(4, 4),
        ).todense(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operations_that_are_not_counted_are_listed(name: str) -> None:
    assert names(CASES[name]) == [name]


def test_inside_of_programs_with_their_places() -> None:
    def step(x: Any, _: Any) -> Any:
        with jax.named_scope("mixer"):
            return jnp.fft.fft(x).real, None

    def fn(v: Any, x: Any) -> Any:
        x = jax.lax.scan(step, x, None, length=3)[0]
        x = jax.lax.cond(x.sum() > 0, lambda x: jnp.fft.ifft(x).real, lambda x: x, x)
        return head(v, x)

    found = jp.cost.uncounted(jp.trace(fn, V, X))
    assert [item.name for item in found] == ["fft", "fft"]
    assert found[0].place.endswith("mixer")


def test_what_multiplies_no_numbers_is_not_listed() -> None:
    def fn(v: Any, x: Any) -> Any:
        keys = jax.random.split(jax.random.key(0), 4)
        noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
        return head(v, jnp.sort(x + noise)[jnp.argsort(x[:, 0])])

    assert names(fn) == []


def test_single_numbers_are_not_listed() -> None:
    def fn(v: Any, x: Any) -> Any:
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return head(v, x * jax.pure_callback(lambda s: s, shape, x.sum()))

    assert names(fn) == []


def test_integer_kernels_are_listed_and_integer_inputs_are_not() -> None:
    def called(v: Any, x: Any) -> Any:
        shape = jax.ShapeDtypeStruct((4, 4), jnp.int32)
        return head(v, jax.pure_callback(lambda *_: X, shape, x, v["k"]).astype(jnp.float32))

    def counted(v: Any, x: Any) -> Any:
        shape = jax.ShapeDtypeStruct((4, 4), jnp.int32)
        return head(v, jax.pure_callback(lambda _: X, shape, x).astype(jnp.float32))

    v, x = V | {"k": np.ones((4, 4), np.int8)}, np.ones((4, 4), np.int8)
    assert names(called, v, x) == ["pure_callback"]
    assert names(counted, v, x) == []


def test_a_rule_of_the_user_takes_it_off_the_list() -> None:
    rules = jp.RULES | {"fft": lambda op: [op.ins[0]]}
    assert not jp.cost.uncounted(jp.trace(CASES["fft"], V, X, rules=rules))


def graph() -> jp.ChannelGraph:
    def fn(v: Any, x: Any) -> Any:
        for name in "abcde":
            with jax.named_scope(name):
                x = jnp.fft.fft(x).real
        return head(v, x @ jax.lax.linalg.cholesky(v["q"]))

    return jp.trace(fn, V, X)


def test_tables_say_what_is_not_counted() -> None:
    channels = graph()
    lines = [
        "not counted: the MACs of 5 x fft, at a, b, c and 2 more places",
        "not counted: the MACs of 1 x cholesky, at ",
    ]
    for text in (str(channels), str(jp.compare(channels, {}))):
        said = [line for line in text.splitlines() if line.startswith("not counted")]
        assert [line.startswith(start) for line, start in zip(said, lines, strict=True)] == [
            True
        ] * 2
    assert said[0] == lines[0]
    plain = jp.trace(head, V, X)
    assert "not counted" not in str(plain) + str(jp.compare(plain, {}))


@pytest.mark.parametrize("bound", ["keep_macs", "keep_weights", "keep_bytes"])
def test_a_budget_of_what_is_not_counted_warns(bound: str) -> None:
    channels = graph()
    scores = jp.scores.random(channels, jax.random.key(0))
    cost = {"keep_macs": "macs", "keep_weights": "weights", "keep_bytes": "activation_bytes"}
    with pytest.warns(UncountedWarning) as caught:
        jp.select.budget(channels, scores, keep_params=0.9, **{bound: 0.8})
    (warning,) = caught
    assert warning.filename == __file__
    said, _, fix = str(warning.message).partition("\nFix: ")
    assert said.startswith(
        f"{cost[bound]} leave out 6 operations that are not counted (fft, cholesky; "
        "the first at a): "
    )
    assert "keep_params" in fix


def test_a_quota_warns_too_and_parameters_do_not() -> None:
    channels = graph()
    scores = jp.scores.random(channels, jax.random.key(0))
    with pytest.warns(UncountedWarning, match="macs leave out 6 operations"):
        jp.select.global_ratio(channels, scores, prune_ratio=0.1, quota=jp.cost.macs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jp.select.budget(channels, scores, keep_params=0.9)
        jp.select.global_ratio(channels, scores, prune_ratio=0.1, quota=jp.cost.params)
        plain = jp.trace(head, V, X)
        jp.select.budget(plain, jp.scores.l1(plain, V), keep_macs=0.5)
