"""What is damaged, foreign or newer is refused."""

import shutil

import numpy as np
import optax
import pytest

from checkpoints import PARAMS, SPEC, data, files, rewrite_manifest, write
from jaxprune.checkpoint import restore, save
from jaxprune.errors import CheckpointError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoint") / "deep" / "pruned")


@pytest.fixture
def checkpoint(tmp_path):
    save(tmp_path / "pruned", {"w": np.arange(3.0)}, SPEC)
    return tmp_path / "pruned"


def read(path, **templates):
    restored = restore(path, **templates)
    return restored.variables, restored.opt_state


def test_every_file_matters(tmp_path, written):
    """A truncated, flipped or deleted file is a CheckpointError."""
    template = optax.adam(1e-3).init(PARAMS)
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
                read(copy, opt_state=template)
            refused += 1
            shutil.rmtree(copy)
    assert refused > 3 * len(intact) > 15


def test_damaged_files_are_all_named(tmp_path, written):
    shutil.copytree(written, tmp_path / "copy")
    arrays = sorted(f for f in data(tmp_path / "copy").rglob("*") if f.is_file())
    for array in arrays[2:4]:
        array.write_bytes(b"x")
    with pytest.raises(CheckpointError) as error:
        _ = restore(tmp_path / "copy", opt_state=optax.adam(1e-3).init(PARAMS)).opt_state
    for array in arrays[2:4]:
        assert f"{array.name} has changed since it was written" in str(error.value)
    for array in arrays[:2]:
        array.unlink()
    (data(tmp_path / "copy") / "variables" / "another").write_text("x")
    with pytest.raises(CheckpointError) as error:
        restore(tmp_path / "copy")
    for array in arrays[:2]:
        assert f"{array.name}: No such file" in str(error.value)
    assert "variables/another is not in jaxprune.json" in str(error.value)


def test_missing_and_foreign_directories(tmp_path, written):
    with pytest.raises(CheckpointError, match="is not a jaxprune checkpoint"):
        restore(data(written))  # Orbax's own
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
    newer_spec = SPEC | {"format": 3, "stacked": {}}
    rewrite_manifest(checkpoint, lambda content: content.update(spec=newer_spec))
    with pytest.raises(CheckpointError, match=r"spec has format 3.* up to 2\nFix: update jaxprune"):
        restore(checkpoint)
    (checkpoint / "jaxprune.json").write_text('{"format": 2}')
    with pytest.raises(CheckpointError, match=r"has format 2; .* up to 1.\nFix: update jaxprune"):
        restore(checkpoint)
