"""Recalibrated statistics are the moments of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxprune.errors import JaxpruneError, TreeError
from jaxprune.recover import recalibrate


class Network(nn.Module):
    """Two BatchNorms; the second sees an affine image of what the first one gives out."""

    momenta: tuple[float, float] = (0.9, 0.9)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        first, second = self.momenta
        x = nn.BatchNorm(use_running_average=not train, momentum=first)(x)
        x = nn.Dense(3)(x)
        return nn.BatchNorm(use_running_average=not train, momentum=second, use_scale=False)(x)


def setup(momenta=(0.9, 0.9), *, count=2):
    model = Network(momenta)
    rng = np.random.default_rng(0)
    scale, shift = np.array([0.1, 1.0, 30.0, 1.0]), np.array([0.0, 2.0, -50.0, 0.5])
    batches = [
        (rng.normal(size=(16, 5, 5, 4)) * scale + shift * (1 + number)).astype(np.float32)
        for number in range(count)
    ]
    variables = model.init(jax.random.key(0), jnp.asarray(batches[0]))

    def update(v, x):
        return model.apply(v, x, train=True, mutable=["batch_stats"])[1]["batch_stats"]

    return update, variables, batches


def moments(batches) -> tuple[np.ndarray, np.ndarray]:
    data = np.concatenate(batches).astype(np.float64)
    return data.mean(axis=(0, 1, 2)), data.var(axis=(0, 1, 2))


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("count", [1, 3])
def test_equals_the_moments_of_the_data(momentum, count):
    update, variables, batches = setup((momentum, 0.97), count=count)
    got = recalibrate(update, variables, batches)
    dense = variables["params"]["Dense_0"]
    normalized = [(b - moments([b])[0]) / np.sqrt(moments([b])[1] + 1e-5) for b in batches]
    hidden = [
        b @ np.asarray(dense["kernel"], np.float64) + np.asarray(dense["bias"]) for b in normalized
    ]
    for name, data in (("BatchNorm_0", batches), ("BatchNorm_1", hidden)):
        mean, var = moments(data)
        np.testing.assert_allclose(got["batch_stats"][name]["mean"], mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got["batch_stats"][name]["var"], var, rtol=1e-5)


def test_does_not_depend_on_the_old_statistics_or_touch_the_rest():
    update, variables, batches = setup()
    old = jax.tree.map(lambda leaf: leaf + 7.0, variables["batch_stats"])
    got = recalibrate(update, variables, batches)
    again = recalibrate(update, {**variables, "batch_stats": old}, iter(batches))
    jax.tree.map(np.testing.assert_array_equal, got, again)
    assert jax.tree.structure(got) == jax.tree.structure(variables)
    assert all(
        a is b
        for a, b in zip(
            jax.tree.leaves(got["params"]), jax.tree.leaves(variables["params"]), strict=True
        )
    )


def test_the_step_is_compiled_once():
    update, variables, batches = setup(count=4)
    traces = []

    def counted(v, x):
        traces.append(x.shape)
        return update(v, x)

    recalibrate(counted, variables, batches)
    assert len(traces) == 1


def test_the_collection_may_be_named():
    update, variables, batches = setup()
    named = recalibrate(lambda v, x: {"batch_stats": update(v, x)}, variables, batches)
    jax.tree.map(np.testing.assert_array_equal, named, recalibrate(update, variables, batches))


def test_no_batch_norm_is_an_error():
    update, variables, batches = setup()
    with pytest.raises(TreeError, match=r"no BatchNorm among the variables.*\nFix: pass the whole"):
        recalibrate(update, variables["params"], batches)


def test_no_batches_is_an_error():
    update, variables, _ = setup()
    with pytest.raises(JaxpruneError, match=r"no batches.\nFix: pass at least one"):
        recalibrate(update, variables, [])


def test_a_smaller_last_batch_is_an_error():
    update, variables, batches = setup()
    with pytest.raises(JaxpruneError, match=r"batch 1 has the shapes \[\(7.*\nFix: drop"):
        recalibrate(update, variables, [batches[0], batches[1][:7]])


def test_statistics_that_are_not_finite_are_an_error():
    update, variables, batches = setup()
    batches[1][0, 0, 0, 2] = np.nan
    with pytest.raises(JaxpruneError, match=r"batch 1 .*not finite at batch_stats/BatchNorm_0"):
        recalibrate(update, variables, batches)


def test_an_update_in_eval_mode_is_an_error():
    _, variables, batches = setup()

    def evaluate(v, x):
        return Network().apply(v, x, mutable=["batch_stats"])[1]["batch_stats"]

    with pytest.raises(JaxpruneError, match=r"(?s)leaves the statistics as they are.*train=True"):
        recalibrate(evaluate, variables, batches)


def test_an_update_that_returns_something_else_is_an_error():
    _, variables, batches = setup()
    with pytest.raises(TreeError, match=r"returned no batch_stats/BatchNorm_0/mean, no .*\nFix:"):
        recalibrate(lambda v, _: v["params"], variables, batches)


def test_arrays_stay_where_they_are():
    update, variables, batches = setup()
    (device,) = jax.devices()[1:2]
    there = recalibrate(update, jax.device_put(variables, device), batches)["batch_stats"]
    assert {leaf.device for leaf in jax.tree.leaves(there)} == {device}
    host = recalibrate(update, jax.device_get(variables), batches)["batch_stats"]
    assert {type(leaf) for leaf in jax.tree.leaves(host)} == {np.ndarray}
