import importlib.util
import subprocess
import sys
import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.errors import JaxpruneError
from jaxprune.running.export import export, exported

PLATFORMS = ("cpu", "cuda", "tpu")
IMAGE = jnp.linspace(-1.0, 1.0, 6 * 6 * 3).reshape(1, 6, 6, 3)

needs_flatbuffers = pytest.mark.skipif(
    importlib.util.find_spec("flatbuffers") is None, reason="jax.export needs it to write files"
)


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(8, (3, 3))(x)))
        return nn.Dense(4)(nn.relu(nn.Conv(6, (3, 3))(x)).mean(axis=(1, 2)))


def serve(v, x):
    return Network().apply(v, x, train=False)


@pytest.fixture(scope="module")
def pruned():
    variables = jax.jit(Network().init)(jax.random.key(0), IMAGE)
    graph = jp.trace(serve, variables, IMAGE)
    keep = {name: np.arange(group.size) % 3 != 1 for name, group in graph.groups.items()}
    return graph, keep, jp.slice(graph, variables, keep)


@pytest.fixture(scope="module")
def resized(pruned):
    graph, keep, small = pruned
    model = jp.linen.resize(Network(), graph, keep)
    return lambda v, x: model.apply(v, x, train=False), small


def images(batch):
    return jax.random.normal(jax.random.key(batch), (batch, *IMAGE.shape[1:]))


ALONE = """
    import pathlib, sys

    class Forbidden:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("flax", "jaxprune"):
                raise ImportError(f"{name} is not here")

    sys.meta_path.insert(0, Forbidden())
    import jax.export
    import numpy as np

    served = jax.export.deserialize(bytearray(pathlib.Path(sys.argv[1]).read_bytes()))
    inputs = np.load(sys.argv[2])
    np.savez(sys.argv[3], **{name: served.call(x) for name, x in inputs.items()})
    assert not {"flax", "jaxprune"} & set(sys.modules)
"""


@needs_flatbuffers
@pytest.mark.parametrize("narrowed", [False, True])
def test_a_process_without_jaxprune_and_flax_gives_the_same(tmp_path, pruned, resized, narrowed):
    fn, small = resized
    if narrowed:
        fn = jp.narrow(serve, *pruned[:2])
    export(tmp_path / "small.jax", fn, small, IMAGE)
    np.savez(tmp_path / "in.npz", one=images(1), seven=images(7))
    paths = [str(tmp_path / name) for name in ("small.jax", "in.npz", "out.npz")]
    script = [sys.executable, "-c", textwrap.dedent(ALONE), *paths]
    subprocess.run(script, cwd=tmp_path, check=True)
    with np.load(tmp_path / "out.npz") as file:
        out = dict(file)
    for name, batch in (("one", 1), ("seven", 7)):
        np.testing.assert_allclose(out[name], fn(small, images(batch)), rtol=1e-5, atol=1e-6)


@needs_flatbuffers
def test_replaces_the_file_and_leaves_no_other(tmp_path, resized):
    path = tmp_path / "small.jax"
    path.write_bytes(b"old")
    export(path, *resized, IMAGE, platforms=("cpu",))
    assert [file.name for file in tmp_path.iterdir()] == ["small.jax"]
    assert path.read_bytes() != b"old"


@pytest.mark.parametrize("batch", [1, 7])
def test_the_batch_is_open(resized, batch):
    fn, small = resized
    served = exported(fn, small, (IMAGE,), "batch, ...", PLATFORMS)
    assert (served.platforms, served.nr_devices) == (PLATFORMS, 1)
    out = served.call(images(batch))
    np.testing.assert_allclose(out, fn(small, images(batch)), rtol=1e-5, atol=1e-6)


def test_a_narrowed_function_is_served_too(pruned):
    graph, keep, small = pruned
    fn = jp.narrow(serve, graph, keep)
    served = exported(fn, small, (IMAGE,), "batch, ...", PLATFORMS)
    np.testing.assert_allclose(served.call(images(7)), fn(small, images(7)), rtol=1e-5, atol=1e-6)


def test_sizes_are_open_where_shapes_says_so():
    inputs = (jax.ShapeDtypeStruct((2, 5), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32))
    served = exported(lambda v, x, y: v * x + y, 2.0, inputs, ("_, n", None), ("cpu",))
    assert served.call(jnp.ones((2, 9)), jnp.ones(())).shape == (2, 9)
    fixed = exported(lambda v, x, y: v * x + y, 2.0, inputs, None, ("cpu",))
    assert [aval.shape for aval in fixed.in_avals] == [(2, 5), ()]


def test_sharded_variables_become_constants_of_one_device():
    mesh = jax.make_mesh((8,), ("model",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("model"))
    weight = jax.device_put(jnp.ones((16, 2)), sharding)
    served = exported(lambda v, x: x @ v, weight, (jnp.ones((1, 16)),), "b, ...", ("cpu",))
    assert served.nr_devices == 1
    assert (served.call(jnp.ones((3, 16))) == 16).all()


@pytest.mark.parametrize(
    ("fn", "small"),
    [
        (lambda v, x: (v * x).reshape(3, -1), 1.0),
        (lambda v, x: v @ x, jax.ShapeDtypeStruct((4, 4), jnp.float32)),
    ],
)
def test_an_error_says_the_way_out_and_writes_nothing(tmp_path, monkeypatch, fn, small):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(JaxpruneError) as error:
        export(tmp_path / "x", fn, small, jnp.ones((3, 4)))
    text = str(error.value)
    assert "/x' with inputs of shapes 'batch, ...' for cpu, cuda, tpu: " in text
    assert "\nFix: pass shapes=None if the function needs the batch size as a number" in text
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, resized):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(jax.export.Exported, "serialize", lambda _: b"new")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    (tmp_path / "small.jax").write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        export(tmp_path / "small.jax", *resized, IMAGE, platforms=("cpu",))
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_without_flatbuffers_the_error_names_it(tmp_path, monkeypatch, resized):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(JaxpruneError, match=r"not installed\.\nFix: pip install flatbuffers\."):
        export(tmp_path / "small.jax", *resized, IMAGE)
