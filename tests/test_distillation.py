"""Losses from the dense network as teacher, against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

RANDOM = np.random.default_rng(0)


def log_softmax(x: Any) -> Any:
    x = np.float64(x) - np.max(x, axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_logits_are_learned_by_forward_kl() -> None:
    own, teacher = RANDOM.normal(size=(2, 4, 3, 5)).astype(np.float32) * 3
    labels = RANDOM.integers(5, size=(4, 3))

    def hard(logits: Any, labels: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    p, q = log_softmax(teacher / 4), log_softmax(own / 4)
    soft = 16 * (np.exp(p) * (p - q)).sum(-1).mean()
    rows = np.take_along_axis(log_softmax(own), labels[..., None], -1)
    mixed = jp.recover.distillation(temperature=4.0, mix=0.75, loss=hard)
    np.testing.assert_allclose(
        mixed(own, teacher, labels), 0.75 * soft - 0.25 * rows.mean(), rtol=1e-5
    )
    plain = jp.recover.distillation(temperature=4.0)
    slopes = jax.grad(plain, (0, 1))(own, teacher)
    wanted = 4 * (np.exp(q) - np.exp(p)) / 12  # T^2 / T, the mean over 12 examples
    np.testing.assert_allclose(slopes[0], wanted, rtol=1e-4, atol=1e-7)
    assert not np.any(slopes[1])


def test_logits_of_half_precision_are_compared_in_float32() -> None:
    own, teacher = (jnp.asarray(z, jnp.bfloat16) for z in RANDOM.normal(size=(2, 4, 5)))
    p, q = (log_softmax(np.float32(z)) for z in (teacher, own))
    found = jp.recover.distillation()(own, teacher)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, (np.exp(p) * (p - q)).sum(-1).mean(), rtol=1e-5)


def layers(v: Any, x: Any) -> Any:
    """A stream through two stacked layers, and a head."""

    def step(h: Any, w: Any) -> Any:
        return h + jnp.tanh(h @ w["up"]) @ w["down"], None

    return jax.lax.scan(step, x @ v["in"], v["layers"])[0] @ v["head"]


def test_features_are_those_of_the_channels_that_stay() -> None:
    """Of stacked layers, each with its own; the student sliced or masked."""
    shapes = {"in": (4, 6), "head": (6, 3)}
    v: Any = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    stacks = {"up": (2, 6, 5), "down": (2, 5, 6)}
    v["layers"] = {n: RANDOM.normal(size=shape).astype(np.float32) for n, shape in stacks.items()}
    x = RANDOM.normal(size=(7, 4)).astype(np.float32)
    graph = jp.trace(layers, v, x)
    hidden = next(n for n, group in graph.groups.items() if group.layers)
    stream = next(n for n in graph.groups if n != hidden)
    keep = {
        hidden: np.array([[True, False, True, False, True], [False, True, True, True, False]]),
        stream: np.arange(6) % 3 != 1,
    }
    teacher = jax.device_get(jp.tap(layers, graph)(v, x)[1])
    small = jp.slice(graph, v, keep)
    student = jax.device_get(jp.tap(layers, jp.trace(layers, small, x))(small, x)[1])
    assert [len(teacher[name]) for name in (hidden, stream)] == [1, 2]
    (own,), (other,) = student[hidden], teacher[hidden]
    wanted = np.mean([(own[i] - other[i][..., keep[hidden][i]]) ** 2 for i in range(2)])
    for own, other in zip(student[stream], teacher[stream], strict=True):
        wanted += np.mean((own - other[..., keep[stream]]) ** 2)
    loss = jp.recover.feature_loss(graph, keep)
    np.testing.assert_allclose(loss(student, teacher), wanted, rtol=1e-5)
    masked = jax.device_get(jp.tap(layers, graph)(jp.mask(graph, v, keep), x)[1])
    np.testing.assert_allclose(loss(masked, teacher), wanted, rtol=1e-4)
    assert float(jp.recover.feature_loss(graph)(teacher, teacher)) == 0.0
    to_teacher = jax.grad(lambda t: loss(student, t))(teacher)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(to_teacher))
    with pytest.raises(
        jp.errors.JaxpruneError, match=r"float32\[7, 3\]; their last .* \[4, 6\] channels"
    ):
        jp.recover.feature_loss(graph, keep)({stream: [x[:, :3]]}, {stream: teacher[stream][1:]})
