"""What cannot be saved is refused before anything is written."""

import errno
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from checkpoints import PARAMS, SPEC, assert_identical, data, files
from jaxprune.checkpoint import restore, save
from jaxprune.errors import CheckpointError


@pytest.fixture
def checkpoint(tmp_path):
    save(tmp_path / "pruned", {"w": np.arange(3.0)}, SPEC)
    return tmp_path / "pruned"


GROUP = {"size": 4, "kept": [0, 1]}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({}, "spec is not a dict with format 1 or 2, groups and versions"),
        (SPEC | {"format": "1"}, "spec is not a dict with format 1"),
        (SPEC | {"groups": []}, "spec is not a dict with format 1"),
        (SPEC | {"groups": {"g": GROUP | {"kept": []}}}, "group 'g': not a size and a list"),
        (SPEC | {"groups": {"g": GROUP | {"kept": [0.0]}}}, "group 'g': not a size and a list"),
        (SPEC | {"groups": {"g": GROUP | {"kept": [1, 0]}}}, "increasing indices from 0 to 3"),
        (SPEC | {"groups": {"g": GROUP | {"kept": [1, 1]}}}, "increasing indices from 0 to 3"),
        (SPEC | {"groups": {"g": GROUP | {"kept": [-1, 1]}}}, "increasing indices from 0 to 3"),
        (SPEC | {"groups": {"g": GROUP | {"kept": [1, 4]}}}, "increasing indices from 0 to 3"),
        (SPEC | {"groups": {"g": GROUP | {"kept": np.arange(2)}}}, "is of type ndarray"),
    ],
)
def test_a_bad_spec_is_refused_before_anything_is_written(tmp_path, spec, why):
    with pytest.raises(CheckpointError, match=f"(?s){why}.*Fix: "):
        save(tmp_path / "pruned", PARAMS, spec)
    assert not (tmp_path / "pruned").exists()


def test_metadata_that_is_no_json_is_refused_before_anything_is_written(tmp_path):
    metadata = {"a": [1, {"nan": np.nan}], "b": {2: "x"}, "c": np.float32(1), "d": (1, object())}
    with pytest.raises(CheckpointError) as error:
        save(tmp_path / "pruned", PARAMS, SPEC, metadata=metadata)
    for line in (
        "metadata['a'][1]['nan'] is nan, which JSON does not have",
        "metadata['b'] has the key 2; a key in JSON is a string",
        "metadata['c'] is of type float32",
        "metadata['d'][1] is of type object",
        "Fix: ",
    ):
        assert line in str(error.value)
    assert not (tmp_path / "pruned").exists()


def test_leaves_that_are_no_numbers_are_refused_before_anything_is_written(tmp_path):
    deleted = jnp.ones(2)
    deleted.delete()
    variables = {
        "s": "text",
        "k": jax.random.key(0),
        "o": np.array([None]),
        "big": 2**80,
        "d": deleted,
    }
    with pytest.raises(CheckpointError) as error:
        save(tmp_path / "pruned", variables, SPEC, opt_state={"f": abs})
    for line in (
        "variables leaf 's' is of type str",
        "variables leaf 'k' has the dtype key<fry>",
        "variables leaf 'o' has the dtype object",
        "variables leaf 'big' has the dtype object",
        "variables leaf 'd' is a deleted array",
        "opt_state leaf 'f' is of type builtin_function_or_method",
        "jax.random.key_data",
    ):
        assert line in str(error.value)
    assert not (tmp_path / "pruned").exists()


def test_an_existing_checkpoint_is_kept_unless_overwritten(checkpoint):
    with pytest.raises(CheckpointError, match=r"there is a checkpoint.\nFix: .*overwrite=True"):
        save(checkpoint, {"w": np.zeros(3)}, SPEC)
    assert_identical(restore(checkpoint).variables, {"w": np.arange(3.0)})
    for value in (1.0, 2.0):
        save(checkpoint, {"w": np.full(3, value)}, SPEC, overwrite=True)
        assert_identical(restore(checkpoint).variables, {"w": np.full(3, value)})
    assert data(checkpoint).is_dir()


@pytest.mark.parametrize("name", ["notes.txt", "jaxprune-data-old"])
def test_other_files_are_never_overwritten(tmp_path, name):
    (tmp_path / name).write_text("keep me")
    with pytest.raises(CheckpointError, match=rf"it holds other files: \['{name}'\]"):
        save(tmp_path, PARAMS, SPEC, overwrite=True)
    with pytest.raises(CheckpointError, match="there is a file"):
        save(tmp_path / name, PARAMS, SPEC, overwrite=True)
    with pytest.raises(CheckpointError, match="it is a URL"):
        save("gs://bucket/pruned", PARAMS, SPEC)
    assert files(tmp_path) == {name: b"keep me"}


def nested(levels, leaf, wrap):
    for _ in range(levels):
        leaf = wrap(leaf)
    return leaf


def cyclic(kind):
    value = [] if kind is list else {}
    value.append([value, value]) if kind is list else value.update(a={"b": value, "c": value})
    return value


def endless():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        (nested(5000, 1, lambda x: [x]), "is more than 100 levels deep, or holds itself"),
        (nested(5000, 1, lambda x: {"a": x}), "is more than 100 levels deep, or holds itself"),
        (nested(101, 1, lambda x: (x,)), "is more than 100 levels deep, or holds itself"),
        (cyclic(list), "is more than 100 levels deep, or holds itself"),
        ({"x": cyclic(dict)}, "is more than 100 levels deep, or holds itself"),
        ({"n": 10**5000}, "metadata['n'] is an integer of more than 4,000 digits"),
        ({"n": -(10**5000)}, "metadata['n'] is an integer of more than 4,000 digits"),
        ([float("inf")], "metadata[0] is inf, which JSON does not have"),
        ([np.float64("nan")], "metadata[0] is nan, which JSON does not have"),
        ({None: 1}, "metadata has the key None; a key in JSON is a string"),
        ({b"x": 1}, "a key in JSON is a string"),
        ({("a", 1): 1}, "a key in JSON is a string"),
        (b"bytes", "metadata is of type bytes, which JSON does not have"),
        ({1, 2}, "metadata is of type set, which JSON does not have"),
        ({"p": Path("x")}, "which JSON does not have"),
    ],
    ids=range(15),
)
def test_metadata_of_every_other_kind(tmp_path, metadata, why):
    with pytest.raises(CheckpointError, match=r"(?s)cannot save.*Fix: ") as error:
        save(tmp_path / "pruned", PARAMS, SPEC, metadata=metadata)
    assert why in str(error.value)
    with pytest.raises(CheckpointError, match=r"(?s)cannot save.*Fix: "):
        save(tmp_path / "pruned", PARAMS, SPEC | {"more": metadata})
    assert not (tmp_path / "pruned").exists()


def test_metadata_may_be_as_deep_as_is_said(tmp_path):
    for wrap in (lambda x: [x], lambda x: {"a": x}):
        metadata = nested(100, 10**4000, wrap)
        variables = nested(100, np.ones(1), wrap)
        save(tmp_path, variables, SPEC, metadata=metadata, overwrite=True)
        restored = restore(tmp_path)
        assert restored.metadata == metadata
        assert_identical(restored.variables, variables)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: nested(101, np.ones(1), lambda x: [x]), "variables is more than 100 levels deep"),
        (lambda: nested(5000, 1, lambda x: {"a": x}), "variables is more than 100 levels deep"),
        (lambda: cyclic(dict), "variables is more than 100 levels deep, or holds itself"),
        (lambda: {1: 1, "a": 2}, "variables: a dict of the tree has keys that cannot be ordered"),
        (lambda: nn.Partitioned(endless(), names=()), "variables: the tree holds itself"),
    ],
    ids=["list", "dict", "cyclic", "mixed keys", "boxed"],
)
def test_trees_that_are_not_trees(tmp_path, make, why):
    with pytest.raises(CheckpointError, match=r"(?s)cannot save.*Fix: ") as error:
        save(tmp_path / "pruned", make(), SPEC)
    assert why in str(error.value)
    assert not (tmp_path / "pruned").exists()


@pytest.mark.parametrize(
    ("like", "why"),
    [
        ({"w": "x"}, "'w' is of type str"),
        ({1: 1, "a": 2}, "keys that cannot be ordered"),
        ({"w": None}, "'w': saved float64[3], template nothing"),
        (7, "'': saved nothing, template python int[]"),
    ],
    ids=str,
)
def test_templates_that_are_not_templates(checkpoint, like, why):
    with pytest.raises(CheckpointError, match=r"(?s)template.*Fix: ") as error:
        restore(checkpoint, like=like)
    assert why in str(error.value)


def link_to_a_file(path):
    (path.parent / "file").write_text("keep me")
    path.symlink_to(path.parent / "file")


def dangling_link(path):
    path.symlink_to(path.parent / "absent")


def link_to_a_directory(path):
    (path.parent / "other").mkdir()
    (path.parent / "other" / "file").write_text("keep me")
    path.symlink_to(path.parent / "other")


def file(path):
    path.write_text("keep me")


IN_THE_WAY = [link_to_a_file, dangling_link, link_to_a_directory, file]


@pytest.mark.parametrize("way", IN_THE_WAY)
@pytest.mark.parametrize(
    "name",
    ["", "jaxprune-data-0", "jaxprune-data-0123456789abcdef.orbax-checkpoint-tmp", "more"],
)
def test_what_stands_in_the_way_is_refused_and_stays(tmp_path, way, name):
    path = tmp_path / "pruned"
    if name:
        save(path, PARAMS, SPEC)
    way(path / name)
    before = files(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match=r"cannot save '.*pruned': .*\nFix: "):
            save(path, {"w": np.zeros(3)}, SPEC, overwrite=overwrite)
        assert files(tmp_path) == before
    assert os.path.lexists(path / name)


@pytest.mark.parametrize("way", [*IN_THE_WAY[:3], os.mkdir])
@pytest.mark.parametrize("name", ["jaxprune.json", "jaxprune-save-0123456789abcdef.tmp"])
def test_what_is_not_a_manifest_is_refused_and_stays(tmp_path, way, name):
    path = tmp_path / "pruned"
    path.mkdir()
    way(path / name)
    with pytest.raises(CheckpointError, match=rf"it holds other files: .*'{name}'"):
        save(path, PARAMS, SPEC, overwrite=True)
    with pytest.raises(CheckpointError, match=r"damaged|did not finish"):
        restore(path)
    assert name in os.listdir(path)


def test_a_path_below_a_file_is_an_os_error_or_ours(tmp_path):
    (tmp_path / "file").write_text("keep me")
    with pytest.raises((CheckpointError, OSError)):
        save(tmp_path / "file" / "pruned", PARAMS, SPEC)
    with pytest.raises(CheckpointError, match="no directory"):
        restore(tmp_path / "file" / "pruned")


def test_a_directory_that_cannot_be_written_is_an_os_error(checkpoint, monkeypatch):
    before = files(checkpoint)
    opened = os.open

    def refused(path, flags, *args, **options):
        if flags & os.O_CREAT and str(checkpoint) in str(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(PermissionError):
        save(checkpoint, {"w": np.zeros(3)}, SPEC, overwrite=True)
    monkeypatch.undo()
    assert files(checkpoint) == before
