"""Scores of data and curvature: against NumPy and reference pseudo-code on small networks."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune import scores, stats
from jaxprune.errors import JaxpruneError, ScoreError, TreeError
from jaxprune.stats import At, By

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def network(v: Any, x: Any) -> Any:
    """A ReLU that two layers read, of which one adds to the output of the other."""
    h = jax.nn.relu(x @ v["a"])
    return (jnp.tanh(h @ v["b"]) + h @ v["c"]) @ v["d"]


def loss(outputs: Any, batch: Any) -> Any:
    return ((outputs - batch[1]) ** 2).mean()


V = {"a": normal(3, 4), "b": normal(4, 5), "c": normal(4, 5), "d": normal(5, 2)}
X, Y = normal(7, 3), normal(7, 2)
GRAPH = jp.trace(network, V, X)
H = np.maximum(X @ V["a"], 0)
STREAM = np.tanh(H @ V["b"]) + H @ V["c"]


def close(got: Any, expected: Any, rtol: float = 1e-4) -> None:
    assert list(got) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=rtol, atol=1e-6, err_msg=name)


def collect(loss: Any = None, **statistics: Any) -> Any:
    return stats.collect(GRAPH, V, [(X, Y)], statistics, loss=loss)


def test_activations() -> None:
    ends = collect(ends=stats.extremes())["ends"]
    found = collect(
        zeros=stats.zero_share(),
        mean=stats.mean(at=At.AFTER),
        norm=stats.activation_norm(),
        weighted=stats.weighted_norm(),
        fluctuation=stats.weighted_variance(),
        histogram=stats.histogram(bins=4, range=ends),
        after=stats.sum(at=At.AFTER),
        read=stats.sum(),
    )
    np.testing.assert_allclose(found["after"]["a"], H.sum(0), rtol=1e-5)  # one activation,
    np.testing.assert_allclose(found["read"]["a"], 2 * H.sum(0), rtol=1e-5)  # read twice
    zeros = (H == 0).mean(0)
    np.testing.assert_allclose(scores.apoz(GRAPH, found["zeros"])["a"], 1 - zeros, rtol=1e-6)
    cut = scores.apoz(GRAPH, found["zeros"], deviations=1.0)
    np.testing.assert_allclose(cut["a"], zeros.mean() + zeros.std() - zeros, rtol=1e-5, atol=1e-7)
    keep = jp.select.threshold(GRAPH, {"a": cut["a"]}, threshold=-1e-6)
    np.testing.assert_array_equal(keep["a"], zeros <= zeros.mean() + zeros.std())
    assert list(scores.mean_activation(GRAPH, found["mean"])) == ["a", "b"]
    np.testing.assert_allclose(found["mean"]["a"], H.mean(0), rtol=1e-5)
    twice = 2 * np.sqrt((H**2).sum(0))  # two contractions read it
    close(scores.activation_norm(GRAPH, found["norm"]),
          {"a": twice, "b": np.sqrt((STREAM**2).sum(0))})  # fmt: skip
    read = abs(V["b"]).sum(1) + abs(V["c"]).sum(1)
    close(scores.wanda(GRAPH, found["weighted"]),
          {"a": read * np.sqrt((H**2).mean(0)),
           "b": abs(V["d"]).sum(1) * np.sqrt((STREAM**2).mean(0))})  # fmt: skip
    squares = (V["b"] ** 2).sum(1) + (V["c"] ** 2).sum(1)
    close(scores.wanda(GRAPH, found["fluctuation"]),
          {"a": squares * H.var(0), "b": (V["d"] ** 2).sum(1) * STREAM.var(0)})  # fmt: skip
    counts = [np.histogram(np.r_[c, c] if name == "a" else c, 4)[0]
              for name, h in (("a", H), ("b", STREAM)) for c in h.T]  # fmt: skip
    shares = [count / count.sum() for count in counts]
    entropies = [-sum(p * np.log(p) for p in share if p) for share in shares]
    close(scores.entropy(GRAPH, found["histogram"]), {"a": entropies[:4], "b": entropies[4:]})


def test_gradients_and_curvatures_by_gates() -> None:
    found = collect(
        loss=loss,
        slope=stats.mean(at=At.GATES),
        total=stats.sum(at=At.GATES),
        squares=stats.mean_square(at=At.GATES),
        each=stats.mean_square(at=At.EXAMPLES),
        size=stats.mean_size(at=At.EXAMPLES),
        hessian=stats.hutchinson(samples=2),
        fisher=stats.fisher(),
    )
    apply = jp.gated(network, GRAPH)
    gates = jp.gates.unit(GRAPH)
    whole = jax.grad(lambda m: loss(apply(V, m, X), (X, Y)))(gates)
    one = jax.jit(jax.grad(lambda m, x, y: loss(apply(V, m, x), (x, y))))
    each = [one(gates, X[i : i + 1], Y[i : i + 1]) for i in range(7)]
    squares = {n: np.mean([np.square(g[n]) for g in each], 0) for n in gates}
    close(scores.taylor_squared(GRAPH, found["squares"]), {n: g**2 for n, g in whole.items()})
    close(scores.fisher(GRAPH, found["each"]), {n: g / 2 for n, g in squares.items()})
    close(scores.obd_gates(GRAPH, found["fisher"]), {n: g / 2 for n, g in squares.items()})
    sensitivity = sum(abs(g).sum() for g in whole.values())
    close(scores.snip(GRAPH, found["total"]), {n: abs(g) / sensitivity for n, g in whole.items()})
    second = scores.taylor_second_order(GRAPH, found["slope"], found["hessian"])
    expected = {n: (found["hessian"][n] / 2 - g) ** 2 for n, g in whole.items()}
    close(second, expected, rtol=1e-3)
    sizes = {n: np.sum([abs(np.asarray(g[n])) for g in each], 0) for n in gates}
    stacked = {n: np.stack([g[n] for g in each]) for n in gates}
    close(scores.taylor_activation(GRAPH, stacked), sizes)
    close({n: 7 * size for n, size in found["size"].items()}, sizes)


def test_weights() -> None:
    found = collect(loss=loss, h=stats.fisher(by=By.WEIGHTS))["h"]
    slope = jax.jit(jax.grad(lambda v, x, y: loss(network(v, x), (x, y))))
    each = [slope(V, X[i : i + 1], Y[i : i + 1]) for i in range(7)]
    h = {n: np.mean([np.square(g[n]) for g in each], 0) for n in V}
    s = {n: h[n] * V[n] ** 2 / 2 for n in V}
    close(scores.obd(GRAPH, V, found), {"a": s["a"].sum(0), "b": s["b"].sum(0) + s["c"].sum(0)})
    both = scores.obd(GRAPH, V, found, roles=("in",), reduce=np.max)
    close(both, {"a": np.maximum(s["b"].sum(1), s["c"].sum(1)), "b": s["d"].sum(1)})
    gradients = slope(V, X, Y)
    p = {n: np.asarray(gradients[n]) * V[n] for n in V}
    signed = {"a": abs(p["a"].sum(0)) + abs(p["b"].sum(1)) + abs(p["c"].sum(1)),
              "b": abs(p["b"].sum(0)) + abs(p["c"].sum(0)) + abs(p["d"].sum(1))}  # fmt: skip
    members = partial(scores.taylor_members, GRAPH, V, gradients)
    close(members(), signed)
    close(members(entry=abs, roles=("out",), reduce=scores.first),
          {"a": abs(p["a"]).sum(0), "b": abs(p["b"]).sum(0)})  # fmt: skip
    close(members(entry=np.square, roles=("in",), reduce=scores.last),
          {"a": (p["c"] ** 2).sum(1), "b": (p["d"] ** 2).sum(1)})  # fmt: skip


def test_thinet_against_the_algorithm() -> None:
    """Algorithm 1 of the paper, over the rows of all outputs of both readers."""
    z = np.concatenate([H[..., None] * V[name] for name in "bc"], 2)  # [examples, channel, output]
    rows = np.moveaxis(z, 1, 2).reshape(-1, 4).astype(np.float64)
    removed: list[int] = []
    while len(removed) < 4:
        left = [c for c in range(4) if c not in removed]
        costs = [(rows[:, [*removed, c]].sum(1) ** 2).sum() for c in left]
        removed.append(left[int(np.argmin(costs))])
    found = collect(added=stats.contributions())["added"]
    np.testing.assert_allclose(found["a"], rows.T @ rows, rtol=1e-4, atol=1e-5)
    place = scores.thinet(GRAPH, found)["a"]
    assert np.argsort(place).tolist() == removed
    np.testing.assert_allclose(np.sort(place), [0.25, 0.5, 0.75, 1.0])


def chain(n: int) -> Any:
    """The graph of a network with one group of n channels, "a"."""
    v = {"a": np.ones((2, n), np.float32), "b": np.ones((n, 1), np.float32)}
    return jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, np.ones((1, 2), np.float32))


def test_thinet_of_many_correlated_channels() -> None:
    random = np.random.default_rng(1)
    rows = random.normal(size=(30, 9)) @ random.normal(size=(9, 9))
    removed: list[int] = []
    while len(removed) < 9:
        costs = {
            c: (rows[:, [*removed, c]].sum(1) ** 2).sum() for c in range(9) if c not in removed
        }
        removed.append(min(costs, key=costs.__getitem__))
    place = scores.thinet(chain(9), {"a": rows.T @ rows})["a"]
    assert np.argsort(place).tolist() == removed


def descent(gram: np.ndarray, penalty: float) -> np.ndarray:
    """Coordinate descent of 1/2 |Σ z - Σ b z|^2 + penalty |b|."""
    b, target = np.zeros(len(gram)), gram.sum(1)
    for _ in range(20000):
        before = b.copy()
        for c in range(len(b)):
            pull = target[c] - gram[c] @ b + gram[c, c] * b[c]
            b[c] = np.sign(pull) * max(abs(pull) - penalty, 0) / gram[c, c]
        if abs(b - before).max() < 1e-13:
            break
    return b


@pytest.mark.parametrize("seed", [0, 8, 13, 61])
def test_lasso_against_coordinate_descent(seed: int) -> None:
    """A channel is in just below its own penalty, and never above it.

    In the last three some come in with a negative coefficient, and some leave again.
    """
    random = np.random.default_rng(seed)
    rows = random.normal(size=(40, 6)) @ random.normal(size=(6, 6))
    gram = rows.T @ rows
    place = scores.lasso(chain(6), {"a": gram})["a"]
    top = abs(gram.sum(1)).max()
    assert place.max() == 1
    for share in np.linspace(0.99, 0.01, 30):
        b = descent(gram, share * top)
        assert ((b == 0) | (place > share - 1e-3)).all()
    for channel, share in enumerate(place):
        assert descent(gram, 0.998 * share * top)[channel] != 0
        assert descent(gram, 1.002 * share * top)[channel] == 0


def test_lasso_of_twins_and_of_nothing() -> None:
    twins = {"a": np.array([[2.0, 2, 1], [2, 2, 1], [1, 1, 3]], np.float32)}
    assert (scores.lasso(chain(3), twins)["a"] > 0).tolist() == [True, False, True]
    np.testing.assert_array_equal(scores.lasso(chain(3), {"a": np.zeros((3, 3))})["a"], 0)


LAYOUT = ("NHWC", "HWIO", "NHWC")


def residual(v: Any, x: Any) -> Any:
    """Convolutions without padding, a BatchNorm, an average pooling and a shortcut, then dense."""

    def conv(x: Any, w: Any) -> Any:
        return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=LAYOUT)

    bias, mean, var, scale, shift = (
        v[n][None, None, None] for n in "bias mean var scale shift".split()
    )
    h = conv(x, v["stem"]) + bias
    h = (h - mean) * lax.rsqrt(var + 1e-3) * scale + shift
    h = jax.nn.relu(h)
    y = jax.nn.gelu(conv(h, v["up"]))
    h = jax.nn.relu(h + conv(y, v["down"]))
    h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    h = jax.nn.silu(h.reshape(len(h), -1) @ v["fc"])
    return jax.nn.softmax(h @ v["head"])


def refitted(x: np.ndarray, w: np.ndarray, channel: Any, damping: float) -> float:
    """1/2 of the least mean squared error, with a ridge toward w, without some of the inputs."""
    h = x.T @ x / len(x)
    h = h + damping * np.diag(h).mean() * np.eye(len(h))
    gone = np.isin(np.arange(len(h)), channel)
    d = -w.copy()
    d[~gone] = np.linalg.solve(h[np.ix_(~gone, ~gone)], h[np.ix_(~gone, gone)] @ w[gone])
    return float(np.sum(d * (h @ d))) / 2


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_obs_is_the_error_of_the_readers_refitted(damping: float) -> None:
    x = normal(40, 3)
    wanted = {"costs": stats.removal_costs(damping=damping)}
    found = stats.collect(GRAPH, V, [x[:15], x[15:]], wanted)["costs"]
    h = np.maximum(x.astype(np.float64) @ V["a"], 0)
    stream = np.tanh(h @ V["b"]) + h @ V["c"]
    pairs = {"a": ((h, V["b"]), (h, V["c"])), "b": ((stream, V["d"]),)}
    expected = {
        name: [sum(refitted(*pair, c, damping) for pair in own) for c in range(own[0][0].shape[1])]
        for name, own in pairs.items()
    }
    close(scores.obs(GRAPH, found), expected, rtol=2e-3)


def test_obs_of_patches_and_of_the_layers_of_a_scan() -> None:
    """All taps of a channel go at once; layers with own channels have their own costs."""

    def fn(v: Any, x: Any) -> Any:
        h = jnp.tanh(x @ v["a"])
        h = lax.conv_general_dilated(h, v["k"], (1, 1), "VALID", dimension_numbers=LAYOUT)
        h = h.reshape(-1, 2)
        return lax.scan(lambda c, w: (c + jnp.tanh(c @ w["u"]) @ w["d"], None), h, v["s"])[0]

    v = {"a": normal(3, 4), "k": normal(1, 2, 4, 2), "s": {"u": normal(2, 2, 3)}}
    v["s"]["d"] = normal(2, 3, 2)
    x = normal(6, 5, 3, 3)
    found = stats.collect(jp.trace(fn, v, x), v, [x], {"costs": stats.removal_costs()})["costs"]
    h = np.tanh(x.astype(np.float64) @ v["a"])
    patches = np.stack([h[:, :, :2], h[:, :, 1:]], -1).reshape(-1, 8)  # (channel, tap)
    kernel = v["k"][0].transpose(1, 0, 2).reshape(8, 2)
    taps = [refitted(patches, kernel, (2 * c, 2 * c + 1), 0.01) for c in range(4)]
    carry, layers = patches @ kernel, []
    for u, d in zip(v["s"]["u"], v["s"]["d"], strict=True):
        h = np.tanh(carry @ u)
        layers.append([refitted(h, d, c, 0.01) for c in range(3)])
        carry = carry + h @ d
    close(found, {"a": taps, "s/u": layers}, rtol=2e-3)


def test_nisp_against_the_pseudo_code() -> None:
    v = {"stem": normal(3, 3, 2, 4), "bias": normal(4), "mean": normal(4), "shift": normal(4),
         "var": np.exp(normal(4)), "scale": normal(4), "up": normal(1, 1, 4, 5),
         "down": normal(1, 1, 5, 4), "fc": normal(4 * 4, 6), "head": normal(6, 3)}  # fmt: skip
    x = normal(2, 6, 6, 2)
    graph = jp.trace(residual, v, x)
    last = np.exp(normal(6))
    found = scores.nisp(graph, v, {"fc": last})
    flat = abs(v["fc"]) @ last
    stream = flat.reshape(2, 2, 4).sum((0, 1))  # behind the block; a window of 4 shares evenly
    middle = abs(v["down"])[0, 0] @ stream
    # The stream is read by the block and by the dense layer.
    reads = abs(v["up"])[0, 0] @ middle + stream
    close(found, {"down": reads, "up": middle, "fc": last})
    with_norm, without = (
        scores.nisp(graph, v, {"up": np.ones(5)}, batch_norm=flag) for flag in (True, False)
    )
    close(with_norm, without)  # the BatchNorm stands before the stem's first reader


def test_nisp_names_what_cannot_pass_importance_on() -> None:
    def attention(v: Any, x: Any) -> Any:
        h = x @ v["a"]
        return jax.nn.softmax(h @ h.swapaxes(1, 2)) @ v["b"] @ v["c"]

    v = {"a": normal(3, 4), "b": normal(5, 4), "c": normal(4, 2)}
    graph = jp.trace(attention, v, normal(1, 5, 3))
    with pytest.raises(ScoreError) as caught:
        scores.nisp(graph, v, {"b": np.ones(4)})
    first, fix = str(caught.value).splitlines()
    assert first.startswith(
        "nisp: importance comes to operations that cannot pass it on: dot_general"
    )
    assert fix == "Fix: give last= of a layer before them."


def test_nisp_names_weights_that_are_not_finite() -> None:
    v = {"a": np.ones((3, 4)), "b": np.full((4, 2), np.nan), "c": np.ones((2, 1))}
    graph = jp.trace(lambda v, x: jax.nn.relu(x @ v["a"]) @ v["b"] @ v["c"], v, np.ones((1, 3)))
    with pytest.raises(ScoreError, match=r"nisp: variables \['b'\] hold NaN or infinity"):
        scores.nisp(graph, v, {"b": np.ones(2)})


def test_nisp_multiplies_by_batch_norm_by_option_and_adds_layers_of_a_scan() -> None:
    def fn(v: Any, x: Any) -> Any:
        def layer(x: Any, w: Any) -> Any:
            return x + jnp.tanh(x @ w["up"]) @ w["down"], None

        h = lax.scan(layer, x @ v["embed"], v["layers"])[0] @ v["out"]
        return (h * lax.rsqrt(v["var"] + 0.1)[None]) @ v["head"] @ v["end"]

    v = {"embed": normal(3, 4), "layers": {"up": normal(2, 4, 5), "down": normal(2, 5, 4)},
         "out": normal(4, 6), "var": np.exp(normal(6)), "head": normal(6, 3)}  # fmt: skip
    v["end"] = normal(3, 2)
    graph = jp.trace(fn, v, normal(2, 3))
    last = np.ones(3, np.float32)
    for flag in (True, False):
        found = scores.nisp(graph, v, {"head": last}, batch_norm=flag)
        out = abs(v["head"]) @ last
        stream = abs(v["out"]) @ (out / np.sqrt(v["var"] + 0.1) if flag else out)
        reads, up = stream, []
        for i in (1, 0):
            up.insert(0, abs(v["layers"]["down"][i]) @ stream)
            read = abs(v["layers"]["up"][i]) @ up[0]
            reads, stream = reads + read, stream + read
        close(found, {"embed": reads, "head": last, "out": out, "layers/up": np.stack(up)})


def test_inf_fs() -> None:
    x = normal(9, 4)
    ranks = x.argsort(0).argsort(0)
    rho = np.corrcoef(ranks.T)
    deviation = x.std(0) / x.std(0).max()
    edges = 0.3 * np.maximum.outer(deviation, deviation) + 0.7 * (1 - abs(rho))
    r = 0.9 / abs(np.linalg.eigvals(edges)).max()
    paths = sum(np.linalg.matrix_power(r * edges, k) for k in range(1, 400))
    np.testing.assert_allclose(scores.inf_fs(x, alpha=0.3), paths.sum(1), rtol=1e-5)
    with pytest.raises(ScoreError, match=r"two samples at least, got \(1, 4\)"):
        scores.inf_fs(x[:1])


def test_what_data_cannot_say() -> None:
    means = {"a": np.ones(4)}
    with pytest.raises(ScoreError) as caught:
        scores.mean_activation(GRAPH, {"a": np.ones(3), "b": np.full(5, np.nan), "z": np.ones(2)})
    assert str(caught.value).splitlines() == [
        "these are not means.",
        "group 'a': expected means [4], got [3]",
        "group 'b': means are not finite",
        "group 'z': the graph has no such group",
        'Fix: found["mean"] of jp.stats.mean(at=jp.stats.At.AFTER).',
    ]
    with pytest.raises(ScoreError, match=r"slopes and curvatures differ in the groups \['b'\]"):
        scores.taylor_second_order(GRAPH, means, means | {"b": np.ones(5)})
    with pytest.raises(ScoreError, match=r"there are no contributions, so no group has a score"):
        scores.thinet(GRAPH, {})
    with pytest.raises(JaxpruneError, match=r"damping must be finite and at least 0, got -1"):
        stats.removal_costs(damping=-1)
    silent = stats.collect(GRAPH, V, [X * 0], {"c": stats.removal_costs(damping=0.0)})["c"]
    np.testing.assert_array_equal(scores.obs(GRAPH, silent)["a"], 0)
    with pytest.raises(ScoreError, match=r"expected contributions \[4, 4\], got \[4\]"):
        scores.lasso(GRAPH, means)
    with pytest.raises(TreeError, match=r"the curvatures have no such leaf"):
        scores.obd(GRAPH, V, {"a": V["a"]})
    with pytest.raises(ScoreError, match=r"scores of \['a'\] are negative, or all zero"):
        scores.nisp(GRAPH, V, {"a": np.zeros(4)})
    np.testing.assert_array_equal(scores.snip(GRAPH, {"a": np.zeros(4)})["a"], 0)
    np.testing.assert_array_equal(scores.entropy(GRAPH, {"a": np.zeros((4, 3))})["a"], 0)
