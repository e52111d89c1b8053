"""Statistics: against NumPy, against loops over examples, and over devices; places and errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune import stats
from jaxprune.errors import GateError, JaxpruneError
from jaxprune.stats import At

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


V = {"a": normal(3, 4), "b": normal(4, 5), "c": normal(5, 2)}
BATCHES = [(normal(n, 3), normal(n, 2)) for n in (6, 6, 4)]


def network(v: Any, x: Any) -> Any:
    """A ReLU, and a tanh behind it."""
    return jnp.tanh(jax.nn.relu(x @ v["a"] + 0.1) @ v["b"]) @ v["c"]


def loss(outputs: Any, batch: Any) -> Any:
    return ((outputs - batch[1]) ** 2).mean()


GRAPH = jp.trace(network, V, BATCHES[0][0])


def close(got: Any, expected: Any, rtol: float = 2e-5) -> None:
    assert list(got) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=rtol, atol=1e-5, err_msg=name)


def hidden() -> dict[str, np.ndarray]:
    """What the contractions read, of all batches."""
    x = np.concatenate([x for x, _ in BATCHES])
    first = np.maximum(x @ V["a"] + 0.1, 0)
    return {"a": first, "b": np.tanh(first @ V["b"])}


def test_sums_means_and_maxima() -> None:
    found = stats.collect(
        GRAPH,
        V,
        BATCHES,
        {
            "count": stats.count(),
            "sum": stats.sum(),
            "squares": stats.sum_of_squares(),
            "mean": stats.mean(),
            "size": stats.mean_size(),
            "square": stats.mean_square(),
            "max": stats.maximum(),
            "zeros": stats.zero_share(at=At.READS),
            "moments": stats.moments(),
            "extremes": stats.extremes(),
            "covariance": stats.covariance(),
            "histogram": stats.histogram(bins=5, range=(-1.0, 1.0)),
        },
    )
    h = hidden()
    over = {name: lambda f, x=x: f(x, axis=0) for name, x in h.items()}
    close(found["count"], {name: np.full(x.shape[1], 16) for name, x in h.items()})
    close(found["sum"], {name: f(np.sum) for name, f in over.items()})
    close(found["squares"], {name: (x**2).sum(0) for name, x in h.items()})
    close(found["mean"], {name: f(np.mean) for name, f in over.items()})
    close(found["size"], {name: abs(x).mean(0) for name, x in h.items()})
    close(found["square"], {name: (x**2).mean(0) for name, x in h.items()})
    close(found["max"], {name: abs(x).max(0) for name, x in h.items()})
    close(found["zeros"], {name: (x == 0).mean(0) for name, x in h.items()})
    assert 0 < found["zeros"]["a"].min() < 1
    for name, x in h.items():
        spread, ends = found["moments"][name], found["extremes"][name]
        np.testing.assert_allclose(spread.variance, x.var(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(spread.mean, x.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(spread.count, 16)
        np.testing.assert_allclose(ends, (x.min(0), x.max(0)), rtol=1e-5)
        both = found["covariance"][name]
        np.testing.assert_allclose(both.matrix, np.cov(x.T, bias=True), rtol=1e-4, atol=1e-6)
        counts = [np.histogram(np.clip(c, -1, 1), 5, (-1, 1))[0] for c in x.T]
        np.testing.assert_array_equal(found["histogram"][name].counts, counts)
        np.testing.assert_array_equal(found["histogram"][name].low, -1)
    again = stats.collect(
        GRAPH, V, BATCHES, {"own": stats.histogram(bins=3, range=found["extremes"])}
    )["own"]
    counts = [np.histogram(c, 3)[0] for c in h["b"].T]
    np.testing.assert_array_equal(again["b"].counts, counts)


def test_a_large_mean_does_not_swallow_the_variance() -> None:
    batches = [normal(50, 3) * 0.01 + 1000 for _ in range(3)]
    v = {"a": np.eye(3, dtype=np.float32), "b": V["c"][:3]}
    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, batches[0])
    found = stats.collect(graph, v, batches, {"m": stats.moments()})["m"]
    data = np.concatenate(batches).astype(np.float64)
    np.testing.assert_allclose(found["a"].variance, data.var(0), rtol=0.02)


def test_written_read_and_after_the_activation() -> None:
    """Max pooling stands between an activation and its reader."""

    def fn(v: Any, x: Any) -> Any:
        h = jax.nn.relu(x @ v["a"] * 2.0)
        pooled = h.reshape(len(x), 2, 2, 4).max(1) * v["scale"]
        return pooled.mean(1) @ v["b"]

    x, v = normal(3, 4, 3), {"a": V["a"], "b": V["b"], "scale": np.float32(3.0)}
    wanted = {at.name: stats.mean(at=at) for at in (At.READS, At.WRITES, At.AFTER)}
    found = stats.collect(jp.trace(fn, v, x), v, [x], {**wanted, "zeros": stats.zero_share()})
    written = x @ v["a"]
    h = np.maximum(written * 2, 0)
    read = h.reshape(3, 2, 2, 4).max(1) * 3
    close(found["WRITES"], {"a": written.mean((0, 1))})
    close(found["AFTER"], {"a": h.mean((0, 1))})
    close(found["READS"], {"a": read.mean((0, 1))})
    close(found["zeros"], {"a": (h == 0).mean((0, 1))})


def test_an_activation_in_several_operations_or_a_call_of_its_own() -> None:
    """A SiLU is a product inside of a jit; a GELU ten operations; both are read through a mean."""

    def fn(v: Any, x: Any) -> Any:
        h = jax.nn.silu(x @ v["a"]).mean(1)
        return jax.nn.gelu(h @ v["b"]) @ v["c"]

    x = normal(3, 6, 3)
    wanted = {"after": stats.sum_of_squares(at=At.AFTER), "read": stats.sum_of_squares()}
    found = stats.collect(jp.trace(fn, V, x), V, [x], wanted)
    silu = np.asarray(jax.nn.silu(x @ V["a"]))
    gelu = np.asarray(jax.nn.gelu(silu.mean(1) @ V["b"]))
    gelu_squares = (gelu**2).sum(0)
    close(found["after"], {"a": (silu**2).sum((0, 1)), "b": gelu_squares})
    close(found["read"], {"a": (silu.mean(1) ** 2).sum(0), "b": gelu_squares})


def slopes_by_loop(mean_of: Any) -> list[dict[str, np.ndarray]]:
    """dL/da of what is read, per batch or example, by additive probes; and the activations."""

    def probed(p: Any, x: Any, y: Any) -> Any:
        first = jax.nn.relu(x @ V["a"] + 0.1) + p["a"]
        second = jnp.tanh(first @ V["b"]) + p["b"]
        return loss(second @ V["c"], (x, y))

    slope, found = jax.jit(jax.grad(probed)), []
    for x, y in mean_of:
        zeros = {"a": np.zeros((len(x), 4), np.float32), "b": np.zeros((len(x), 5), np.float32)}
        first = np.maximum(x @ V["a"] + 0.1, 0)
        values = {"a": first, "b": np.tanh(first @ V["b"])}
        gradients = slope(zeros, x, y)
        found.append({name: values[name] * np.asarray(gradients[name]) for name in values})
    return found


def test_products_and_gradients_by_gates_against_loops() -> None:
    found = stats.collect(
        GRAPH,
        V,
        BATCHES,
        {
            "signed": stats.sum(at=At.PRODUCTS),
            "size": stats.mean_size(at=At.PRODUCTS),
            "square": stats.sum_of_squares(at=At.PRODUCTS),
            "gates": stats.sum(at=At.GATES),
            "squared": stats.mean_square(at=At.GATES),
            "each": stats.mean_size(at=At.EXAMPLES),
            "each squared": stats.mean_square(at=At.EXAMPLES),
            "norm": stats.activation_norm(),
            "mean": stats.mean(),
        },
        loss=loss,
    )
    batches = slopes_by_loop(BATCHES)
    singles = slopes_by_loop(
        [(x[i : i + 1], y[i : i + 1]) for x, y in BATCHES for i in range(len(x))]
    )
    entries = {name: np.concatenate([item[name] for item in batches]) for name in "ab"}
    gates = {name: np.stack([item[name].sum(0) for item in batches]) for name in "ab"}
    each = {name: np.stack([item[name].sum(0) for item in singles]) for name in "ab"}
    close(found["signed"], {name: x.sum(0) for name, x in entries.items()})
    close(found["size"], {name: abs(x).mean(0) for name, x in entries.items()})
    close(found["square"], {name: (x**2).sum(0) for name, x in entries.items()})
    close(found["gates"], {name: x.sum(0) for name, x in gates.items()})
    close(found["squared"], {name: (x**2).mean(0) for name, x in gates.items()})
    close(found["each"], {name: abs(x).mean(0) for name, x in each.items()})
    close(found["each squared"], {name: (x**2).mean(0) for name, x in each.items()})
    close(found["norm"], {name: np.sqrt((x**2).sum(0)) for name, x in hidden().items()})
    close(found["mean"], {name: x.mean(0) for name, x in hidden().items()})


def test_curvatures() -> None:
    """Against `jax.hessian`; probes average to it, Fisher and Gauss-Newton are exact by loops."""
    x, y = BATCHES[0]
    gates = jp.gates.unit(GRAPH)
    flat, back = jax.flatten_util.ravel_pytree(gates)
    apply = jp.gated(network, GRAPH)

    def outputs(flat: Any) -> Any:
        return apply(V, back(flat), x)

    @jax.jit
    def exact_curvatures(flat: Any) -> Any:
        hessian = jax.hessian(lambda flat: loss(outputs(flat), (x, y)))(flat)
        jacobian = jax.jacobian(outputs)(flat).reshape(-1, len(flat))
        newton = (jacobian**2).sum(0) * 2 / len(jacobian)
        return back(jnp.diagonal(hessian)), back(newton)

    hessian, newton = jax.device_get(exact_curvatures(flat))
    found = stats.collect(
        GRAPH,
        V,
        [(x, y)],
        {
            "hessian": stats.hutchinson(samples=4000),
            "newton": stats.gauss_newton(samples=4000),
            "fisher": stats.fisher(),
            "weights": stats.fisher(by=stats.By.WEIGHTS),
            "by weights": stats.hutchinson(samples=500, by=stats.By.WEIGHTS),
        },
        loss=loss,
    )
    for name, exact in (("hessian", hessian), ("newton", newton)):
        scale = max(float(np.abs(values).max()) for values in exact.values())
        for group, values in exact.items():
            np.testing.assert_allclose(found[name][group], values, atol=0.06 * scale)

    def one(gates: Any, x: Any, y: Any) -> Any:
        return loss(apply(V, gates, x[None]), (x, y[None]))

    slopes = jax.device_get(jax.jit(jax.vmap(jax.grad(one), (None, 0, 0)))(gates, x, y))
    close(found["fisher"], {name: (g**2).mean(0) for name, g in slopes.items()})
    slope = jax.jit(jax.grad(lambda v, x, y: loss(network(v, x), (x, y))))
    by_weight = [slope(V, x[i : i + 1], y[i : i + 1]) for i in range(6)]
    close(found["weights"], {n: np.mean([g[n] ** 2 for g in by_weight], 0) for n in V})
    w, back = jax.flatten_util.ravel_pytree(V)
    exact = np.diagonal(jax.jit(jax.hessian(lambda w: loss(network(back(w), x), (x, y))))(w))
    ours = jax.flatten_util.ravel_pytree(found["by weights"])[0]
    np.testing.assert_allclose(ours, exact, atol=0.15 * np.abs(exact).max())


def test_the_order_of_batch_and_sequence() -> None:
    """By Minitron's code a[S=2, B=2, c=2] gives (3.1623, 3.0), with swapped axes (2.915, 2.121)."""
    a = np.array([[[1, -3], [2, 0]], [[-1, 3], [4, 0]]], np.float32).swapaxes(0, 1)
    v = {"a": np.eye(2, dtype=np.float32), "b": np.ones((2, 1), np.float32)}
    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, a)
    both = {
        "given": stats.activation_norm(),
        "other": stats.activation_norm(positions=stats.euclidean, examples=stats.average),
    }
    found = stats.collect(graph, v, [a[:1], a[1:]], both)
    np.testing.assert_allclose(found["given"]["a"], [3.1623, 3.0], atol=1e-4)
    other = np.mean([np.sqrt((x**2).sum(0)) for x in a], 0)
    np.testing.assert_allclose(found["other"]["a"], other, rtol=1e-5)
    swapped = stats.collect(graph, v, [a.swapaxes(0, 1)], {"given": stats.activation_norm()})
    np.testing.assert_allclose(swapped["given"]["a"], [2.915, 2.121], atol=1e-3)


def test_states_merge_and_one_program_serves_all_batches() -> None:
    traced = []

    def fn(v: Any, x: Any) -> Any:
        traced.append(x.shape)
        return network(v, x)

    wanted = {
        "moments": stats.moments(),
        "max": stats.maximum(),
        "square": stats.mean_square(at=At.EXAMPLES),
    }
    tools = stats.collector(GRAPH, wanted, loss=loss, fn=fn)
    update = jax.jit(tools.update)
    start = tools.init(V, BATCHES[0])
    assert traced == [(1, 3)]
    ours = update(update(start, V, BATCHES[0]), V, BATCHES[1])
    assert update._cache_size() == 1
    theirs = update(start, V, BATCHES[2])
    leaves, treedef = jax.tree.flatten(tools.merge(ours, theirs))
    merged = tools.finalize(jax.tree.unflatten(treedef, [np.asarray(leaf) for leaf in leaves]))
    whole = stats.collect(GRAPH, V, BATCHES, wanted, loss=loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), merged, whole)
    x = np.concatenate([x for x, _ in BATCHES])
    np.testing.assert_allclose(whole["max"]["a"], np.maximum(x @ V["a"] + 0.1, 0).max(0), rtol=1e-5)


def test_batches_over_eight_devices() -> None:
    batch = normal(16, 3), normal(16, 2)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(batch, jax.NamedSharding(mesh, jax.P("d")))
    everywhere = jax.device_put(V, jax.NamedSharding(mesh, jax.P()))
    wanted = {
        "moments": stats.moments(),
        "norm": stats.activation_norm(),
        "added": stats.contributions(),
        "each": stats.mean_square(at=At.EXAMPLES),
        "gates": stats.sum(at=At.GATES),
    }
    one = stats.collect(GRAPH, V, [batch], wanted, loss=loss)
    eight = stats.collect(GRAPH, everywhere, [spread], wanted, loss=loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, eight)


def test_halves_are_summed_in_float32() -> None:
    halves = jax.tree.map(lambda w: jnp.asarray(w, jnp.bfloat16), V)
    x = jnp.ones((4096, 3), jnp.bfloat16)
    graph = jp.trace(network, halves, x[:1])
    found = stats.collect(
        graph,
        halves,
        [x, x],
        {"sum": stats.sum(), "each": stats.sum(at=At.GATES)},
        loss=lambda outputs, _: outputs.astype(jnp.float32).sum(),
    )
    assert found["sum"]["a"].dtype == found["each"]["a"].dtype == np.float32
    one = np.asarray(jp.tap(network, graph)(halves, x[:1])[1]["a"][0], np.float32)[0]
    np.testing.assert_allclose(found["sum"]["a"], one * 8192, rtol=1e-6)


def test_bad_input() -> None:
    mean = {"mean": stats.mean()}
    with pytest.raises(JaxpruneError, match=r"no batches.\nFix: pass at least one batch"):
        stats.collect(GRAPH, V, [], mean)
    with pytest.raises(JaxpruneError, match=r"no examples along its first axis"):
        stats.collect(GRAPH, V, [normal(0, 3)], mean)
    with pytest.raises(JaxpruneError, match=r"statistics \['mean'\] are none, but \['function'\]"):
        stats.collect(GRAPH, V, BATCHES, {"mean": stats.mean})
    with pytest.raises(JaxpruneError, match=r"\['g'\] are of gradients, so they need a loss"):
        stats.collect(GRAPH, V, BATCHES, {"g": stats.sum(at=At.GATES)})
    with pytest.raises(JaxpruneError, match=r"loss= is given, but no statistic is of gradients"):
        stats.collect(GRAPH, V, BATCHES, mean, loss=loss)
    with pytest.raises(
        JaxpruneError, match=r"loss must return one real number, got float32\[6, 2\]"
    ):
        stats.collect(
            GRAPH, V, BATCHES, {"g": stats.sum(at=At.GATES)}, loss=lambda outputs, _: outputs
        )
    with pytest.raises(GateError, match=r"no group \['z'\]; it has \['a', 'b'\]"):
        stats.collect(GRAPH, V, BATCHES, mean, groups=["z"])
    with pytest.raises(JaxpruneError, match=r"a batch must hold the 1 inputs of the call first"):
        stats.collect(GRAPH, V, [{"image": normal(2, 3)}], mean)
    with pytest.raises(JaxpruneError, match=r"at At.PRODUCTS only sums over all entries"):
        stats.maximum(at=At.PRODUCTS)
    with pytest.raises(JaxpruneError, match=r"range must be \(low, high\) with low < high, got"):
        stats.histogram(bins=3, range=(1.0, 0.0))
    by_name = stats.collect(
        GRAPH, V, [{"image": normal(2, 3)}], mean, inputs=lambda batch: (batch["image"],)
    )
    assert list(by_name["mean"]) == ["a", "b"]
    single = stats.collect(
        GRAPH, V, [normal(1, 3)], {"m": stats.moments(), "c": stats.covariance()}
    )
    np.testing.assert_array_equal(single["m"]["a"].variance, 0)
    np.testing.assert_array_equal(single["c"]["b"].correlation, np.eye(5))
    weird = [x.copy() for x, _ in BATCHES]
    weird[1][2, 0] = np.nan
    with pytest.raises(JaxpruneError) as caught:
        stats.collect(GRAPH, V, weird, {**mean, "zeros": stats.zero_share()})
    assert str(caught.value).splitlines()[:3] == [
        "statistics read numbers that are not finite:",
        "batch 2 of 3: 'mean' of 'a'",
        "batch 2 of 3: 'mean' of 'b'",
    ]


def test_groups_without_a_place() -> None:
    """In a loop of unknown length there is nothing to read, but gates have gradients in a cond."""

    def fn(v: Any, x: Any) -> Any:
        def step(carry: Any) -> Any:
            return carry[0] + 1, jnp.tanh(carry[1] @ v["c"])

        h = lax.while_loop(lambda carry: carry[0] < 2, step, (0, x @ v["b"]))[1]
        return h @ v["d"] + jnp.tanh(x @ v["a"]) @ v["e"]

    v = {"a": normal(3, 5), "b": normal(3, 4), "c": normal(4, 4), "d": normal(4, 2)}
    v["e"] = normal(5, 2)
    x = normal(2, 3)
    graph = jp.trace(fn, v, x)
    assert list(stats.collect(graph, v, [x], {"m": stats.mean()})["m"]) == ["a"]
    with pytest.raises(
        GateError,
        match=r"no place for what contractions read:\ngroup 'b': its channels are summed inside of "
        r"a while at .*, whose number of steps is not known\nFix: leave them out; without groups=",
    ):
        stats.collect(graph, v, [x], {"m": stats.mean()}, groups=["b"])
