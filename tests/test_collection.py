"""Garbage collection is held off while a function is traced, and is then as before."""

import gc
import inspect
import threading

import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.program import collection, jaxpr

V = {"a": np.ones((2, 4), np.float32), "b": np.ones((4, 3), np.float32)}
X = np.ones((1, 2), np.float32)
LONG = 600
"""Seconds after which a thread is not slow but stuck."""


@pytest.fixture(autouse=True)
def _on():
    before = gc.get_threshold()
    gc.enable()
    gc.set_threshold(700, 10, 10)
    yield
    gc.enable()
    gc.set_threshold(*before)
    assert collection._held == 0


def network(v, x):
    return jnp.tanh(x @ v["a"]) @ v["b"]


def seen(states):
    """A network that notes whether garbage is collected while it is traced."""

    def fn(v, x):
        states.append(gc.isenabled())
        return network(v, x)

    return fn


def test_nothing_is_collected_inside_of_a_trace():
    states = []
    graph = jp.trace(seen(states), V, X)
    assert gc.isenabled()
    jp.resize(seen(states), graph, {"a": np.arange(4) < 2})
    assert gc.isenabled()
    assert len(states) >= 2
    assert not any(states)


def test_collections_wait():
    collected, during = [], []

    def note(phase, info):
        if phase == "start":
            collected.append(info["generation"])

    def fn(v, x):
        before = len(collected)
        garbage = [[i] for i in range(20_000)]
        for item in garbage:
            item.append(item)
        during.append(len(collected) - before)
        return network(v, x)

    gc.callbacks.append(note)
    try:
        fn(V, X)
        jaxpr.trace(fn, V, X)
    finally:
        gc.callbacks.remove(note)
    alone, traced = during
    assert alone > 0
    assert traced == 0


def test_what_was_off_stays_off():
    gc.disable()
    jp.trace(network, V, X)
    assert not gc.isenabled()


@pytest.mark.parametrize("on", [True, False])
def test_it_is_as_before_where_the_function_raises(on):
    def fn(v, x):
        return v["here"] @ x

    if not on:
        gc.disable()
    for _ in range(2):
        with pytest.raises(KeyError, match="here"):
            jp.trace(fn, V, X)
        assert gc.isenabled() == on


def test_a_trace_in_a_trace():
    states = []

    def fn(v, x):
        jp.trace(network, V, X)
        states.append(gc.isenabled())
        with pytest.raises(jp.errors.TraceError), collection.held_off():
            jp.trace(network, {"a": "text"}, X)
        states.append(gc.isenabled())
        return network(v, x)

    jp.trace(fn, V, X)
    assert states == [False, False]
    assert gc.isenabled()


@pytest.mark.parametrize("on", [True, False])
def test_the_last_of_several_threads_turns_it_on_again(on):
    if not on:
        gc.disable()
    first_is_in, second_is_in, first_may_end = (threading.Event() for _ in range(3))
    states = []

    def first():
        with collection.held_off():
            first_is_in.set()
            first_may_end.wait(LONG)

    def second():
        first_is_in.wait(LONG)
        with collection.held_off():
            second_is_in.set()
            ending.join(LONG)
            states.append(gc.isenabled())
        states.append(gc.isenabled())

    ending, other = threading.Thread(target=first), threading.Thread(target=second)
    ending.start()
    other.start()
    second_is_in.wait(LONG)
    first_may_end.set()
    other.join(LONG)
    assert states == [False, on]


def test_many_threads_leave_it_on():
    threads = [threading.Thread(target=jp.trace, args=(network, V, X)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not any(thread.is_alive() for thread in threads)
    assert gc.isenabled()


def test_trace_is_still_the_function_that_it_was():
    assert list(inspect.signature(jp.trace).parameters)[:2] == ["fn", "variables"]
    assert jp.trace.__doc__.startswith("Returns the channel graph")
