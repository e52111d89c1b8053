"""Branches whose weights are rows of one array, which code takes apart or a loop steps over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

X = np.ones((2, 4), np.float32)

INDEXED = {
    "by number": lambda v: [v["w"][i] for i in range(3)],
    "one by one": lambda v: [*v["w"]],
    "unstacked": lambda v: jnp.unstack(v["w"]),
    "split": lambda v: [w[0] for w in jnp.split(v["w"], 3)],
}


@pytest.mark.parametrize("name", INDEXED)
def test_rows_of_a_stack_that_code_takes_apart_go_with_their_branch(name: str) -> None:
    v = {"w": np.random.default_rng(0).normal(size=(3, 4, 4)), "o": np.eye(4)}

    def fn(v, x):
        for w in INDEXED[name](v):
            x = x + jnp.tanh(x @ w)
        return x @ v["o"]

    graph = jp.trace(fn, v, X)
    assert list(jp.branches(graph)) == ["+w", "+w#2", "+w#3"]
    keep = {"+w#2": False}
    small = jp.slice(graph, v, keep)
    np.testing.assert_array_equal(small["w"], v["w"][[0, 2]])
    assert jp.cost.params(graph, keep) == 2 * 16 + 16
    assert (jp.unslice(graph, small, keep, into=v)["w"] == v["w"]).all()
    wanted = jp.gated(fn, graph)(v, keep, X)
    np.testing.assert_allclose(jp.narrow(fn, graph, keep)(small, X), wanted, rtol=1e-5)
    with pytest.raises(jp.errors.ResizeError, match=r"jp\.narrow") as caught:
        jp.resize(fn, graph, keep)
    assert "share their weights" not in str(caught.value)


@pytest.mark.parametrize("loop", ["scan", "fori", "while"])
def test_weights_that_a_loop_looks_up_are_no_branches_and_it_is_said(loop: str) -> None:
    def body(w, i, x):
        return x + jnp.tanh(x @ jax.lax.dynamic_index_in_dim(w, i, keepdims=False))

    def fn(v, x):
        w = v["w"]
        if loop == "scan":
            return jax.lax.scan(lambda x, i: (body(w, i, x), None), x, jnp.arange(3))[0]
        if loop == "fori":
            return jax.lax.fori_loop(0, 3, lambda i, x: body(w, i, x), x)
        step = lambda c: (c[0] + 1, body(w, c[0], c[1]))  # noqa: E731
        return jax.lax.while_loop(lambda c: c[0] < 3, step, (0, x))[1]

    graph = jp.trace(fn, {"w": np.ones((3, 4, 4), np.float32)}, X)
    assert not jp.branches(graph)
    text = jp.explain(graph, "+")
    assert "looks up by its counter" in text or "all steps of the loop share these layers" in text


def test_two_scans_of_unlike_length_lose_layers_together() -> None:
    random = np.random.default_rng(0)
    v = {"a": random.normal(size=(2, 4, 4)), "b": random.normal(size=(3, 4, 4)), "o": np.eye(4)}

    def fn(v, x):
        for name in "ab":
            x = jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, v[name])[0]
        return x @ v["o"]

    graph = jp.trace(fn, v, X)
    keep = {"+a": np.array([True, False]), "+b": np.array([True, True, False])}
    wanted = jp.gated(fn, graph)(v, keep, X)
    ours = jp.narrow(fn, graph, keep)(jp.slice(graph, v, keep), X)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)
