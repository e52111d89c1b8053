"""What nothing reads is not compared: a resized network may have it otherwise, or not at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import ResizeError
from jaxprune.program import jaxpr, used_values

RANDOM = np.random.default_rng(0)
V = {
    name: RANDOM.normal(size=shape).astype(np.float32)
    for name, shape in {"a": (6, 8), "b": (8, 3)}.items()
}
X = RANDOM.normal(size=(2, 6)).astype(np.float32)
KEEP = {"a": np.arange(8) < 5}


def network(unread):
    """A network that calls `unread` on its hidden values, of which it goes on with what it gets."""
    return lambda v, x: unread(jnp.tanh(x @ v["a"])) @ v["b"]


def of_a_size(h):
    jnp.zeros((2, h.shape[-1])) + 1.0
    return h


def at_one_size_only(h):
    if h.shape[-1] == 8:
        jnp.sin(jnp.cos(h))
    return h


def a_constant(h):
    jnp.asarray(np.arange(1.0, h.shape[-1] + 1), jnp.float32) * 2
    return h


def a_size(h):
    jnp.sum(h) / h.shape[-1]
    h.reshape(-1)[: h.shape[-1]]
    return h


def inside_a_jit(h):
    return jax.jit(of_a_size)(h)


def result_of_a_jit(h):
    return jax.jit(lambda h: (h * 2, jnp.ones((h.shape[-1], 3)) * 2))(h)[0]


def operand_of_a_jit(h):
    unread = jnp.ones((h.shape[-1], 3)) * 2
    return jax.jit(lambda h, _: h * 2)(h, unread)


def deep_inside(h):
    def inner(h):
        return h * 2, jnp.ones(h.shape[-1]) * 2

    return jax.jit(lambda h: jax.checkpoint(lambda h: jax.jit(inner)(h))(h)[0])(h)


def a_jit_called_twice(h):
    inner = jax.jit(lambda h: (h * 2, jnp.ones(h.shape[-1]) * 2))
    return inner(h)[0] + inner(h * 3)[0]


def steps_of_a_scan(h):
    def step(h, _):
        return jnp.tanh(h), jnp.ones((h.shape[-1],)) * 2

    return jax.lax.scan(step, h, None, length=2)[0]


def in_a_loop(h):
    return jax.lax.while_loop(lambda h: h.sum() > 9e9, at_one_size_only, h)


def a_branch(h):
    def branch(h):
        return h * 2, jnp.ones((h.shape[-1],)) * 2

    return jax.lax.cond(h.sum() > 0, branch, lambda h: (h, jnp.ones((h.shape[-1],))), h)[0]


@pytest.mark.parametrize(
    "unread",
    [
        of_a_size,
        at_one_size_only,
        a_constant,
        a_size,
        inside_a_jit,
        result_of_a_jit,
        operand_of_a_jit,
        deep_inside,
        a_jit_called_twice,
        steps_of_a_scan,
        in_a_loop,
        a_branch,
    ],
)
def test_what_nothing_reads_may_differ(unread):
    fn = network(unread)
    graph = jp.trace(fn, V, X)
    resized = jp.resize(fn, graph, KEEP)
    assert resized.follows == ()
    found = resized(jp.slice(graph, V, KEEP), X)
    np.testing.assert_allclose(found, fn(jp.mask(graph, V, KEEP), X), rtol=1e-5, atol=1e-5)


def reads_a_result(h):
    one, other = jax.jit(lambda h: (h * 2, h * 3))(h)
    return one if h.shape[-1] == 8 else other


def reads_what_was_unread(h):
    unread = h * 3
    return h if h.shape[-1] == 8 else unread


def reads_in_a_jit(h):
    unread = jnp.ones((2, h.shape[-1])) * 3
    return jax.jit(lambda h, y: h if h.shape[-1] == 8 else y)(h * 2, unread)


def sums_what_was_unread(h):
    inner = jax.jit(lambda h: (h * 2, jnp.ones(h.shape) * 2))
    one, other = inner(h)
    return one + other if h.shape[-1] != 8 else one + one


def prints(h):
    if h.shape[-1] != 8:
        jax.debug.callback(lambda: None)
    return h


def prints_inside(h):
    return jax.jit(prints)(h)


def prints_other_values(h):
    change = jnp.sin if h.shape[-1] == 8 else jnp.cos
    jax.debug.callback(lambda _: None, change(jnp.ones(3)))
    return h


@pytest.mark.parametrize(
    "read",
    [
        reads_a_result,
        reads_what_was_unread,
        reads_in_a_jit,
        sums_what_was_unread,
        prints,
        prints_inside,
        prints_other_values,
    ],
)
def test_what_is_read_or_has_effects_is_compared(read):
    fn = network(read)
    graph = jp.trace(fn, V, X)
    with pytest.raises(ResizeError, match="not the same network"):
        jp.resize(fn, graph, KEEP)


def test_values_are_live_through_the_programs_that_read_them():
    def fn(a, b, c):
        first, second = jax.jit(lambda a, b, c: (a + 1, b * c))(a, b, c)
        jnp.sin(second)
        return first

    program, _ = jaxpr.trace(fn, *np.ones((3, 2), np.float32))
    a, b, c = program.invars
    assert {a, b, c} <= used_values.read(program, program.outvars)
    live = used_values.live(program, program.outvars)
    assert a in live
    assert not {b, c} & live
    assert [eqn.primitive.name for eqn in used_values.Live(live).without_dead(program).eqns] == [
        "jit"
    ]
