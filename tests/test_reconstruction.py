"""Reconstruction: exact where theory says so, never worse on its data, and against the papers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import JaxpruneError, KeepError
from jaxprune.recover import Form, Order, least_squares, obs
from jaxprune.recover.normal_equations import damped

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def mlp(v: Any, x: Any) -> Any:
    return jax.nn.relu(x @ v["a"] + v["c"][None]) @ v["b"] + v["d"][None]


def weights(hidden: int = 8) -> dict[str, np.ndarray]:
    return {"a": normal(5, hidden), "b": normal(hidden, 3), "c": normal(hidden), "d": normal(3)}


V = weights()
X = [normal(40, 5), normal(30, 5)]
GRAPH = jp.trace(mlp, V, X[0])
KEEP = {"a": np.arange(8) % 3 != 1}


def hidden(v: Any = V, x: Any = None) -> np.ndarray:
    x = np.concatenate(X) if x is None else x
    return np.maximum(x.astype(np.float64) @ v["a"] + v["c"], 0)


def small(graph: Any, variables: Any, keep: Any, x: Any) -> Any:
    run = jp.narrow(graph.fn, graph, keep)
    return np.asarray(jax.jit(run)(jp.slice(graph, variables, keep), x))


def test_the_kernel_is_the_ridge_solution_and_the_bias_the_mean_residual() -> None:
    found = least_squares(GRAPH, V, KEEP, X, ridge=0.1)
    h, s = hidden(), KEEP["a"]
    y, w0 = h @ V["b"], V["b"].astype(np.float64)[s]
    xs, ys = h[:, s] - h[:, s].mean(0), y - y.mean(0)
    pull = 0.1 * np.diag(xs.T @ xs).mean() * np.eye(s.sum())
    w = np.linalg.solve(xs.T @ xs + pull, xs.T @ ys + pull @ w0)
    np.testing.assert_allclose(found.variables["b"][s], w, rtol=2e-4, atol=1e-5)
    np.testing.assert_array_equal(found.variables["b"][~s], V["b"][~s])
    shift = (y - h[:, s] @ w).mean(0)
    np.testing.assert_allclose(found.variables["d"], V["d"] + shift, rtol=1e-4, atol=1e-5)
    (one,) = found.fits
    after, before = y - h[:, s] @ w - shift, y - h[:, s] @ w0
    np.testing.assert_allclose(one.after, (after**2).sum() / (y**2).sum(), rtol=1e-3)
    np.testing.assert_allclose(one.before, (before**2).sum() / (y**2).sum(), rtol=1e-3)
    assert str(one).startswith("a at")
    assert "Cholesky, bias" in str(one)


def test_bias_alone_and_one_factor_of_each_channel() -> None:
    h, s = hidden(), KEEP["a"]
    flat = least_squares(GRAPH, V, KEEP, X, form=Form.BIAS)
    np.testing.assert_array_equal(flat.variables["b"], V["b"])
    lost = h[:, ~s].mean(0) @ V["b"][~s]
    np.testing.assert_allclose(flat.variables["d"], V["d"] + lost, rtol=1e-4, atol=1e-5)

    # ThiNet: least squares for the scale of every channel, on all sampled outputs.
    scaled = least_squares(GRAPH, V, KEEP, X, form=Form.SCALE, ridge=0)
    z = np.einsum("nc,co->noc", h[:, s] - h[:, s].mean(0), V["b"][s]).reshape(-1, s.sum())
    y = h @ V["b"]
    factors = np.linalg.lstsq(z, (y - y.mean(0)).ravel(), rcond=None)[0]
    np.testing.assert_allclose(scaled.variables["b"][s], V["b"][s] * factors[:, None], rtol=1e-3)


def duplicated() -> tuple[Any, Any, Any]:
    """Channels 4 to 7 are copies and sums of 0 to 3."""
    v = weights()
    mix = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 2, 0], [0, 0, 0, 0]], np.float32)
    v["a"][:, 4:], v["c"][4:] = v["a"][:, :4] @ mix, v["c"][:4] @ mix
    return v, jp.trace(linear, v, X[0]), {"a": np.arange(8) < 4}


def linear(v: Any, x: Any) -> Any:
    return (x @ v["a"] + v["c"][None]) @ v["b"] + v["d"][None]


@pytest.mark.parametrize("order", Order)
def test_linearly_dependent_channels_cost_nothing(order: Order) -> None:
    v, graph, keep = duplicated()
    dense = np.asarray(linear(v, X[0]))
    found = least_squares(graph, v, keep, X, ridge=0, order=order)
    got = small(graph, found.variables, keep, X[0])
    assert abs(got - dense).max() <= 1e-5 * abs(dense).max()
    assert abs(small(graph, v, keep, X[0]) - dense).max() > 0.1


def test_a_singular_gram_names_its_fallback() -> None:
    v, graph, _ = duplicated()
    keep = {"a": np.arange(8) != 3}  # the copies stay: what is kept is singular
    found = least_squares(graph, v, keep, X, ridge=0)
    assert "pseudo-inverse of rank 3 of 7" in found.fits[0].method
    removed = obs(graph, v, {"a": 4}, X, damping=0)
    assert "singular, so damped by" in removed.fits[0].method
    dense = np.asarray(linear(v, X[0]))
    got = small(graph, removed.variables, removed.keep, X[0])
    assert abs(got - dense).max() <= 1e-2 * abs(dense).max()
    one = least_squares(graph, v, keep, [X[0][:1]], ridge=0)
    assert "rank 0" in one.fits[0].method  # about its mean, one example says nothing
    assert one.fits[0].after <= 1e-10
    assert np.isfinite(one.variables["b"]).all()


def test_obs_is_the_ridge_toward_the_weights_whatever_the_order() -> None:
    found = obs(GRAPH, V, {"a": 5}, X, damping=0.01)
    s = found.keep["a"]
    assert s.sum() == 5
    h = hidden()
    hessian = damped(h.T @ h / len(h), 0.01)
    w = V["b"].astype(np.float64)
    expected = w[s] + np.linalg.solve(hessian[np.ix_(s, s)], hessian[np.ix_(s, ~s)] @ w[~s])
    np.testing.assert_allclose(found.variables["b"][s], expected, rtol=1e-4, atol=1e-5)
    kept, costs = np.ones(8, bool), np.zeros(8)
    for _ in range(3):  # greedy, by brute force
        tried = {}
        for c in np.flatnonzero(kept):
            gone, rest = ~kept | (np.arange(8) == c), kept & (np.arange(8) != c)
            d = np.zeros_like(w)
            d[gone] = -w[gone]
            d[rest] = np.linalg.solve(
                hessian[np.ix_(rest, rest)], hessian[np.ix_(rest, gone)] @ w[gone]
            )
            tried[c] = np.sum(d * (hessian @ d)) / 2
        worst = min(tried, key=tried.__getitem__)
        costs[worst], kept[worst] = tried[worst] - costs.sum(), False
    np.testing.assert_array_equal(s, kept)
    np.testing.assert_allclose(found.costs["a"][~s], costs[~s], rtol=1e-3)
    assert found.fits[0].after < found.fits[0].before


class Layouts(nn.Module):
    """Strides, dilation, padding, groups, shortcuts, heads and a shared layer."""

    @nn.compact
    def __call__(self, x):
        def norm(x):
            return nn.BatchNorm(use_running_average=True)(x)

        x = nn.relu(norm(nn.Conv(8, (3, 3))(x)))
        y = nn.relu(
            norm(nn.Conv(8, (3, 2), strides=2, use_bias=False, padding=((1, 0), (2, 1)))(x))
        )
        y = nn.Conv(8, (2, 2), kernel_dilation=2, feature_group_count=2, padding="SAME")(y)
        skip = nn.Conv(8, (1, 1), strides=2, padding=((0, 0), (1, 1)))(x)
        y = nn.relu(norm(y) + skip[:, :, : y.shape[2]])
        y = y.reshape(y.shape[0], -1, 8)
        y = nn.MultiHeadDotProductAttention(2, qkv_features=8)(y)
        twice = nn.Dense(6, name="twice")
        y = nn.Dense(6)(jnp.tanh(twice(y[:, :3]) + twice(y[:, 3:6])))
        return nn.Dense(3)(y.reshape(y.shape[0], -1))


def variables_like(tree: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)

    def value(path: Any, leaf: Any) -> Any:
        x = rng.normal(size=leaf.shape) / max(np.prod(leaf.shape[:-1]), 1) ** 0.5
        return jnp.asarray(abs(x) + 0.5 if "var" in jax.tree_util.keystr(path) else x, leaf.dtype)

    return jax.tree_util.tree_map_with_path(value, tree)


IMAGES = [normal(6, 6, 6, 3), normal(6, 6, 6, 3)]
MODEL = Layouts()
SHAPES = jax.eval_shape(MODEL.init, jax.random.key(0), IMAGES[0])
LAYOUTS = jp.linen.trace(MODEL, variables_like(SHAPES, 0), IMAGES[0])


def random_keep(seed: int, graph: Any = LAYOUTS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.permutation(g.size) < max(1, round(g.size * rng.uniform(0.4, 0.9)))
        for name, g in graph.groups.items()
    }


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("form", Form)
def test_no_layout_is_worse_on_its_data(form: Form, order: Order) -> None:
    v, keep = variables_like(SHAPES, 1), random_keep(2)
    found = least_squares(LAYOUTS, v, keep, IMAGES, form=form, order=order)
    fitted = [one for one in found.fits if one.kernel]
    assert len(fitted) == 11
    assert all(one.after <= one.before * (1 + 1e-6) for one in fitted)
    assert sum(one.after < one.before for one in fitted) >= 8
    whys = {one.why for one in found.fits if not one.kernel}
    assert whys <= {"it multiplies two activations, so it has no weights"}
    # what the last reader wrote, by another way than the moments
    dense = np.concatenate([np.asarray(jax.jit(LAYOUTS.fn)(v, x)) for x in IMAGES])
    errors = [
        ((np.concatenate([small(LAYOUTS, w, keep, x) for x in IMAGES]) - dense) ** 2).mean()
        for w in (v, found.variables)
    ]
    assert errors[1] < errors[0]
    if order is Order.IN_TURN and form is Form.KERNEL:
        last = next(one for one in fitted if one.kernel == "params/Dense_1/kernel")
        bias = np.asarray(v["params"]["Dense_1"]["bias"])
        np.testing.assert_allclose(last.after, errors[1] / ((dense - bias) ** 2).mean(), atol=1e-5)


def test_the_error_of_a_shortcut_is_made_up_for() -> None:
    def fn(v: Any, x: Any) -> Any:
        shortcut = x @ v["a"] @ v["b"]
        branch = (jax.nn.relu(x @ v["c"]) @ v["d"] - v["m"][None]) * v["s"][None]
        return shortcut - branch

    v = {"a": normal(5, 8), "b": normal(8, 3), "c": normal(5, 8), "d": normal(8, 3)}
    v |= {"m": normal(3), "s": np.array([0.5, -2, 0], np.float32)}
    graph = jp.trace(fn, v, X[0])
    keep = {"a": np.arange(8) < 2, "c": np.arange(8) < 5}
    found = least_squares(graph, v, keep, X, ridge=0)
    x = np.concatenate(X)
    rest = np.asarray(fn(v, x)) - x @ v["a"][:, :2] @ found.variables["b"][:2]
    h = np.maximum(x @ v["c"], 0)[:, :5]
    columns = np.concatenate([h, np.ones((len(x), 1))], axis=1)
    for o in (0, 1):  # the third output of the branch is multiplied by zero
        best = np.linalg.lstsq(columns, rest[:, o] / -v["s"][o], rcond=None)[0]
        np.testing.assert_allclose(found.variables["d"][:5, o], best[:5], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(-found.variables["m"][o], best[5], rtol=1e-3, atol=1e-3)
    assert np.isfinite(found.variables["d"]).all()


def test_two_uses_of_one_kernel_are_fitted_together() -> None:
    def fn(v: Any, x: Any) -> Any:
        h = jax.nn.relu(x @ v["a"])
        return (h[:20] @ v["b"]) * (2 * h[20:] @ v["b"])

    v = {"a": V["a"], "b": V["b"]}
    x = X[0]
    graph = jp.trace(fn, v, x)
    found = least_squares(graph, v, KEEP, [x], ridge=0)
    h, s = np.maximum(x @ v["a"], 0), KEEP["a"]
    rows = np.concatenate([h[:20], 2 * h[20:]])
    best = np.linalg.lstsq(rows[:, s], rows @ v["b"], rcond=None)[0]
    np.testing.assert_allclose(found.variables["b"][s], best, rtol=1e-3, atol=1e-4)
    assert all("no bias" in one.method for one in found.fits)
    removed = obs(graph, v, {"a": 5}, [x])
    assert len(removed.fits) == 2


def test_rows_are_drawn_and_one_program_serves_all_batches() -> None:
    traced = []

    def fn(v: Any, x: Any) -> Any:  # 12 rows of each example, of two kinds that want other kernels
        traced.append(x.shape)
        h = jax.nn.relu(x @ v["a"])
        return jnp.tanh(h @ v["b"]) @ v["e"]

    v = {"a": V["a"], "b": V["b"], "e": normal(3, 2)}
    batches = [normal(4, 12, 5) for _ in range(3)]
    graph = jp.trace(fn, v, batches[0])
    keep = {"a": KEEP["a"], "b": np.array([True, False, True])}

    def kernel(count: int, **options: Any) -> np.ndarray:
        traced.clear()
        return np.asarray(least_squares(graph, v, keep, batches[:count], **options).variables["b"])

    whole = kernel(1)
    once = len(traced)
    kernel(3)
    assert len(traced) == once  # of two kernels in turn, whatever the number of batches
    np.testing.assert_array_equal(kernel(1, positions=12), whole)
    drawn = kernel(1, positions=3)
    assert abs(drawn - whole).max() > 1e-3
    np.testing.assert_array_equal(kernel(1, positions=3, key=jax.random.key(0)), drawn)
    assert abs(kernel(1, positions=3, key=jax.random.key(1)) - drawn).max() > 1e-3
    two = {"a": 5, "b": 2}
    assert obs(graph, v, two, batches, positions=2).fits[0].after < 1
    with pytest.raises(JaxpruneError, match="positions must be an int, at least 1, got 0"):
        kernel(1, positions=0)


def test_what_cannot_be_fitted_says_why() -> None:
    def fn(v: Any, x: Any) -> Any:
        h = x @ v["a"]
        t = h @ v["b"] + h @ jnp.tanh(v["e"])  # b is read again below; e is computed
        t = t @ jnp.abs(v["b"].T) @ v["f"]
        return jax.lax.fori_loop(0, 2, lambda _, c: jnp.tanh(c @ v["g"]), t) @ v["h"]

    v = {"a": V["a"], "b": normal(8, 3), "e": normal(8, 3), "f": normal(8, 4)}
    v |= {"g": normal(4, 4), "h": normal(4, 2)}
    graph = jp.trace(fn, v, X[0])
    keep = {name: np.arange(g.size) > 0 for name, g in graph.groups.items()}
    found = least_squares(graph, v, keep, X)
    why = " ".join(one.why or "" for one in found.fits)
    assert "computed from the variables" in why
    assert "b is read elsewhere too" in why
    assert "inside of a scan" in why
    for path in ("b", "e", "g"):
        np.testing.assert_array_equal(found.variables[path], v[path])
    assert any(one.kernel == "h" for one in found.fits)


def test_constant_channels_go_into_the_bias() -> None:
    """Two channels are constant, one of them silent; another is what remains of its layer."""
    v = {
        **V,
        "a": V["a"] * (np.arange(8) > 1),
        "c": np.where(np.arange(8) > 1, V["c"], [2, -1] * 4),
    }
    v["c"] = v["c"].astype(np.float32)
    dense = np.asarray(mlp(v, X[0]))
    keep = {"a": np.arange(8) > 1}
    found = least_squares(GRAPH, v, keep, X).variables
    np.testing.assert_allclose(small(GRAPH, found, keep, X[0]), dense, rtol=1e-4, atol=1e-4)
    alone = {"a": np.arange(8) == 0}
    left = least_squares(GRAPH, v, alone, X, ridge=0)
    mean = np.concatenate([np.asarray(mlp(v, x)) for x in X]).mean(0)
    got = small(GRAPH, left.variables, alone, X[0])
    np.testing.assert_allclose(got, np.broadcast_to(mean, got.shape), rtol=1e-3, atol=1e-4)
    removed = obs(GRAPH, v, {"a": 7}, X)
    assert not removed.keep["a"][1]  # the silent one costs least
    assert np.isfinite(removed.variables["b"]).all()


def test_bad_input() -> None:
    with pytest.raises(JaxpruneError, match=r"least_squares: no batches"):
        least_squares(GRAPH, V, KEEP, [])
    with pytest.raises(JaxpruneError, match="batch 2 has no examples"):
        least_squares(GRAPH, V, KEEP, [X[0], X[0][:0]])
    broken = [X[0], X[0] * np.where(np.arange(40) == 7, np.nan, 1)[:, None].astype(np.float32)]
    with pytest.raises(JaxpruneError, match=r"batch 2: what .* reads of \['a'\]"):
        least_squares(GRAPH, V, KEEP, broken)
    with pytest.raises(JaxpruneError, match=r"recover.obs: no batches"):
        obs(GRAPH, V, {"a": 4}, [])
    with pytest.raises(JaxpruneError, match=r"obs: numbers that are not finite:\nbatch 2: what"):
        obs(GRAPH, V, {"a": 4}, broken)
    with pytest.raises(JaxpruneError, match=r"form must be .*\nFix: form=jp.recover.Form.KERNEL"):
        least_squares(GRAPH, V, KEEP, X, form="kernel")  # type: ignore[arg-type]
    with pytest.raises(JaxpruneError, match=r"Fix: ridge=0.01"):
        least_squares(GRAPH, V, KEEP, X, ridge=-1)
    with pytest.raises(KeepError):
        least_squares(GRAPH, V, {"nobody": KEEP["a"]}, X)
    with pytest.raises(KeepError):
        obs(GRAPH, V, {"a": 0}, X)
    with pytest.raises(JaxpruneError, match="can be iterated once"):
        least_squares(LAYOUTS, variables_like(SHAPES, 1), random_keep(2), iter(IMAGES))
    whole = least_squares(GRAPH, V, {"a": np.ones(8, bool)}, X)
    assert whole.fits == ()
    np.testing.assert_array_equal(whole.variables["b"], V["b"])
