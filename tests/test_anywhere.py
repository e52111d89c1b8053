"""The core of the library on eight devices and over two processes: the numbers of one device."""

import json
import pathlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import jaxprune as jp
from jaxprune.arguments.fetching import fetch
from processes import in_two_processes

PROCESS = """
import json
import jax
from jax.experimental import multihost_utils
import test_anywhere as here
mesh = here.mesh_of(jax.sharding.AxisType.Auto)
with jax.set_mesh(mesh):
    found = here.core(mesh, given[0])
print(json.dumps(here.plain(found)), flush=True)
print(json.dumps(here.refused(given[0], mesh)), flush=True)
multihost_utils.sync_global_devices("the end")
"""

RANDOM = np.random.default_rng(0)
SHAPES = {"first": (4, 16), "mean": (16,), "var": (16,), "scale": (16,), "shift": (16,)}
SHAPES |= {"second": (16, 32), "bias": (32,), "last": (32, 8)}
V = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
V["var"] = np.abs(V["var"]) + 1
V["second"][:, :3] = -0.0
X = RANDOM.normal(size=(8, 4)).astype(np.float32)
SPECS = {"first": jax.P(None, "d"), "second": jax.P(None, "d"), "last": jax.P("d", None)}
HALF = {"first": np.arange(16) % 2 == 0, "second": np.arange(32) % 4 != 0}
KEEP = HALF | {"second": np.arange(32) % 4 < 2}


def mesh_of(kind: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((8,), ("d",), axis_types=(kind,))


def dot(x: Any, w: Any, spec: jax.P) -> Any:
    """Where axes of the mesh are explicit a product must say where it goes."""
    if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
        return x @ w
    if spec == jax.P(None, "d"):
        x = jax.sharding.reshard(x, jax.P(None, None))
    return jnp.einsum("nc,cd->nd", x, w, out_sharding=spec)


def run(v: Any, x: Any, train: bool = False) -> tuple[Any, Any]:
    """Returns the outputs, and in train mode the new running statistics."""
    h = dot(x, v["first"], jax.P(None, "d"))
    used = {"mean": h.mean(0), "var": h.var(0)} if train else v
    h = (h - used["mean"][None]) * jax.lax.rsqrt(used["var"] + 1e-5)[None]
    h = jax.nn.relu(h * v["scale"][None] + v["shift"][None])
    h = jnp.tanh(dot(h, v["second"], jax.P(None, "d")) + v["bias"][None])
    fresh = {name: 0.9 * v[name] + 0.1 * used[name] for name in ("mean", "var")}
    return dot(h, v["last"], jax.P(None, None)), fresh


def network(v: Any, x: Any) -> Any:
    return run(v, x)[0]


def loss(v: Any, x: Any) -> Any:
    return (network(v, x) ** 2).mean()


def mean_of(v: Any, x: Any) -> Any:
    """The constant in the mean follows the width."""
    h = dot(x, v["first"], jax.P(None, "d")).mean(axis=1, keepdims=True)
    return h * v["out"][None]


def scores_of(graph: jp.ChannelGraph, v: Any, gradients: Any) -> dict[str, Any]:
    return {
        "l1": jp.scores.l1(graph, v, roles=("out", "in", "vector")),
        "l2": jp.scores.l2(graph, v),
        "energy": jp.scores.channel_energy(graph, v),
        "bn": jp.scores.bn_scale(graph, v),
        "fpgm": jp.scores.fpgm(graph, v),
        "similarity": jp.scores.filter_similarity(graph, v, centered=True),
        "kmeans": jp.scores.kmeans(graph, v, {"first": 5, "second": 9}),
        "nisp": jp.scores.nisp(graph, v, {"second": np.ones(32, np.float32)}),
        "taylor": jp.scores.taylor(graph, v, gradients),
        "taylor_bn": jp.scores.taylor_bn(graph, v, gradients),
        "obd": jp.scores.obd(graph, v, gradients),
        "in a program": jax.jit(lambda v: jp.scores.l2(graph, v))(v),
    }


def core(mesh: jax.sharding.Mesh | None, path: str) -> dict[str, Any]:
    """Returns what every part of the library gives; without a mesh of arrays on the host."""

    def put(tree: Any) -> Any:
        if mesh is None:
            return tree
        found = {}
        for name, x in tree.items():
            spec = SPECS[name] if np.ndim(x) == 2 else jax.P("d" if len(x) > 1 else None)
            found[name] = jax.device_put(x, jax.NamedSharding(mesh, spec))
        return found

    v, x = put(V), X if mesh is None else jax.device_put(X, jax.NamedSharding(mesh, jax.P()))
    graph = jp.trace(network, v, x)
    gradients = jax.jit(jax.grad(loss))(v, x)
    found: dict[str, Any] = {
        "scores": scores_of(graph, v, gradients),
    }
    chosen = jp.select.global_ratio(
        graph, put(found["scores"]["in a program"]), prune_ratio=0.4, multiple_of=8
    )
    small = jp.slice(graph, v, KEEP)
    tx = optax.adam(0.1)
    state = tx.update(gradients, jax.jit(tx.init)(v), v)[1]
    found |= {
        "chosen": chosen,
        "masked": jp.mask(graph, v, KEEP),
        "masked in a program": jax.jit(lambda v, keep: jp.mask(graph, v, keep))(v, KEEP),
        "small": small,
        "fit": jp.slice(graph, v, HALF | {"second": np.arange(32) < 6}, shardings="fit"),
        "back": jp.unslice(graph, small, KEEP),
        "into": jp.unslice(graph, small, KEEP, into=v),
        "state": jp.slice_opt_state(graph, state, KEEP, tx=tx, params=v)[0]._asdict(),
        "absorbed": jp.recover.absorb_constants(graph, v, KEEP).variables,
        "fitted": jp.recover.least_squares(graph, v, KEEP, [x], ridge=1.0).variables,
        "outputs": jax.jit(jp.narrow(network, graph, KEEP))(small, x),
    }
    add = jax.jit(lambda tally, v: tally.add(jp.scores.l2(graph, v)))
    found["tally"] = add(add(jp.schedule.tally(graph), v), v).scores()
    update = jax.jit(lambda v, x: run(v, x, train=True)[1])
    found["recalibrated"] = jp.recover.recalibrate(update, v, [x, x * 2], graph=graph)
    means = jp.stats.collect(graph, v, [x], {"mean": jp.stats.moments()})["mean"]
    found["stats"] = {name: item._asdict() for name, item in means.items()}
    whole = put({"first": V["first"], "out": V["bias"][:1]})
    other = jp.trace(mean_of, whole, x)
    found["rescaled"] = jp.slice(other, whole, {"first": HALF["first"]}, rescale=True)
    jp.save(path, small, jp.spec(graph, KEEP), overwrite=True)
    found["restored"] = jp.restore(path, like=small).variables
    verified = jp.verify(graph, network, KEEP, v, x)
    found["verdicts"] = {name: text == "exact" for name, text in verified.groups.items()}
    return found


def refused(path: str, mesh: jax.sharding.Mesh) -> list[str]:
    """Returns what saves say that only one of the processes can see is wrong."""
    second = jax.process_index() == 1
    w = jax.device_put(X, jax.NamedSharding(mesh, jax.P()))
    spec = {"format": 1, "groups": {}, "versions": {}}
    calls = [
        ({"w": w, "n": object() if second else 1}, path),
        ({"w": w, "n": 1.0 if second else 1}, path),
        ({"w": w}, path + "x" * second),
        ({"w": jnp.ones(2)}, path),
    ]
    said = []
    for tree, place in calls:
        try:
            jp.save(place, tree, spec, overwrite=True)
        except jp.errors.CheckpointError as error:
            said.append(str(error))
    return said


def plain(tree: Any) -> Any:
    """Returns the tree with lists for arrays."""
    return jax.tree.map(lambda x: np.asarray(x).tolist(), fetch(tree))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: Any) -> Any:
    return plain(core(None, str(tmp_path_factory.mktemp("one") / "small")))


def assert_same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, own in found.items():
        close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5, err_msg=name)
        jax.tree.map(close, own, expected[name])


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_eight_devices_give_the_numbers_of_one(
    kind: AxisType, expected: Any, tmp_path: pathlib.Path
) -> None:
    mesh = mesh_of(kind)
    with jax.set_mesh(mesh):
        found = core(mesh, str(tmp_path / "small"))
    for name, leaf in found["small"].items():
        assert leaf.sharding == jax.NamedSharding(mesh, SPECS.get(name, jax.P("d"))), name
        bits = np.asarray(leaf).tobytes(), np.asarray(expected["small"][name], "f4").tobytes()
        assert bits[0] == bits[1], name  # -0.0 too
    assert_same(plain(found), expected)


def test_two_processes_give_the_numbers_of_one(expected: Any, tmp_path: pathlib.Path) -> None:
    said = []
    for lines in in_two_processes(PROCESS, str(tmp_path / "small"), devices=4):
        assert_same(json.loads(lines[-2]), expected)
        said.append(json.loads(lines[-1]))
    assert said[0] == said[1]
    unknown, number, path, local = said[0]
    assert "process 1: cannot save" in unknown
    assert "leaf 'n' is of type object" in unknown
    assert number == path
    assert number.startswith("process 1 saves another path, spec or tree than process 0.")
    assert "process 0: cannot save" in local
    assert "leaf 'w' is on devices of one process alone" in local
