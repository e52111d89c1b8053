"""Channels by discrimination: against the algorithm written out for one network."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.errors import JaxpruneError, KeepError
from jaxprune.recover import dcp

RANDOM = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def conv(h: Any, kernel: Any) -> Any:
    return lax.conv_general_dilated(
        h, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    )


def first(v: Any, x: Any) -> Any:
    return jax.nn.relu(x @ v["a"])


def network(v: Any, x: Any) -> Any:
    """Two taps read the first group, a classifier the second, behind a mean over positions."""
    return jnp.tanh(conv(first(v, x), v["b"])).mean(1) @ v["c"] + v["d"][None]


def loss(logits: Any, batch: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch[1][:, None], 1).mean()


V = {"a": normal(3, 5), "b": normal(2, 5, 4), "c": normal(4, 3), "d": normal(3)}
BATCHES = [(normal(6, 5, 3), RANDOM.integers(0, 3, 6)) for _ in range(2)]
GRAPH = jp.trace(network, V, BATCHES[0][0])
RATE, HEAD_RATE, PASSES, WEIGHT = 0.05, 0.3, 2, 0.5


def grown(objective: Any, kernel: Any, axis: int, count: int) -> tuple[list[int], Any]:
    """The greedy algorithm for one reader, whose inputs are along an axis."""
    slope, chosen = jax.jit(jax.grad(objective)), []
    on = np.zeros([1, kernel.shape[axis], 1] if axis else [kernel.shape[0], 1], np.float32)
    for _ in range(count):
        g = np.sum([slope(kernel * on, batch) for batch in BATCHES], 0)
        norms = np.sqrt((g**2).sum(0)).sum(-1) if axis else abs(g).sum(-1)
        norms[chosen] = -1
        chosen.append(int(norms.argmax()))
        on[(0, chosen[-1]) if axis else chosen[-1]] = 1
        for batch in BATCHES:
            kernel = kernel - RATE * on * slope(kernel * on, batch)
    return chosen, np.asarray(kernel * on)


def test_channels_come_in_as_by_the_algorithm() -> None:
    found = dcp(
        GRAPH, V, {"a": 3, "b": 2}, BATCHES, loss=loss, points=["b"], weight=WEIGHT, rate=RATE,
        head_rate=HEAD_RATE, head_passes=PASSES,
    )  # fmt: skip

    def inside(b: Any, x: Any) -> Any:
        return jnp.tanh(conv(first(V, x), b))

    pooled = np.concatenate([inside(V["b"], x).mean(1) for x, _ in BATCHES])
    mean, scale = pooled.mean(0), pooled.std(0)

    def head(w: Any, b: Any, x: Any) -> Any:
        return (inside(b, x).mean(1) - mean[None]) / scale[None] @ w[:-1] + w[-1:]

    w = np.zeros((5, 3), np.float32)
    step = jax.jit(jax.grad(lambda w, batch: loss(head(w, V["b"], batch[0]), batch)))
    for _ in range(PASSES):
        for batch in BATCHES:
            w = w - HEAD_RATE * step(w, batch)
    np.testing.assert_allclose(found.heads["b"].kernel, w[:-1], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.heads["b"].bias, w[-1], rtol=1e-3, atol=1e-5)

    def by_head(b: Any, batch: Any) -> Any:
        h = first(V, batch[0])
        return jnp.square(conv(h, b) - conv(h, V["b"])).mean() / 2 + WEIGHT * loss(
            head(w, b, batch[0]), batch
        )

    chosen, b = grown(by_head, V["b"], 1, 3)
    assert found.chosen["a"] == tuple(chosen)
    np.testing.assert_array_equal(np.flatnonzero(found.keep["a"]), np.sort(chosen))
    np.testing.assert_allclose(found.variables["b"][:, chosen], b[:, chosen], rtol=1e-3, atol=1e-5)
    rest = np.setdiff1d(np.arange(5), chosen)
    np.testing.assert_array_equal(found.variables["b"][:, rest], V["b"][:, rest])

    def by_network(c: Any, batch: Any) -> Any:
        """Behind the last point the loss is that of the network, whose first group is pruned."""
        now, whole = (inside(k, batch[0]).mean(1) for k in (b, V["b"]))
        error = jnp.square(now @ c - whole @ V["c"]).mean() / 2
        return error + WEIGHT * loss(now @ c + V["d"][None], batch)

    chosen, c = grown(by_network, V["c"], 0, 2)
    assert found.chosen["b"] == tuple(chosen)
    np.testing.assert_allclose(found.variables["c"][chosen], c[chosen], rtol=1e-3, atol=1e-5)
    assert found.variables["a"] is V["a"] or np.array_equal(found.variables["a"], V["a"])


def test_outputs_that_were_pruned_before_neither_count_nor_train() -> None:
    """Of two groups the later in the program comes first, as streams do."""
    order = {name: GRAPH.groups[name] for name in ("b", "a")}
    found = dcp(replace(GRAPH, groups=order), V, {"b": 2, "a": 3}, BATCHES, loss=loss,
                rate=RATE, weight=WEIGHT)  # fmt: skip
    kept = found.keep["b"].astype(np.float32)
    c = np.asarray(found.variables["c"]) * kept[:, None]

    def by_network(b: Any, batch: Any) -> Any:
        h, left = first(V, batch[0]), b * kept[None, None]
        logits = jnp.tanh(conv(h, left)).mean(1) @ c + V["d"][None]
        return jnp.square(conv(h, left) - conv(h, V["b"])).mean() / 2 + WEIGHT * loss(logits, batch)

    chosen, b = grown(by_network, V["b"] * kept, 1, 3)
    assert found.chosen["a"] == tuple(chosen)
    got = np.asarray(found.variables["b"])[:, chosen] * kept
    np.testing.assert_allclose(got, b[:, chosen], rtol=1e-3, atol=1e-5)
    gone = ~found.keep["b"]
    np.testing.assert_array_equal(np.asarray(found.variables["b"])[..., gone], V["b"][..., gone])
    assert not np.array_equal(found.variables["b"][..., ~gone], V["b"][..., ~gone])


def test_bad_input() -> None:
    with pytest.raises(JaxpruneError, match=r"recover.dcp: no batches"):
        dcp(GRAPH, V, {"a": 3}, [], loss=loss)
    with pytest.raises(KeepError, match="'a'"):
        dcp(GRAPH, V, {"a": 9}, BATCHES, loss=loss)
    with pytest.raises(JaxpruneError, match=r"nothing reads the points"):
        dcp(GRAPH, V, {"a": 3}, BATCHES, loss=loss, points=["z"])
    with pytest.raises(
        JaxpruneError, match=r"loss must return one real number, got float32\[6, 3\]"
    ):
        dcp(GRAPH, V, {"a": 3}, BATCHES, loss=lambda outputs, _: outputs)
    broken = [(x * np.float32(np.nan), y) for x, y in BATCHES]
    with pytest.raises(
        JaxpruneError, match=r"gradients of group 'a' are not finite, with 0 channels"
    ):
        dcp(GRAPH, V, {"a": 3}, broken, loss=loss)
    flat = jp.trace(first, V, BATCHES[0][0])
    with pytest.raises(KeepError):
        dcp(flat, V, {"a": 3}, BATCHES, loss=loss)
    images = [x for x, _ in BATCHES]
    graph = jp.trace(lambda v, x: first(v, x) @ v["b"][0], V, images[0])
    with pytest.raises(JaxpruneError, match=r"must give \[examples, classes\], got \[6, 5, 4\]"):
        dcp(graph, V, {"a": 3}, images, loss=lambda outputs, _: outputs.mean(), points=["a"])
