"""Rows of a vocabulary, which the integers of an input point into."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

SIZE = 10
KEPT = np.array([1, 0, 1, 1, 0, 1, 0, 1, 1, 0], bool)
IDS, TARGETS = np.array([[0, 3, 5], [5, 7, 0]]), np.array([[3, 5, 0], [7, 0, 3]])
_RANDOM = np.random.default_rng(0)
V = {
    name: _RANDOM.normal(size=shape).astype(np.float32)
    for name, shape in {"table": (SIZE, 6), "w": (6, 6), "head": (6, SIZE)}.items()
}


def tied(v: Any, ids: Any, targets: Any) -> Any:
    h = jnp.take(v["table"], ids, axis=0)
    logits = (h + jnp.tanh(h @ v["w"])) @ v["table"].T
    chances = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(chances, targets[..., None], -1).mean(), logits


def untied(v: Any, ids: Any, targets: Any) -> Any:
    h = v["table"][ids]
    logits = (h + jnp.tanh(h @ v["w"])) @ v["head"]
    hit = jax.nn.one_hot(targets, logits.shape[-1])
    return -(jax.nn.log_softmax(logits) * hit).sum(-1).mean(), logits


@pytest.mark.parametrize("fn", [tied, untied])
def test_new_ids_give_what_the_whole_network_gives_at_kept_ones(fn: Any) -> None:
    v = V if fn is untied else {name: V[name] for name in ("table", "w")}
    inputs = {"ids": SIZE, "targets": SIZE}
    graph = jp.trace(fn, v, IDS, TARGETS, index_inputs=inputs, free_outputs=["1"])
    keep = {name: KEPT for name, group in graph.groups.items() if group.size == SIZE}
    assert list(keep) == (["table[0]"] if fn is tied else ["head", "table[0]"])
    new = jp.reindex(graph, keep, input="ids")
    ids, targets = (jp.reindexed(new, x) for x in (IDS, TARGETS))
    small = jp.slice(graph, v, keep)
    loss, logits = jp.narrow(fn, graph, keep)(small, ids, targets)
    np.testing.assert_allclose(logits, fn(v, IDS, TARGETS)[1][..., KEPT], rtol=1e-5, atol=1e-5)
    hand = {"table": v["table"][KEPT], "w": v["w"]}
    hand |= {"head": v["head"][:, KEPT]} if fn is untied else {}
    np.testing.assert_allclose(loss, fn(hand, ids, targets)[0], rtol=1e-5)
    np.testing.assert_allclose(jp.masked(fn, graph)(v, keep, IDS, TARGETS)[0], loss, rtol=1e-5)
    resized = jp.resize(fn, graph, keep)
    assert jp.verify(graph, fn, keep, v, IDS, TARGETS, resized=resized).resized == "exact"
    spec = jp.spec(graph, keep)
    assert (jp.reindex(graph, jp.keep_from_spec(spec, graph), input=0) == new).all()


def test_ids_are_checked_on_the_host() -> None:
    graph = jp.trace(tied, V, IDS, TARGETS, index_inputs={"ids": SIZE}, free_outputs=["*"])
    new = np.where(KEPT, np.cumsum(KEPT) - 1, -1)
    with pytest.raises(jp.errors.KeepError, match=r"ids \[1, 4\] are pruned"):
        jp.reindexed(new, [1, 2, 4])
    with pytest.raises(jp.errors.KeepError, match="from 0 to 9, got"):
        jp.reindexed(new, [-1, 10])
    with pytest.raises(jp.errors.KeepError, match="unknown=4 is pruned itself"):
        jp.reindexed(new, [1], unknown=4)
    with pytest.raises(jp.errors.KeepError, match="ids are traced"):
        jax.jit(lambda ids: jp.reindexed(new, ids))(IDS)
    with pytest.raises(jp.errors.KeepError, match="'w' does not point into an axis"):
        jp.reindex(graph, {}, input="w")
    assert jp.reindexed(new, [1, 2], unknown=3).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"nope": SIZE}, "'nope', which is no input of integers"),
        ({"ids": 0}, "the size of 'ids' is 0"),
        (["ids"], "must be {input: size}"),
    ],
)
def test_what_cannot_index_is_refused(given: Any, text: str) -> None:
    with pytest.raises(jp.errors.TraceError, match=text):
        jp.trace(tied, V, IDS, TARGETS, index_inputs=given)
