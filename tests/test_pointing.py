"""Positions are renumbered only where that is known to be right; everything else freezes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp

N = 8
V = {"table": np.arange(24, dtype=np.float32).reshape(N, 3), "w": np.ones((3, 2), np.float32)}
IDS = np.array([[0, 3, 5], [7, 5, 3]], np.int32)

# What may be done with a position: every result looks rows of the table up.
PASSES: dict[str, Callable[[Any], Any]] = {
    "reshape": lambda i: i.reshape(-1),
    "transpose": lambda i: i.T,
    "broadcast": lambda i: jnp.broadcast_to(i[None], (2, 2, 3)),
    "slice": lambda i: i[:, 1:],
    "sort": lambda i: jnp.sort(i.reshape(-1)),
    "convert": lambda i: i.astype(jnp.uint8),
    "stop_gradient": lax.stop_gradient,
    "concatenate": lambda i: jnp.concatenate([i, i], 0),
    "clip": lambda i: jnp.clip(i, 0, N - 1),
    "where": lambda i: jnp.where(i == i[::-1], i, i.T.reshape(2, 3)),
    "plus nothing": lambda i: i + 0,
    "looked up": lambda i: i[jnp.array([1, 0])],
    "in a jit": jax.jit(lambda i: i.T),
    "in a remat": jax.checkpoint(lambda i: i.T),
}
# What makes another number of a position.
FREEZES: dict[str, Callable[[Any], Any]] = {
    "add": lambda i: (i + 1) % N,
    "subtract": lambda i: i - 1,
    "multiply": lambda i: i * 1,
    "floor_divide": lambda i: i // 2,
    "remainder": lambda i: i % N,
    "xor": lambda i: i ^ 1,
    "or": lambda i: i | 0,
    "and": lambda i: i & 7,
    "not": lambda i: ~i & 7,
    "shift": lambda i: i >> 1,
    "negate": lambda i: -i + 7,
    "sign": jnp.sign,
    "abs": jnp.abs,
    "power": lambda i: i**2 % N,
    "minimum": lambda i: jnp.minimum(i, 4),
    "maximum": lambda i: jnp.maximum(i, 4),
    "clip to less": lambda i: jnp.clip(i, 0, 3),
    "cumsum": lambda i: jnp.cumsum(i, -1) % N,
    "cummax": lambda i: lax.cummax(i, axis=1),
    "sum": lambda i: i.sum(-1) % N,
    "largest": lambda i: i.max(-1),
    "product": lambda i: i.prod(-1) % N,
    "argmax of positions": lambda i: jnp.argmax(i, -1),
    "top_k of positions": lambda i: lax.top_k(i, 2)[0],
    "dot": lambda i: (i @ i.T) % N,
    "float": lambda i: i.astype(jnp.float32).astype(jnp.int32),
    "a small type": lambda i: (i.astype(bool)).astype(jnp.int32),
    "bitcast": lambda i: lax.bitcast_convert_type(i, jnp.uint32),
    "population_count": lax.population_count,
    "less": lambda i: (i < 4).astype(jnp.int32),
    "equal to a number": lambda i: (i == 3).astype(jnp.int32),
    "compared in order": lambda i: (i < i[::-1]).astype(jnp.int32),
    "zero where": lambda i: jnp.where(i == i[::-1], i, 0),
    "padded": lambda i: jnp.pad(i, 1),
    "scatter": lambda i: jnp.zeros((2, 3), jnp.int32).at[0].set(i[0]),
    "dynamic slice": lambda i: lax.dynamic_slice(jnp.arange(N), (i[0, 0],), (2,)),
    "nonzero": lambda i: jnp.nonzero(i[0], size=2)[0],
    "bincount": lambda i: jnp.bincount(i.reshape(-1), i.reshape(-1), length=N).astype(int) % N,
    "random": lambda i: jax.random.randint(jax.random.key(i[0, 0]), (2,), 0, N),
    "switch": lambda i: lax.switch(i[0, 0], [lambda: 0, lambda: 1])[None],
    "in a scan": lambda i: lax.scan(lambda c, j: (c, j), 0, i)[1],
    "through a loop": lambda i: lax.fori_loop(0, 2, lambda _, j: j, i),
    "in a cond": lambda i: lax.cond(True, lambda j: j, lambda j: j, i),
    "reduced by a function": lambda i: lax.reduce(i, 0, lambda a, b: a + b, (1,)) % N,
}


def network(change: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda v, ids: v["table"][change(ids)] @ v["w"]


def traced(change: Callable[[Any], Any]) -> jp.ChannelGraph:
    return jp.trace(network(change), V, IDS, index_inputs={0: N})


@pytest.mark.parametrize("name", PASSES)
def test_positions_that_pass_look_the_same_rows_up(name: str) -> None:
    graph = traced(PASSES[name])
    kept = np.isin(np.arange(N), IDS)
    keep = {"table[0]": kept}
    fn = network(PASSES[name])
    new = jp.reindexed(jp.reindex(graph, keep), IDS)
    found = jp.narrow(fn, graph, keep)(jp.slice(graph, V, keep), new)
    np.testing.assert_array_equal(found, fn(V, jnp.asarray(IDS)))


@pytest.mark.parametrize("name", FREEZES)
def test_positions_that_become_numbers_freeze_their_axis(name: str) -> None:
    graph = traced(FREEZES[name])
    assert all(
        ("table", 0) not in {(s.path, s.axis) for s in g.slots} for g in graph.groups.values()
    )
    (space,) = graph.index_inputs.values()
    assert isinstance(space, jp.spaces.Atom)
    assert space.reason is not None


def test_every_rule_without_a_word_on_positions_freezes() -> None:
    silent = {name: rule._replace(points=None) for name, rule in jp.RULES.items()}
    graph = jp.trace(
        lambda v, ids: v["table"][ids] @ v["w"], V, IDS, rules=silent, index_inputs={0: N}
    )
    reasons = {(item.path, item.axis): item.reason for item in graph.frozen}
    assert "indexed by" in reasons["table", 0]


def test_what_stands_for_no_position_is_compared_but_not_looked_up() -> None:
    def compared(v: Any, ids: Any) -> Any:
        some = jnp.where(ids == ids[::-1], ids, -1)
        return jax.nn.one_hot(some, N) @ v["table"] @ v["w"]

    kept = np.isin(np.arange(N), IDS)
    graph = jp.trace(compared, V, IDS, index_inputs={0: N})
    keep = {"table[0]": kept}
    new = jp.reindexed(jp.reindex(graph, keep), IDS)
    found = jp.narrow(compared, graph, keep)(jp.slice(graph, V, keep), new)
    np.testing.assert_allclose(found, compared(V, jnp.asarray(IDS)), rtol=1e-6)
    looked_up = traced(lambda ids: jnp.where(ids == ids[::-1], ids, -1))
    assert all(group.size != N for group in looked_up.groups.values())
