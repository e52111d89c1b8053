"""What cannot be saved is refused before anything is written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
        ({}, "spec is not a dict with format 1, groups and versions"),
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
