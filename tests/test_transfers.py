"""What is large stays on its devices: what comes to the host are numbers of channels or of pairs.

Every statistic, score and reconstruction runs on variables and data over eight devices, and gives
what it gives for arrays on the host.
"""

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer
from jax.sharding import AxisType

import jaxprune as jp
from jaxprune import recover, scores, stats
from jaxprune.arguments.fetching import fetch
from jaxprune.stats import At

RANDOM = np.random.default_rng(0)
N, HIDDEN, LAYERS = 16, 24, 2
SHAPES: dict[str, tuple[int, ...]] = {
    "a": (400, N),
    **dict.fromkeys(("scale", "shift", "mean", "var"), (N,)),
    **{"up": (LAYERS, N, HIDDEN), "down": (LAYERS, HIDDEN, N), "head": (N, 8), "bias": (8,)},
}
V = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
V["a"] /= np.float32(20)
V["var"] = np.square(V["var"]) + np.float32(1)
X, Y = (RANDOM.normal(size=(64, width)).astype(np.float32) for width in (400, 8))
SPECS = {"a": jax.P(None, "d"), "up": jax.P(None, "d", None), "down": jax.P(None, None, "d")}
SPECS["head"] = jax.P("d", None)
MESH = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
MOST = LAYERS * HIDDEN**2
"""The pairs of channels of the largest group; `a`, inputs and activations are larger."""


def network(v: Any, x: Any) -> Any:
    def layer(x: Any, w: Any) -> Any:
        return x + jax.nn.relu(x @ w[0]) @ w[1], None

    h = (x @ v["a"] - v["mean"][None]) * jax.lax.rsqrt(v["var"] + 1e-5)[None]
    h = jax.nn.relu(h * v["scale"][None] + v["shift"][None])
    return jax.lax.scan(layer, h, (v["up"], v["down"]))[0] @ v["head"] + v["bias"][None]


def trained(v: Any, x: Any) -> Any:
    h = x @ v["a"]
    return {n: 0.9 * v[n] + 0.1 * new for n, new in (("mean", h.mean(0)), ("var", h.var(0)))}


def loss(outputs: Any, batch: Any) -> Any:
    return ((outputs - batch[1]) ** 2).mean()


def mixture(v: Any, x: Any) -> Any:
    weight, chosen = jax.lax.top_k(jax.nn.softmax(x @ v["router"]), 1)
    hidden = jnp.einsum("td,tdh->th", x, v["up"][chosen[:, 0]])
    return weight * jnp.einsum("th,thd->td", hidden, v["down"][chosen[:, 0]])


GRAPH = jp.trace(network, V, X[:1])
GRADIENTS = jax.device_get(jax.grad(lambda v: loss(network(v, X), (X, Y)))(V))
KEEP = {"a": np.arange(N) % 4 != 0, "up": np.arange(LAYERS * HIDDEN).reshape(LAYERS, -1) % 3 != 0}


@cache
def data() -> Any:
    wanted = {
        "zeros": stats.zero_share(),
        "mean": stats.mean(),
        "norm": stats.activation_norm(),
        "bins": stats.histogram(bins=8, range=(0.0, 4.0)),
        "weighted": stats.weighted_norm(),
        "added": stats.contributions(),
        "costs": stats.removal_costs(),
        "slope": stats.mean(at=At.GATES),
        "square": stats.mean_square(at=At.GATES),
        "h": stats.hutchinson(),
    }
    return stats.collect(GRAPH, V, [(X, Y)], wanted, loss=loss)


@cache
def slopes() -> Any:
    """By gates of channels, of every example; and by gates of branches."""
    run = jp.gated(network, GRAPH)

    def of(gates: Any, x: Any, y: Any) -> Any:
        return loss(run(V, gates, x[None]), (x, y[None]))

    each = jax.vmap(jax.grad(of), (None, 0, 0))(jp.gates.unit(GRAPH), X, Y)
    whole = jax.grad(lambda gates: loss(run(V, gates, X), (X, Y)))
    return jax.device_get((each, whole(jp.gates.unit_branches(GRAPH))))


@cache
def experts() -> Any:
    shapes = {"router": (4, 2), "up": (2, 4, 3), "down": (2, 3, 1)}
    v = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    graph = jp.trace(mixture, v, X[:, :4])
    return graph, stats.expert_use(graph, v, [X[:, :4]])


def of_statistic(score: Callable[..., Any], *names: str) -> Callable[..., Any]:
    return lambda put: score(GRAPH, *(put(data()[name]) for name in names))


def of_weights(score: Callable[..., Any], *more: Any, **keywords: Any) -> Callable[..., Any]:
    return lambda put: score(GRAPH, put(V), *map(put, more), **keywords)


def of_scores(score: Callable[..., Any]) -> Callable[..., Any]:
    return lambda put: score(put(scores.l2(GRAPH, V)))


def of_array(score: Callable[..., Any], *shape: int, **keywords: Any) -> Callable[..., Any]:
    array = RANDOM.normal(size=shape).astype(np.float32) ** 2
    return lambda put: score(put(array), **keywords)


def of_use(score: Callable[..., Any]) -> Callable[..., Any]:
    return lambda put: score(experts()[0], put(experts()[1]))


def of_branches(put: Any) -> Any:
    run, v, x = jp.gated(network, GRAPH), put(V), put(X)
    return scores.removal_loss(GRAPH, lambda gates: loss(run(v, gates, x), (x, put(Y))))


CASES = {
    "activation_norm": of_statistic(scores.activation_norm, "norm"),
    "apoz": of_statistic(scores.apoz, "zeros"),
    "block_influence": lambda put: scores.block_influence(network, GRAPH, put(V), put(X)),
    "bn_scale": of_weights(scores.bn_scale),
    "channel_energy": of_weights(scores.channel_energy),
    "composite": of_scores(lambda s: scores.composite([(s, 0.5), (s, 1.0)])),
    "entropy": of_statistic(scores.entropy, "bins"),
    "expert_frequency": of_use(scores.expert_frequency),
    "expert_gates": of_use(scores.expert_gates),
    "filter_similarity": of_weights(scores.filter_similarity, centered=True),
    "fisher": of_statistic(scores.fisher, "square"),
    "fpgm": of_weights(scores.fpgm),
    "inf_fs": of_array(scores.inf_fs, 256, N),
    "kmeans": lambda put: scores.kmeans(GRAPH, put(V), {"a": 5, "up": 7}),
    "l1": of_weights(scores.l1),
    "l2": of_weights(scores.l2, roles=("out", "in", "vector")),
    "lamp": of_scores(lambda s: scores.normalized(s, by=scores.lamp)),
    "lasso": of_statistic(scores.lasso, "added"),
    "mean_activation": of_statistic(scores.mean_activation, "mean"),
    "nisp": lambda put: scores.nisp(GRAPH, put(V), put({"a": np.ones(N, np.float32)})),
    "normalized": of_scores(scores.normalized),
    "obd": of_weights(scores.obd, GRADIENTS),
    "obd_gates": of_statistic(scores.obd_gates, "h"),
    "obs": of_statistic(scores.obs, "costs"),
    "quotas": of_scores(lambda s: scores.quotas([(s, 0.5), (s, 0.5)])),
    "random": lambda _: scores.random(GRAPH, jax.random.key(0)),
    "reap": of_use(scores.reap),
    "redundancy": lambda put: scores.redundancy(GRAPH, put(scores.filter_similarity(GRAPH, V))),
    "removal_loss": of_branches,
    "snip": of_statistic(scores.snip, "slope"),
    "taylor": of_weights(scores.taylor, GRADIENTS),
    "taylor_activation": lambda put: scores.taylor_activation(GRAPH, put(slopes()[0])),
    "taylor_bn": of_weights(scores.taylor_bn, GRADIENTS),
    "taylor_branch": lambda put: scores.taylor_branch(GRAPH, put(slopes()[1])),
    "taylor_gate": of_weights(scores.taylor_gate, GRADIENTS),
    "taylor_members": of_weights(scores.taylor_members, GRADIENTS, entry=np.square),
    "taylor_second_order": of_statistic(scores.taylor_second_order, "slope", "h"),
    "taylor_squared": of_statistic(scores.taylor_squared, "square"),
    "thinet": of_statistic(scores.thinet, "added"),
    "wanda": of_statistic(scores.wanda, "weighted"),
}
for way in ("euclidean", "max", "mean", "min_max", "none", "standard", "sum"):
    CASES[way] = of_scores(partial(scores.normalized, by=getattr(scores, way)))
for way in ("first", "last"):
    CASES[way] = of_weights(scores.l1, reduce=getattr(scores, way))
CASES["sentinel"] = of_scores(partial(scores.normalized, by=scores.sentinel(0.5)))

UP = {"a": KEEP["a"]}
RECOVER = {
    "absorb_constants": of_weights(recover.absorb_constants, KEEP),
    "dcp": lambda put: recover.dcp(
        GRAPH, put(V), {"a": 2, "up": 2}, [put((X, Y))], loss=loss, points=["a"], head_passes=1
    ),
    "distillation": lambda put: recover.distillation()(put(Y), put(Y + 1), None),
    "feature_loss": lambda put: recover.feature_loss(GRAPH, UP)(
        *({"a": [put(each)]} for each in (X[:, :N], X[:, N : 2 * N]))
    ),
    "lasso": lambda put: recover.lasso(GRAPH, put(V), {"a": 5, "up": 9}, put(data()["added"])),
    "least_squares": lambda put: recover.least_squares(GRAPH, put(V), KEEP, [put(X)]),
    "obs": lambda put: recover.obs(GRAPH, put(V), {"a": 12, "up": 20}, [put(X)]),
    "recalibrate": lambda put: recover.recalibrate(trained, put(V), [put(X)], graph=GRAPH),
}


def on_devices(tree: Any) -> Any:
    """Arrays over the devices: variables as `SPECS` says, others along their first axis."""

    def put(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray) or leaf.dtype == bool:
            return leaf
        spec = SPECS.get(str(getattr(path[-1], "key", None))) if path and leaf.ndim > 1 else None
        first = jax.P("d") if leaf.ndim and not leaf.shape[0] % 8 else jax.P()
        usual = spec is not None and leaf.shape == SHAPES[path[-1].key]
        return jax.device_put(leaf, jax.NamedSharding(MESH, spec if usual and spec else first))

    return jax.tree_util.tree_map_with_path(put, tree)


@contextmanager
def fetched() -> Generator[list[int]]:
    """Yields the sizes of the arrays that came to the host meanwhile."""
    sizes: list[int] = []

    def noted(read: Callable[..., Any]) -> Callable[..., Any]:
        def reads(tree: Any, *args: Any, **keywords: Any) -> Any:
            leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
            sizes.extend(leaf.size for leaf in leaves if not isinstance(leaf, Tracer))
            return read(tree, *args, **keywords)

        return reads

    kind = type(jnp.ones(()))
    with pytest.MonkeyPatch.context() as patch:
        for place, name in ((np, "asarray"), (np, "array"), (kind, "__array__")):
            patch.setattr(place, name, noted(getattr(place, name)))
        patch.setattr(jax, "device_get", noted(jax.device_get))
        yield sizes


def numbers(tree: Any) -> list[np.ndarray]:
    found = [np.asarray(leaf) for leaf in jax.tree.leaves(fetch(tree)) if not isinstance(leaf, str)]
    return [array for array in found if array.dtype.kind in "biuf"]


def check(run: Callable[..., Any], rtol: float = 2e-4) -> None:
    """Checks what comes to the host of a run on devices, and what it gives."""
    expected = numbers(run(lambda tree: tree))
    with fetched() as sizes:
        found = run(on_devices)
    assert max(sizes, default=0) <= MOST
    for ours, theirs in zip(numbers(found), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol)


def functions(package: Any) -> set[str]:
    items = {name: getattr(package, name) for name in package.__all__}
    return {name for name, item in items.items() if inspect.isfunction(item)}


def test_what_is_fetched_is_noted() -> None:
    array = on_devices({"a": V["a"]})["a"]
    for read in (jax.device_get, np.asarray, np.abs, fetch):
        with fetched() as sizes:
            read(array)
        assert max(sizes, default=0) == array.size, read


@pytest.mark.parametrize("name", sorted(functions(scores)))
def test_scores(name: str) -> None:
    check(CASES[name])


@pytest.mark.parametrize("name", sorted(functions(recover)))
def test_reconstructions(name: str) -> None:
    check(RECOVER[name], 1e-3)


def test_statistics() -> None:
    wanted = {
        "moments": stats.moments(),
        "gram": stats.gram(),
        "added": stats.contributions(),
        "costs": stats.removal_costs(),
        "norm": stats.weighted_norm(),
        "each": stats.mean_square(at=At.EXAMPLES),
        "slope": stats.sum(at=At.GATES),
    }
    check(lambda put: stats.collect(GRAPH, put(V), [put((X, Y))] * 2, wanted, loss=loss), 1e-3)
