"""The L1 transform is the authors' update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.errors import JaxpruneError, TreeError
from jaxprune.sparsify import l1_bn_scale

PARAMS = {
    "conv": {"kernel": np.array([0.3, -0.2, 0.1], np.float32)},
    "norm": {
        "scale": np.array([0.5, -0.4, 0.0], np.float32),
        "bias": np.array([0.1, 0.2, -0.3], np.float32),
    },
}
MASK = {"conv": {"kernel": False}, "norm": {"scale": True, "bias": False}}


def gradients(step: int) -> dict:
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), PARAMS)


def train(tx: optax.GradientTransformation, steps: int = 4) -> dict:
    params, state = PARAMS, tx.init(PARAMS)
    update = jax.jit(tx.update)
    for step in range(steps):
        updates, state = update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def authors(strength, *, lr=0.1, momentum=0.9, decay=1e-2, nesterov=True, steps=4) -> dict:
    """`weight.grad += s * sign(weight)` after backward, then the SGD step of PyTorch."""
    params = {path: np.array(p, np.float64) for path, p in PARAMS["norm"].items()}
    params["kernel"] = np.array(PARAMS["conv"]["kernel"], np.float64)
    buffers = {path: np.zeros(3) for path in params}
    for step in range(steps):
        got = gradients(step)
        grads = {"kernel": got["conv"]["kernel"], **got["norm"]}
        for path, p in params.items():
            g = np.array(grads[path], np.float64)
            if path == "scale":
                g = g + (strength(step) if callable(strength) else strength) * np.sign(p)
            g = g + decay * p
            buffers[path] = momentum * buffers[path] + g
            params[path] = p - lr * (g + momentum * buffers[path] if nesterov else buffers[path])
    return {"conv": {"kernel": params.pop("kernel")}, "norm": params}


def close(got: dict, expected: dict, **tolerance) -> bool:
    same = jax.tree.map(lambda a, b: np.allclose(a, b, **tolerance), got, expected)
    return all(jax.tree.leaves(same))


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("strength", [0.05, lambda step: 0.01 * (step + 1)])
def test_equals_the_update_of_the_authors(strength, nesterov):
    chain = optax.chain(
        l1_bn_scale(strength, MASK),
        optax.add_decayed_weights(1e-2),
        optax.sgd(0.1, momentum=0.9, nesterov=nesterov),
    )
    assert close(train(chain), authors(strength, nesterov=nesterov), rtol=1e-5, atol=1e-6)


def test_the_place_in_the_chain_matters():
    sgd = optax.sgd(0.1, momentum=0.9)
    before = train(optax.chain(l1_bn_scale(0.05, MASK), sgd))
    after = train(optax.chain(sgd, l1_bn_scale(0.05, MASK)))
    assert not close(before, after, rtol=1e-3)


def test_leaves_other_leaves_and_dtypes_alone():
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), PARAMS)
    tx = l1_bn_scale(jnp.float32(0.5), MASK)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = tx.update(zeros, tx.init(params), params)
    assert int(state.step) == 1
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_array_equal(updates["norm"]["scale"], jnp.array([0.5, -0.5, 0.0]))
    assert not np.any(updates["norm"]["bias"])
    assert not np.any(updates["conv"]["kernel"])


@pytest.mark.parametrize("strength", [-1e-4, float("nan"), float("inf")])
def test_a_bad_strength_is_an_error(strength):
    with pytest.raises(JaxpruneError, match=r"finite and at least 0, got .*\nFix: start from 1e-4"):
        l1_bn_scale(strength, MASK)


def test_a_mask_of_another_model_is_an_error():
    with pytest.raises(TreeError, match=r"(?s)does not mirror the parameters.*norm.*Fix: mask="):
        l1_bn_scale(0.1, {"conv": {"kernel": False}}).init(PARAMS)


def test_an_update_without_parameters_is_an_error():
    tx = l1_bn_scale(0.1, MASK)
    with pytest.raises(JaxpruneError, match=r"update needs the parameters.*\nFix: tx.update\("):
        tx.update(gradients(0), tx.init(PARAMS))
