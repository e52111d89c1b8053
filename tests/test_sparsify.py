"""The L1 transform is the authors' update; its alternatives are their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.errors import JaxpruneError, TreeError
from jaxprune.sparsify import l1_bn_scale, proximal_l1_bn_scale, smooth_l1_bn_scale

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


def alone(tx: optax.GradientTransformation, scales, updates=None) -> np.ndarray:
    """What a transform of the scales alone makes of `updates`, zeros by default."""
    params = {"scale": jnp.asarray(scales)}
    given = jax.tree.map(jnp.zeros_like, params) if updates is None else {"scale": updates}
    return np.asarray(tx.update(given, tx.init(params), params)[0]["scale"])


def test_smooth_l1_adds_the_gradient_of_its_penalty():
    def g(s):
        return jnp.where(jnp.abs(s) < 0.1, s**2 / 0.2, jnp.abs(s) - 0.05)

    scales = jnp.linspace(-0.3, 0.3, 61) + 1e-4  # not where the pieces meet
    expected = 0.7 * jax.vmap(jax.grad(g))(scales)
    got = alone(smooth_l1_bn_scale(0.7, {"scale": True}, width=0.1), scales)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_smooth_l1_is_l1_far_from_zero_and_gentle_near_it():
    tx, scales = smooth_l1_bn_scale(1.0, {"scale": True}, width=0.1), np.array([2.0, -1, 0.1, 0])
    np.testing.assert_array_equal(alone(tx, scales), np.sign(scales))
    swinging, settling = (
        optax.chain(penalty, optax.sgd(0.01)) for penalty in (l1_bn_scale(1.0, {"scale": True}), tx)
    )
    ends = []
    for optimizer in (swinging, settling):
        params = {"scale": jnp.array([0.504])}
        state = optimizer.init(params)
        for _ in range(200):
            updates, state = optimizer.update({"scale": jnp.zeros(1)}, state, params)
            params = optax.apply_updates(params, updates)
        ends.append(abs(float(params["scale"][0])))
    assert ends[0] > 1e-3
    assert ends[1] < 1e-6


def test_proximal_l1_minimizes_its_objective():
    scales = np.array([0.5, -0.5, 0.05, -0.02, 0.0], np.float32)
    updates = np.array([0.1, 0.1, 0.01, 0.05, 0.3], np.float32)
    tx = proximal_l1_bn_scale(0.4, {"scale": True}, learning_rate=0.25)
    got = scales + alone(tx, scales, updates)
    grid = np.linspace(-1, 1, 200_001)
    objective = (grid - (scales + updates)[:, None]) ** 2 / 2 + 0.1 * np.abs(grid)
    np.testing.assert_allclose(got, grid[objective.argmin(axis=1)], atol=1e-5)
    np.testing.assert_array_equal(got[2:4], 0)


def test_proximal_l1_follows_the_learning_rate_of_the_step():
    rate = optax.piecewise_constant_schedule(0.1, {2: 0.5})
    prox = proximal_l1_bn_scale(0.5, MASK, learning_rate=rate)
    got = train(optax.chain(optax.sgd(rate, momentum=0.9), prox))
    params = PARAMS["norm"]["scale"].astype(np.float64)
    buffer = np.zeros(3)
    for step in range(4):
        buffer = 0.9 * buffer + gradients(step)["norm"]["scale"]
        stepped = params - float(rate(step)) * buffer
        params = np.sign(stepped) * np.maximum(np.abs(stepped) - 0.5 * float(rate(step)), 0)
    np.testing.assert_allclose(got["norm"]["scale"], params, rtol=1e-5, atol=1e-6)
    plain = train(optax.sgd(rate, momentum=0.9))
    assert close(got["conv"], plain["conv"], rtol=0)


def test_only_proximal_l1_makes_scales_exactly_zero():
    def shrunk(tx) -> np.ndarray:
        params = {"scale": jnp.array([0.5, -0.3])}
        state = tx.init(params)
        for _ in range(60):
            updates, state = tx.update({"scale": jnp.zeros(2)}, state, params)
            params = optax.apply_updates(params, updates)
        return np.asarray(params["scale"])

    mask = {"scale": True}
    prox = proximal_l1_bn_scale(0.13, mask, learning_rate=0.1)
    assert not shrunk(optax.chain(optax.sgd(0.1), prox)).any()
    assert shrunk(optax.chain(l1_bn_scale(0.13, mask), optax.sgd(0.1))).all()


def test_bad_arguments_of_the_alternatives_are_errors():
    for width in (0, -1.0):
        text = rf"smooth_l1_bn_scale: width must be a number above 0 .* got {width}\.\nFix: "
        with pytest.raises(JaxpruneError, match=text):
            smooth_l1_bn_scale(0.1, MASK, width=width)
    with pytest.raises(JaxpruneError, match=r"proximal_l1_bn_scale: learning_rate must .*\nFix: "):
        proximal_l1_bn_scale(0.1, MASK, learning_rate=float("nan"))
    with pytest.raises(JaxpruneError, match=r"proximal_l1_bn_scale: strength must .*\nFix: start"):
        proximal_l1_bn_scale(-0.1, MASK, learning_rate=0.1)
    with pytest.raises(TreeError, match=r"proximal_l1_bn_scale: the mask does not mirror"):
        proximal_l1_bn_scale(0.1, {}, learning_rate=0.1).init(PARAMS)
