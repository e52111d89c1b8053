import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprune.checkpoint import restore, save
from jaxprune.errors import CheckpointError

SPEC = {
    "format": 1,
    "groups": {"Conv_0/kernel": {"size": 8, "kept": [0, 3, 7]}},
    "versions": {"jax": "0.12.0", "jaxprune": "0.1.0"},
}
METADATA = {"accuracy": 0.987654321, "épochs": [1, 2], "nested": {"none": None, "yes": True}}
VARIABLES = {
    "params": {
        "Conv_0": {"kernel": np.arange(24.0).reshape(2, 4, 3), "bias": jnp.ones(3, jnp.bfloat16)},
        "a/b.c %": {"half": np.array([np.nan, -0.0, np.inf], np.float16)},
        "f32": jnp.asarray([1e-45, np.nan], jnp.float32),
        "int4": jnp.arange(3, dtype=jnp.int4),
        "float8": jnp.ones(3, jnp.float8_e4m3fn),
        "complex": np.ones((2, 1), np.complex64),
    },
    "a": {"b": np.ones(1)},
    "a/b": np.zeros(1),
    "lists": [np.array([255], np.uint8), (np.int64(2**62), [])],
    "layers": {0: np.ones(1), 10: np.ones(2)},
    "scalars": {
        "int": 3,
        "float": 0.1,
        "bool": True,
        "zero_d": np.float64(0.1),
        "jax": jnp.int8(3),
    },
    "empty": {},
    "none": None,
    "no_elements": {"numpy": np.zeros((0, 3), np.int16), "jax": jnp.zeros((2, 0))},
}
PARAMS = {"Conv_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}


def assert_identical(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if isinstance(a, bool | int | float) and not isinstance(a, np.generic):
            assert (type(a), a) == (type(b), b)
        else:
            assert (np.shape(a), a.dtype) == (np.shape(b), b.dtype)
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def files(path: Path) -> dict[str, bytes]:
    found = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


def rewrite_manifest(path: Path, change) -> None:
    """Applies `change` to the content of the manifest and signs it again."""
    manifest = json.loads((path / "jaxprune.json").read_text())
    change(manifest["content"])
    signed = json.dumps(manifest["content"], sort_keys=True).encode()
    manifest["sha256"] = hashlib.sha256(signed).hexdigest()
    (path / "jaxprune.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "deep" / "pruned"
    save(path, VARIABLES, SPEC, opt_state=optax.adam(1e-3).init(PARAMS), metadata=METADATA)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    save(tmp_path / "pruned", {"w": np.arange(3.0)}, SPEC)
    return tmp_path / "pruned"


def test_everything_comes_back_bit_for_bit(written):
    restored = restore(written)
    assert_identical(restored.variables, VARIABLES)
    assert restored.spec == SPEC
    assert restored.metadata == METADATA
    assert restored.opt_state is None


def test_arrays_come_back_on_the_host(written):
    leaves = jax.tree.leaves(restore(written).variables)
    assert not any(isinstance(leaf, jax.Array) for leaf in leaves)


def test_a_path_may_be_a_relative_string(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("pruned", {"w": np.ones(2)}, SPEC)
    assert_identical(restore("pruned").variables, {"w": np.ones(2)})


@pytest.mark.parametrize("variables", [{}, {"a": {}, "b": None}, [], np.float32(2)])
def test_trees_without_stored_arrays_and_bare_leaves(tmp_path, variables):
    save(tmp_path / "pruned", variables, SPEC)
    assert_identical(restore(tmp_path / "pruned").variables, variables)


def test_optimizer_state_comes_back_in_the_structure_of_the_template(tmp_path):
    tx = optax.chain(optax.clip(1.0), optax.adam(optax.linear_schedule(1.0, 0.0, 10)))
    _, state = tx.update(PARAMS, tx.init(PARAMS))
    save(tmp_path / "pruned", PARAMS, SPEC, opt_state=state)
    for template in (state, jax.eval_shape(tx.init, PARAMS)):
        assert_identical(restore(tmp_path / "pruned", opt_state=template).opt_state, state)


def test_a_template_places_arrays(tmp_path):
    sharding = NamedSharding(Mesh(np.array(jax.devices()), "d"), P("d"))
    variables = {
        "w": jax.device_put(np.arange(16.0, dtype=np.float32), sharding),
        "n": np.ones(2),
        "empty": jnp.zeros((0, 3)),
    }
    save(tmp_path / "pruned", variables, SPEC)
    assert_identical(restore(tmp_path / "pruned").variables, variables)
    restored = restore(tmp_path / "pruned", like=variables).variables
    assert_identical(restored, variables)
    assert restored["w"].sharding == sharding
    assert isinstance(restored["n"], np.ndarray)
    assert isinstance(restored["empty"], jax.Array)


def test_other_containers_need_a_template(tmp_path):
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    save(tmp_path / "pruned", state, SPEC)
    assert_identical(restore(tmp_path / "pruned", like=state).variables, state)
    with pytest.raises(CheckpointError, match=r"contain a State.*\nFix: restore\(path, like="):
        restore(tmp_path / "pruned")


def test_a_template_that_differs_is_an_error(written, checkpoint):
    tx = optax.adam(1e-3)
    wider = {"Conv_0": {"kernel": jnp.ones((2, 4)), "scale": jnp.ones(3)}}
    with pytest.raises(CheckpointError) as error:
        restore(written, opt_state=tx.init(wider))
    for line in (
        "the template does not fit the saved opt_state:",
        "'0/mu/Conv_0/kernel': saved float32[2, 3], template float32[2, 4]",
        "'0/nu/Conv_0/bias': saved float32[3], template nothing",
        "'0/nu/Conv_0/scale': saved nothing, template float32[3]",
        "Fix: build the template",
    ):
        assert line in str(error.value)
    with pytest.raises(CheckpointError, match=r"'w': saved float64\[3\], template float32\[3\]"):
        restore(checkpoint, like={"w": jnp.ones(3, jnp.float32)})


def test_a_sharding_that_does_not_divide_is_a_checkpoint_error(checkpoint):
    sharding = NamedSharding(Mesh(np.array(jax.devices()), "d"), P("d"))
    like = {"w": jax.ShapeDtypeStruct((3,), np.float64, sharding=sharding)}
    with pytest.raises(CheckpointError, match=r"Orbax cannot read the variables"):
        restore(checkpoint, like=like)


def test_a_template_without_saved_state_is_an_error(checkpoint):
    with pytest.raises(CheckpointError, match=r"no optimizer state to fill.*\nFix: save\("):
        restore(checkpoint, opt_state=optax.adam(1e-3).init(PARAMS))


@pytest.mark.parametrize("opt_state", [False, True])
def test_every_file_matters(tmp_path, written, opt_state):
    """A truncated, flipped or deleted file: the same bits or a CheckpointError."""
    template = optax.adam(1e-3).init(PARAMS) if opt_state else None
    intact = files(written)
    refused = 0
    for name, content in intact.items():
        middle = len(content) // 2
        flipped = content[:middle] + bytes([255 - b for b in content[middle : middle + 1]])
        for damaged in (None, b"", content[:middle], content[:-1], flipped + content[middle + 1 :]):
            if damaged == content:
                continue
            copy = tmp_path / "copy"
            shutil.copytree(written, copy)
            (copy / name).unlink()
            if damaged is not None:
                (copy / name).write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"(?s)(damaged|did not finish).*Fix: "):
                restore(copy, opt_state=template)
            refused += 1
            shutil.rmtree(copy)
    assert refused > 3 * len(intact) > 15


def test_damaged_files_are_all_named(tmp_path, written):
    shutil.copytree(written, tmp_path / "copy")
    arrays = sorted(f for f in (tmp_path / "copy" / "jaxprune-data-0").rglob("*") if f.is_file())
    arrays[0].unlink()
    arrays[1].write_bytes(b"x")
    with pytest.raises(CheckpointError) as error:
        restore(tmp_path / "copy")
    assert f"{arrays[0].name}: No such file" in str(error.value)
    assert f"{arrays[1].name} has changed since it was written" in str(error.value)


def test_missing_and_foreign_directories(tmp_path, written):
    with pytest.raises(CheckpointError, match="is not a jaxprune checkpoint"):
        restore(written / "jaxprune-data-0")  # Orbax's own
    with pytest.raises(CheckpointError, match=r"no directory '.*absent'.\nFix: "):
        restore(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"has no jaxprune.json: it is not a jaxprune"):
        restore(tmp_path)
    (tmp_path / "jaxprune.json").write_text('["another", "tool"]')
    with pytest.raises(CheckpointError, match="does not agree with its own SHA-256"):
        restore(tmp_path)
    (tmp_path / "jaxprune.json").unlink()
    (tmp_path / "jaxprune.json").mkdir()
    with pytest.raises(CheckpointError, match=r"is damaged: jaxprune\.json: "):
        restore(tmp_path)


def test_newer_formats(checkpoint):
    newer_spec = SPEC | {"format": 2, "stacked": {}}
    rewrite_manifest(checkpoint, lambda content: content.update(spec=newer_spec))
    with pytest.raises(CheckpointError, match=r"spec has format 2.* up to 1\nFix: update jaxprune"):
        restore(checkpoint)
    (checkpoint / "jaxprune.json").write_text('{"format": 2}')
    with pytest.raises(CheckpointError, match=r"has format 2; .* up to 1.\nFix: update jaxprune"):
        restore(checkpoint)


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
    assert sorted(os.listdir(checkpoint)) == ["jaxprune-data-2", "jaxprune.json"]


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


KILLED = """
import os, sys, numpy as np
from jaxprune import checkpoint
countdown = int(sys.argv[2])
def audit(event, args):
    global countdown
    writes = event == "open" and args[1] and set(args[1]) & set("wax+")
    if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        if sys.argv[1] in str(args[0]):
            countdown -= 1
            if countdown < 0:
                os._exit(9)
sys.addaudithook(audit)
spec = {"format": 1, "groups": {}, "versions": {}}
checkpoint.save(sys.argv[1], {"w": np.full(3, 2.0)}, spec, overwrite=True)
"""


def test_a_killed_save_leaves_the_old_checkpoint_or_the_new(tmp_path):
    """The process dies before its n-th change of the file system, for n until it survives."""
    old, new = {"w": np.full(3, 1.0)}, {"w": np.full(3, 2.0)}
    outcomes = set()
    for step in range(0, 200, 4):
        path = tmp_path / f"pruned_{step}"
        save(path, old, SPEC)
        command = [sys.executable, "-c", KILLED, str(path), str(step)]
        code = subprocess.run(command, check=False, capture_output=True).returncode
        found = restore(path).variables["w"]
        assert found.tolist() in (old["w"].tolist(), new["w"].tolist())
        outcomes.add((code, found[0].item()))
        save(path, old, SPEC, overwrite=True)  # what the dead process left is no obstacle
        assert_identical(restore(path).variables, old)
        assert len(os.listdir(path)) == 2
        if code == 0:
            break
        assert code == 9
    assert {(9, 1.0), (0, 2.0)} <= outcomes


def test_an_unfinished_first_save_is_no_checkpoint_and_no_obstacle(tmp_path):
    for name in ("jaxprune-data-0", "jaxprune-data-1.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "jaxprune.json.tmp").write_text('{"format"')
    with pytest.raises(CheckpointError, match="its save did not finish"):
        restore(tmp_path)
    save(tmp_path, PARAMS, SPEC)
    assert_identical(restore(tmp_path).variables, jax.tree.map(np.asarray, PARAMS))
    assert sorted(os.listdir(tmp_path)) == ["jaxprune-data-2", "jaxprune.json"]


def test_nothing_is_pickled(written):
    for name, content in files(written).items():
        assert b"\x80\x04\x95" not in content, name
        assert b"pickle" not in content, name


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


@settings(max_examples=30)
@given(metadata=JSON)
def test_metadata_is_any_json_value(tmp_path_factory, metadata):
    path = tmp_path_factory.mktemp("checkpoint")
    save(path, {}, SPEC, metadata=metadata)
    assert restore(path).metadata == metadata
