"""Variables in files: opened, scored and sliced a part at a time, equal bit by bit."""

import os

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.arguments import stored_arrays
from jaxprune.checkpoint import unfinished
from jaxprune.errors import CheckpointError, PatternError, TreeError
from stored_files import TURNED, Killed, close, flip, killing, network, planned, same, written

pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def traced():
    return planned()


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(stored_arrays, "PIECE", 80)


@pytest.mark.parametrize(
    ("shards", "turned", "shard_bytes"), [(1, None, 10**9), (3, TURNED, 300), (2, None, 1)]
)
def test_a_slice_of_files_is_that_of_the_tree(tmp_path, traced, shards, turned, shard_bytes):
    graph, v, keep = traced
    stored = jp.open_variables(graph, written(tmp_path / "in", v, shards, turned), axes=turned)
    assert jax.tree.structure(stored) == jax.tree.structure(v)
    expected = jp.slice(graph, v, keep)
    out = tmp_path / "deep" / "out"
    jp.slice_stored(graph, stored, keep, out, metadata={"n": 1}, shard_bytes=shard_bytes)
    assert not (tmp_path / "deep" / "out.partial").exists()
    assert unfinished.JOURNAL not in os.listdir(out)
    restored = jp.restore(out)
    assert (restored.metadata, restored.spec) == ({"n": 1}, jp.spec(graph, keep))
    same(restored.variables, expected)
    struct = jax.ShapeDtypeStruct
    like = jax.tree.map(
        lambda x: struct(x.shape, x.dtype, sharding=jax.sharding.SingleDeviceSharding(DEVICE)),
        expected,
    )
    placed = jp.restore(out, like=like).variables
    same(placed, expected)
    assert placed["last"].devices() == {DEVICE}
    small = jp.trace(jp.narrow(network, graph, keep), expected, np.ones((1, 7), np.float32))
    again = jp.open_variables(small, out, axes=turned)
    same(jax.tree.map(np.asarray, again), expected)
    assert again["last"].header == {"format": "pt"}
    same(jp.slice(graph, stored, keep), expected)
    same(jp.mask(graph, stored, keep), jp.mask(graph, v, keep))
    same(jp.unslice(graph, again, keep, into=stored), jp.unslice(graph, expected, keep, into=v))


DEVICE = jax.devices()[1]


def test_branches_go_from_files_as_from_the_tree(tmp_path, traced):
    graph, v, keep = traced
    name, branch = next((n, b) for n, b in jp.branches(graph).items() if b.steps)
    for turned in (None, TURNED):
        folder = tmp_path / str(turned is None)
        stored = jp.open_variables(graph, written(folder, v, 1, turned), axes=turned)
        for left in ([True, False, True], [False] * branch.steps):
            both = keep | {name: np.array(left)}
            out = folder / str(sum(left))
            jp.slice_stored(graph, stored, both, out)
            same(jp.restore(out).variables, jp.slice(graph, v, both))


def test_scores_of_files_are_those_of_the_tree(tmp_path, traced):
    graph, v, _ = traced
    stored = jp.open_variables(graph, written(tmp_path / "in", v, 2, TURNED), axes=TURNED)
    gradients = jax.tree.map(lambda x: x * x.dtype.type(2), v)
    rolled = jp.open_variables(graph, written(tmp_path / "g", gradients))
    for score in (jp.scores.l1, jp.scores.l2, jp.scores.channel_energy, jp.scores.fpgm):
        close(score(graph, stored), score(graph, v))
    for second in (rolled, gradients):
        close(jp.scores.taylor(graph, stored, second), jp.scores.taylor(graph, v, gradients))


@pytest.mark.parametrize(
    ("place", "left"), [("in a tensor", 4), ("before the journal", 4), ("before the name", 0)]
)
def test_a_killed_slice_goes_on(tmp_path, traced, monkeypatch, place, left):
    graph, v, keep = traced
    stored = jp.open_variables(graph, written(tmp_path / "in", v))
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        killing(patch, place)
        with pytest.raises(Killed):
            jp.slice_stored(graph, stored, keep, out)
    assert not out.exists()
    with open(tmp_path / "out.partial" / unfinished.JOURNAL, "a") as journal:
        journal.write('{"tensor": "torn')
    again, write = [], unfinished.Unfinished.write

    def counted(self, name, parts):
        again.append(name)
        write(self, name, parts)

    monkeypatch.setattr(unfinished.Unfinished, "write", counted)
    jp.slice_stored(graph, stored, keep, out)
    assert len(again) == left
    assert unfinished.JOURNAL not in os.listdir(out)
    same(jp.restore(out).variables, jp.slice(graph, v, keep))


def test_what_was_damaged_before_it_goes_on_is_written_again(tmp_path, traced, monkeypatch):
    graph, v, keep = traced
    stored = jp.open_variables(graph, written(tmp_path / "in", v))
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        killing(patch, "before the name")
        with pytest.raises(Killed):
            jp.slice_stored(graph, stored, keep, out)
    flip(tmp_path / "out.partial" / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not the beginning of this slice"):
        jp.slice_stored(graph, stored, {}, out)
    jp.slice_stored(graph, stored, keep, out)
    same(jp.restore(out).variables, jp.slice(graph, v, keep))
    with pytest.raises(CheckpointError, match="nothing is overwritten"):
        jp.slice_stored(graph, stored, keep, out)
    assert not (tmp_path / "out.partial").exists()


def test_damaged_files_are_refused(tmp_path, traced):
    graph, v, keep = traced
    source = written(tmp_path / "in", v, 2)
    stored = jp.open_variables(graph, source)
    out = tmp_path / "out"
    jp.slice_stored(graph, stored, {}, out)
    flip(out / "model.safetensors")
    opened = jp.open_variables(graph, out)
    with pytest.raises(CheckpointError, match=r"is damaged: tensor '.*' has changed"):
        jp.slice_stored(graph, opened, keep, tmp_path / "next")
    with pytest.raises(CheckpointError, match="is damaged"):
        _ = jp.restore(out).variables
    alone = jp.open_variables(graph, out / "model.safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        jp.scores.l2(graph, alone)
    flip(out / "jaxprune-slice.json", 200)
    with pytest.raises(CheckpointError, match=r"jaxprune-slice\.json"):
        jp.restore(out)
    part = source / "part-0.safetensors"
    os.utime(part, ns=(1, 1))
    with pytest.raises(CheckpointError, match="has changed since it was opened"):
        jp.scores.l2(graph, stored)
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="cannot be read"):
        jp.open_variables(graph, source)
    part.unlink()
    with pytest.raises(CheckpointError, match=r"part-0\.safetensors.*cannot be read"):
        jp.open_variables(graph, source)
    (source / "x.safetensors.index.json").unlink()
    (source / "copy.safetensors").write_bytes((source / "part-1.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="is in two files"):
        jp.open_variables(graph, source)


def test_wrong_names_are_refused_all_at_once(tmp_path, traced):
    graph, v, keep = traced
    source = written(tmp_path / "in", v | {"extra": np.ones(3), "last": v["last"][:, :1]})
    names = {"layers/up": "layers.upp", "layers/gate": "layers.down", "bias": 3}
    with pytest.raises(CheckpointError) as caught:
        jp.open_variables(graph, source, names=names, axes={"first": (0, 0)})
    for line in (
        "variable 'layers/up': no tensor 'layers.upp'; near: ['layers.up'",
        "variable 'bias': its tensor is 3, not a name",
        "tensor 'layers.down' is that of 2 variables",
        "tensor 'layers.down' is F32[3, 10, 6], the graph has [3, 6, 10]",
        "tensor 'last' is F32[6, 1], the graph has [6, 2]",
        "axes (0, 0) are not a permutation",
        "tensor 'extra' is not that of a variable",
        "Fix: names= says",
    ):
        assert line in str(caught.value)
    with pytest.raises(CheckpointError, match="'nope' is not a variable"):
        jp.open_variables(graph, source, names={"nope": "x"})
    with pytest.raises(PatternError, match="ignore 'nope' matches none"):
        jp.open_variables(graph, source, ignore="nope")
    good = written(tmp_path / "good", v | {"extra": np.ones(3)})
    stored = jp.open_variables(graph, good, ignore=["ex*"])
    with pytest.raises(CheckpointError, match="'bias' is float32"):
        jp.slice_stored(graph, stored | {"bias": v["bias"]}, keep, tmp_path / "out")
    with pytest.raises(CheckpointError, match="'bias' is absent"):
        jp.slice_stored(
            graph, {k: x for k, x in stored.items() if k != "bias"}, keep, tmp_path / "o"
        )
    with pytest.raises(TreeError, match="does not mirror"):
        jp.slice_stored(graph, stored | {"more": stored["bias"]}, keep, tmp_path / "out")
