"""Variables in checkpoints of Orbax: opened, scored and sliced a chunk at a time, bit by bit."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

import jaxprune as jp
from checkpoints import SPEC, data
from jaxprune.arguments import stored_arrays
from jaxprune.checkpoint import unfinished
from jaxprune.errors import CheckpointError
from stored_files import TURNED, Killed, close, flip, killing, network, planned, same, written


@pytest.fixture(scope="module")
def traced():
    return planned()


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(stored_arrays, "PIECE", 80)


def by_jaxprune(folder, v):
    jp.save(folder, v, SPEC, opt_state={"m": v})
    return folder


def by_orbax(folder, v, **saving):
    """Returns the directory of a tree, as others save it."""
    context = ocp.Context()
    for name, value in saving.items():
        setattr(context.array.saving, name, value)
    with context:
        ocp.save(folder, v)
    return folder


def as_zarr2(folder, v):
    return by_orbax(folder, v, use_ocdbt=False, use_zarr3=False) / "state"


def on_devices(folder, v):
    """Each device writes chunks of its own: of some arrays another axis than the first."""
    mesh = jax.make_mesh((2,), ("d",), devices=jax.devices()[:2])
    specs = {"first": jax.P(None, "d"), "last": jax.P(None, "d"), "bias": jax.P("d")}
    specs["layers"] = {
        "gate": jax.P(None, None, "d"),
        "up": jax.P(None, "d"),
        "down": jax.P(None, "d"),
    }
    shardings = jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), specs)
    return by_orbax(folder, jax.device_put(v, shardings))


WRITERS = {f.__name__: f for f in (by_jaxprune, by_orbax, as_zarr2, on_devices)}


@pytest.mark.parametrize("to", ["orbax", "safetensors"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_slice_of_a_checkpoint_is_that_of_the_tree(tmp_path, traced, writer, to):
    if to == "safetensors":
        pytest.importorskip("safetensors")
    graph, v, keep = traced
    stored = jp.open_variables(graph, WRITERS[writer](tmp_path / "in", v))
    same(jax.tree.map(np.asarray, stored), v)
    close(jp.scores.l2(graph, stored), jp.scores.l2(graph, v))
    out = tmp_path / "out"
    jp.slice_stored(graph, stored, keep, out, metadata={"n": 1}, format=to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert not (out / unfinished.JOURNAL).exists()
    expected, restored = jp.slice(graph, v, keep), jp.restore(out)
    assert (restored.metadata, restored.spec) == ({"n": 1}, jp.spec(graph, keep))
    same(restored.variables, expected)
    small = jp.trace(jp.narrow(network, graph, keep), expected, np.ones((1, 7), np.float32))
    same(jax.tree.map(np.asarray, jp.open_variables(small, out)), expected)


def test_arrays_on_devices_are_in_parts_along_what_they_divide(tmp_path, traced):
    graph, v, _ = traced
    stored = jp.open_variables(graph, on_devices(tmp_path / "in", v))
    places = {path: (leaf.along, leaf.together) for path, leaf in stored["layers"].items()}
    assert places == {"gate": (2, 5), "up": (1, 3), "down": (1, 5)}
    assert list(stored["layers"]["up"].bounds()) == [(0, 3), (3, 6)]
    whole = jp.open_variables(graph, by_orbax(tmp_path / "whole", v))
    assert list(whole["layers"]["up"].bounds()) == [(0, 3)]


def test_what_is_saved_is_in_chunks(tmp_path, traced):
    """Such as can be read without the rest of a large array; others are whole."""
    graph, v, _ = traced
    stored = jp.open_variables(graph, by_jaxprune(tmp_path / "in", v))
    assert [*stored["layers"]["up"].bounds()] == [(0, 1), (1, 2), (2, 3)]
    assert [(leaf.along, leaf.together) for leaf in (stored["first"], stored["bias"])] == [
        (0, 1),  # 84 bytes: the largest axis, 7, is divided by its prime factors
        (0, 6),
    ]


def test_safetensors_become_a_checkpoint_that_can_be_saved_over(tmp_path, traced):
    pytest.importorskip("safetensors")
    graph, v, keep = traced
    stored = jp.open_variables(graph, written(tmp_path / "in", v, 2, TURNED), axes=TURNED)
    out, expected = tmp_path / "deep" / "out", jp.slice(graph, v, keep)
    jp.slice_stored(graph, stored, keep, out, format="orbax")
    chunks = [path for path in out.rglob("c/**/*") if path.is_file()]
    assert max(path.stat().st_size for path in chunks) <= stored_arrays.PIECE
    place = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), expected)
    placed = jp.restore(out, like=like).variables
    same(placed, expected)
    assert placed["last"].devices() == {jax.devices()[1]}
    jp.save(out, {"w": np.ones(2)}, SPEC, overwrite=True)
    same(jp.restore(out).variables, {"w": np.ones(2)})
    assert data(out).is_dir()


def test_branches_go_into_a_checkpoint(tmp_path, traced):
    graph, v, keep = traced
    name, branch = next((n, b) for n, b in jp.branches(graph).items() if b.steps)
    stored = jp.open_variables(graph, by_jaxprune(tmp_path / "in", v))
    for left in ([True, False, True], [False] * branch.steps):
        both, out = keep | {name: np.array(left)}, tmp_path / str(sum(left))
        jp.slice_stored(graph, stored, both, out, format="orbax")
        same(jp.restore(out).variables, jp.slice(graph, v, both))


@pytest.mark.parametrize("place", ["in a tensor", "before the journal", "before the name"])
def test_a_killed_slice_goes_on(tmp_path, traced, monkeypatch, place):
    graph, v, keep = traced
    stored = jp.open_variables(graph, by_orbax(tmp_path / "in", v))
    out, again, write = tmp_path / "out", [], unfinished.Unfinished.write
    with monkeypatch.context() as patch:
        killing(patch, place)
        with pytest.raises(Killed):
            jp.slice_stored(graph, stored, keep, out, format="orbax")
    assert not out.exists()
    (beginning,) = (tmp_path / "out.partial").glob("jaxprune-data-*")
    flip(beginning / "variables" / "0" / "c" / "0")
    (tmp_path / "out.partial" / "jaxprune-data-1.orbax-checkpoint-tmp").mkdir()

    def counted(self, name, parts):
        again.append(name)
        write(self, name, parts)

    monkeypatch.setattr(unfinished.Unfinished, "write", counted)
    with pytest.raises(CheckpointError, match="is not the beginning of this slice"):
        jp.slice_stored(graph, stored, keep, out, format="orbax", metadata=1)
    jp.slice_stored(graph, stored, keep, out, format="orbax")
    assert again == {"before the name": ["bias"]}.get(place, ["bias", *REST])
    same(jp.restore(out).variables, jp.slice(graph, v, keep))
    assert data(out).is_dir()


REST = ["last", "layers.down", "layers.gate", "layers.up"]


def test_a_dtype_that_safetensors_lacks_is_of_orbax_alone(tmp_path):
    v = {"a": np.ones((3, 4), jnp.int4), "b": -np.zeros((4, 2), jnp.float8_e4m3fn)}
    v |= {"c": np.array([True, False]), "d": np.float32(3), "e": np.zeros((2, 0), np.int16)}

    def run(v, x):
        h = jax.nn.relu(x @ v["a"].astype(jnp.float32)) @ v["b"].astype(jnp.float32)
        return h * v["c"][None] * v["d"], v["e"]

    graph = jp.trace(run, v, jax.ShapeDtypeStruct((1, 3), jnp.float32))
    stored = jp.open_variables(graph, by_jaxprune(tmp_path / "in", v))
    keep = {"a": np.array([True, False, True, True])}
    jp.slice_stored(graph, stored, keep, tmp_path / "out", format="orbax")
    same(jp.restore(tmp_path / "out").variables, jp.slice(graph, v, keep))
    with pytest.raises(CheckpointError, match=r"does not have these dtypes:\s+tensor 'a' is int4"):
        jp.slice_stored(graph, stored, keep, tmp_path / "other")


def test_what_is_damaged_is_refused(tmp_path, traced):
    graph, v, _ = traced
    folder = by_jaxprune(tmp_path / "in", v)
    (chunk, *_) = sorted(data(folder).glob("variables/ocdbt.process_0/d/*"))
    stored = jp.open_variables(graph, folder)
    flip(chunk)
    with pytest.raises(CheckpointError, match="has changed since it was written"):
        jp.scores.l2(graph, stored)
    shutil.rmtree(data(folder))
    with pytest.raises(CheckpointError, match="is damaged"):
        jp.open_variables(graph, folder)


def test_a_chunk_that_is_absent_is_not_zero(tmp_path, traced):
    graph, v, _ = traced
    folder = by_orbax(tmp_path / "in", v, use_ocdbt=False)
    stored = jp.open_variables(graph, folder)
    (folder / "state" / "bias" / "c" / "0").unlink()
    with pytest.raises(CheckpointError, match=r"'bias' in .* cannot be read"):
        np.asarray(stored["bias"])
    said = folder / "state" / "_METADATA"
    said.write_text(said.read_text() + " ")
    with pytest.raises(CheckpointError, match="has changed since it was opened"):
        np.asarray(stored["last"])
    shutil.rmtree(folder / "state" / "last")
    with pytest.raises(CheckpointError, match="cannot be read:\n  'last'"):
        jp.open_variables(graph, folder)
    for text in ("{", "[]", json.dumps({"tree_metadata": {"x": {}}})):
        said.write_text(text)
        with pytest.raises(CheckpointError, match=r"_METADATA of .* cannot be read"):
            jp.open_variables(graph, folder)


def test_which_tree_and_which_leaf_must_be_clear(tmp_path, traced):
    graph, v, _ = traced
    ocp.save_checkpointables(tmp_path / "two", {"a": v, "b": {"x": np.ones(1)}})
    with pytest.raises(CheckpointError, match=r"holds the trees \['a', 'b'\]"):
        jp.open_variables(graph, tmp_path / "two")
    same(jax.tree.map(np.asarray, jp.open_variables(graph, tmp_path / "two" / "a")), v)
    with pytest.raises(CheckpointError, match="no tensor 'bias'"):
        jp.open_variables(graph, tmp_path / "two" / "b")
    twice = {"a": {"b": np.ones(2)}, "a.b": np.ones(2)}
    with pytest.raises(CheckpointError, match=r"'a\.b' is the name of 2 leaves"):
        jp.open_variables(graph, by_jaxprune(tmp_path / "twice", twice))
