"""Channels of activations that a slice leaves out: no group, unless something else reads them."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

RANDOM = np.random.default_rng(0)
SHAPES = {"a": (6, 16), "c": (16,), "b": (8, 3)}
V = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
X = RANDOM.normal(size=(2, 6)).astype(np.float32)
TEXT = "channels that nothing reads"


def hidden(v, x):
    return jnp.tanh(x @ v["a"] + v["c"][None])


def first(v, x):
    return hidden(v, x)[..., :8] @ v["b"]


def last(v, x):
    return hidden(v, x)[..., -8:] @ v["b"]


def middle(v, x):
    return hidden(v, x)[..., 4:12] @ v["b"]


def of_its_length(v, x):
    return hidden(v, x)[..., : v["b"].shape[0]] @ v["b"]


def twice(v, x):
    y = hidden(v, x)
    return y[..., :12][..., :8] @ v["b"] + y[..., :8] @ v["b"]


def with_dead_readers(v, x):
    y = hidden(v, x)
    y[..., 8:].sum()
    return y[..., :8] @ v["b"]


def in_a_jit(v, x):
    return jax.jit(lambda y, b: y[..., :8] @ b)(hidden(v, x), v["b"])


def result_of_a_jit(v, x):
    y, z = jax.jit(lambda y: (y[..., :8] * 2, y[..., 8:].sum()))(hidden(v, x))
    return (y, z)[0] @ v["b"]


def in_a_scan(v, x):
    y = hidden(v, x)

    def step(z, _):
        return jnp.tanh(z + y[..., :8]), None

    return jax.lax.scan(step, y[..., :8], None, length=2)[0] @ v["b"]


LEAVE_OUT = [
    first,
    last,
    middle,
    of_its_length,
    twice,
    with_dead_readers,
    in_a_jit,
    result_of_a_jit,
    in_a_scan,
]


@pytest.mark.parametrize("fn", LEAVE_OUT)
def test_what_nothing_reads_is_not_a_group(fn):
    graph = jp.trace(fn, V, X)
    assert {name: group.size for name, group in graph.groups.items()} == {"a": 8}
    sizes = {}
    for frozen in graph.frozen:
        if frozen.reason == TEXT:
            sizes[frozen.path] = sizes.get(frozen.path, 0) + frozen.size
    assert sizes == {"a": 8, "c": 8}
    keep = {"a": np.arange(8) % 2 == 0}
    found = jp.narrow(fn, graph, keep)(jp.slice(graph, V, keep), X)
    np.testing.assert_allclose(found, fn(jp.mask(graph, V, keep), X), rtol=1e-5, atol=1e-5)


def half_read(v, x):
    return jnp.split(hidden(v, x), 2, axis=-1)[1] @ v["b"]


def test_parts_of_a_split_go_together_also_if_nothing_reads_one():
    graph = jp.trace(half_read, V, X)
    assert [group.size for group in graph.groups.values()] == [8, 8]
    alike = {name: np.arange(8) % 2 == 0 for name in graph.groups}
    run, small = jp.resize(half_read, graph, alike), jp.slice(graph, V, alike)
    expected = half_read(jp.mask(graph, V, alike), X)
    np.testing.assert_allclose(run(small, X), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(jp.errors.ResizeError):
        jp.resize(half_read, graph, {"a[1.1]": alike["a[1.1]"]})


def normalized(v, x):
    y = hidden(v, x)
    return (y / jnp.linalg.norm(y, axis=-1, keepdims=True))[..., :8] @ v["b"]


def normalized_last(v, x):
    y = hidden(v, x)
    return (y / jnp.linalg.norm(y, axis=-1, keepdims=True))[..., 8:] @ v["b"]


def normalized_middle(v, x):
    y = hidden(v, x)
    return (y / jnp.linalg.norm(y, axis=-1, keepdims=True))[..., 4:12] @ v["b"]


def both_halves(v, x):
    y = hidden(v, x)
    return (y[..., :8] * y[..., 8:]) @ v["b"]


def read_elsewhere(v, x):
    y = hidden(v, x)
    return y[..., :8] @ v["b"], y.sum(axis=-1)


def read_in_a_jit(v, x):
    y, z = jax.jit(lambda y: (y[..., :8] * 2, y[..., 8:].sum()))(hidden(v, x))
    return y @ v["b"] + z


def printed(v, x):
    y = hidden(v, x)
    jax.debug.callback(lambda _: None, y[..., 8:].sum())
    return y[..., :8] @ v["b"]


READERS = [
    normalized,
    normalized_last,
    normalized_middle,
    both_halves,
    read_elsewhere,
    read_in_a_jit,
    printed,
]


@pytest.mark.parametrize("fn", READERS)
def test_what_anything_else_reads_can_be_pruned(fn):
    graph = jp.trace(fn, V, X)
    assert not any(frozen.reason == TEXT for frozen in graph.frozen)
    assert sum(group.size for group in graph.groups.values()) == (8 if fn is both_halves else 16)
    v = V | {"c": np.zeros_like(V["c"])}
    keep = {name: np.arange(g.size) % 3 != 1 for name, g in graph.groups.items() if not g.inexact}
    assert keep
    found = jp.narrow(fn, graph, keep)(jp.slice(graph, v, keep), X)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, found, fn(jp.mask(graph, v, keep), X))


def test_a_free_output_reads():
    def fn(v, x):
        y = hidden(v, x)
        return {"logits": y[..., :8] @ v["b"], "features": y}

    graph = jp.trace(fn, V, X, free_outputs=["features"])
    assert [group.size for group in graph.groups.values()] == [8, 8]


class Half(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        y = nn.Dense(16, name="wide")(x)
        y = nn.BatchNorm(use_running_average=not train, name="norm")(y)
        return nn.Dense(3, name="head")(nn.relu(y)[..., :8])


@pytest.mark.parametrize("train", [False, True])
def test_statistics_alone_do_not_read(train):
    module = Half()
    v = module.init(jax.random.key(0), X)

    def fn(v, x):
        return module.apply(v, x, train=train, mutable=["batch_stats"] if train else False)

    graph = jp.trace(fn, v, X)
    assert [group.size for group in graph.groups.values()] == [8]
    keep = {name: np.arange(8) < 5 for name in graph.groups}
    run = jp.narrow(fn, graph, keep)(jp.slice(graph, v, keep), X)
    masked = fn(jp.mask(graph, v, keep), X)
    first = (lambda out: out[0]) if train else (lambda out: out)
    np.testing.assert_allclose(first(run), first(masked), rtol=1e-5, atol=1e-5)


def test_explain_says_why_and_the_way_out():
    graph = jp.trace(first, V, X)
    assert f"frozen: 2 x {TEXT}" in str(graph)
    assert (
        "a part of size 8 cannot be pruned: a slice leaves these channels out, and nothing else "
        "reads them, by slice at "
    ) in jp.explain(graph, "a")
    assert "way out: make the layer narrower: no output depends on them" in jp.explain(graph)


def table(v, x):
    return (hidden(v, x) * jnp.asarray(np.arange(16.0, dtype=np.float32)[None])) @ v["w"]


def counted(v, x):
    return (hidden(v, x) * jnp.arange(16.0)[None]) @ v["w"]


@pytest.mark.parametrize(
    ("fn", "reason"), [(table, "constant of the function"), (counted, "counted by iota")]
)
def test_what_a_constant_freezes_says_what_frees_it_and_the_price(fn, reason):
    v = {"a": V["a"], "c": V["c"], "w": np.ones((16, 3), np.float32)}
    graph = jp.trace(fn, v, X)
    line = next(line for line in str(graph).splitlines() if reason in line)
    assert line == (
        f"frozen: 3 x {reason}; trace(..., free_constants=True) frees it for jp.narrow, not for a "
        "resize that recomputes it"
    )
    text = jp.explain(graph, "a")
    assert "or trace(..., free_constants=True): then jp.narrow cuts it, but a resize is" in text
    graph = jp.trace(fn, v, X, free_constants=True)
    assert [*graph.groups] == ["a"]
    keep = {"a": np.arange(16) % 2 == 0}
    small = jp.slice(graph, v, keep)
    found = jp.narrow(fn, graph, keep)(small, X)
    np.testing.assert_allclose(found, fn(jp.mask(graph, v, keep), X), rtol=1e-5, atol=1e-5)
    with pytest.raises(jp.errors.ResizeError):
        jp.resize(fn, graph, keep)
