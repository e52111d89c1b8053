"""What a network is called with on a batch: a tuple of inputs, or keywords."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import stats
from jaxprune.errors import JaxpruneError

X = np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3)
V = {"a": np.cos(np.arange(12, dtype=np.float32)).reshape(3, 4), "b": np.ones((4, 2), np.float32)}
MEAN = {"mean": stats.mean()}


def network(v: Any, x: Any) -> Any:
    return jnp.tanh(x @ v["a"]) @ v["b"]


def named(v: Any, *, x: Any) -> Any:
    return network(v, x)


def test_inputs_are_a_tuple_or_keywords() -> None:
    batch = {"image": X}
    by_name = jp.trace(named, V, x=X)
    found = stats.collect(by_name, V, [batch], MEAN, inputs=lambda batch: {"x": batch["image"]})
    graph = jp.trace(network, V, X)
    expected = stats.collect(graph, V, [batch], MEAN, inputs=lambda batch: (batch["image"],))
    np.testing.assert_array_equal(found["mean"]["a"], expected["mean"]["a"])
    np.testing.assert_allclose(found["mean"]["a"], np.tanh(X @ V["a"]).mean(0), rtol=1e-5)


def test_an_array_is_not_taken_apart() -> None:
    graph = jp.trace(network, V, X)
    with pytest.raises(JaxpruneError, match=r"inputs gave .*, not a tuple of the inputs"):
        stats.collect(graph, V, [{"image": X}], MEAN, inputs=lambda batch: batch["image"])
