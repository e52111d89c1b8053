"""Statistics, scores and reconstruction over devices and processes: as on one, to rounding."""

import json
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from jaxprune.stats import At
from processes import in_two_processes

PROCESS = """
import json
import numpy as np
import jaxprune as jp
from jax.experimental import multihost_utils
from test_stats_processes import GRAPH, V, measured, normal_batches, results
mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
spread = jax.NamedSharding(mesh, jax.P("d"))
batches = normal_batches()
half = lambda x: x[: len(x) // 2] if jax.process_index() == 0 else x[len(x) // 2 :]
put = lambda x: jax.make_array_from_process_local_data(spread, half(x))
together = results(GRAPH, V, jax.tree.map(put, batches))

tools = measured(GRAPH)  # each process its own half, whose states are merged
state = tools.init(V, batches[0])
for batch in batches:
    state = jax.jit(tools.update)(state, V, jax.tree.map(half, batch))
leaves, treedef = jax.tree.flatten(multihost_utils.process_allgather(state))
ours, theirs = (treedef.unflatten([leaf[i] for leaf in leaves]) for i in range(2))
merged = tools.finalize(tools.merge(ours, theirs))
print(json.dumps([jax.tree.map(lambda x: x.tolist(), found) for found in (together, merged)]))
"""


def network(v: Any, x: Any) -> Any:
    h = jax.nn.relu(x @ v["a"] + v["c"][None])
    return h @ v["b"] + v["d"][None]


def loss(outputs: Any, batch: Any) -> Any:
    return ((outputs - batch[1]) ** 2).mean()


RANDOM = np.random.default_rng(0)
V = {
    name: RANDOM.normal(size=shape).astype(np.float32)
    for name, shape in {"a": (3, 6), "b": (6, 2), "c": (6,), "d": (2,)}.items()
}


def normal_batches() -> list[Any]:
    rng = np.random.default_rng(1)
    return [tuple(rng.normal(size=(8, n)).astype(np.float32) for n in (3, 2)) for _ in range(2)]


GRAPH = jp.trace(network, V, normal_batches()[0][0])
WANTED = {
    "moments": jp.stats.moments(),
    "added": jp.stats.contributions(),
    "each": jp.stats.mean_square(at=At.EXAMPLES),
}


def measured(graph: jp.ChannelGraph) -> jp.stats.Collector:
    return jp.stats.collector(graph, WANTED, loss=loss)


def results(graph: jp.ChannelGraph, v: Any, batches: Any) -> Any:
    """Statistics, scores of them, and the kernel that is fitted."""
    found = jp.stats.collect(graph, v, batches, WANTED, loss=loss)
    keep = {"a": np.arange(6) % 3 != 0}
    fitted = jp.recover.least_squares(graph, v, keep, batches).variables
    scores = {
        "fisher": jp.scores.fisher(graph, found["each"])["a"],
        "lasso": jp.scores.lasso(graph, found["added"])["a"],
    }
    return found | {
        "scores": scores,
        "fitted": {"b": np.asarray(fitted["b"]), "d": np.asarray(fitted["d"])},
    }


def test_eight_devices_give_the_same_scores_and_kernels() -> None:
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(normal_batches(), jax.NamedSharding(mesh, jax.P("d")))
    everywhere = jax.device_put(V, jax.NamedSharding(mesh, jax.P()))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        results(GRAPH, everywhere, spread),
        results(GRAPH, V, normal_batches()),
    )


def test_two_processes_measure_what_one_does() -> None:
    here = results(GRAPH, V, normal_batches())
    here = json.loads(json.dumps(jax.tree.map(lambda x: np.asarray(x).tolist(), here)))
    for lines in in_two_processes(PROCESS):
        together, merged = json.loads(lines[-1])
        for found in (together, merged):
            expected = {name: here[name] for name in found}
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
            )
