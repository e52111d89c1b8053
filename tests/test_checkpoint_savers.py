"""Several savers, and savers that die: there is always a whole checkpoint."""

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from checkpoints import PARAMS, SPEC, assert_identical, data
from faults import DELETES, Killed, die, elsewhere, is_read, watched
from jaxprune.checkpoint import restore, save
from jaxprune.errors import CheckpointError

OLD, NEW, OTHER = ({"w": np.full(3, value), "n": np.ones((2, 2))} for value in (1.0, 2.0, 3.0))


def put(path: Path, variables, *, overwrite=True):
    save(path, variables, SPEC, metadata=variables["w"][0].item(), overwrite=overwrite)


def outcome(path: Path, variables, **options) -> type[BaseException] | None:
    """The exception of a save that may fail, None if it returned."""
    try:
        put(path, variables, **options)
    except (CheckpointError, OSError, Killed) as error:
        return CheckpointError if isinstance(error, CheckpointError) else type(error)
    return None


def value(path: Path) -> float:
    """Which checkpoint is there, whole: all of its parts agree."""
    restored = restore(path)
    assert_identical(restored.variables["n"], np.ones((2, 2)))
    assert restored.variables["w"].tolist() == [restored.metadata] * 3
    return restored.metadata


def assert_no_obstacle(path: Path) -> None:
    put(path, OTHER)
    assert value(path) == 3.0
    assert data(path).is_dir()


@pytest.mark.parametrize("first", [False, True])
def test_a_save_that_dies_at_any_step_leaves_the_old_checkpoint_or_the_new(tmp_path, first):
    start = None if first else 1.0
    seen = []
    for step in itertools.count():
        path = tmp_path / str(step)
        if not first:
            put(path, OLD)
        with watched(path, step, die, once=False):
            died = outcome(path, NEW)
        if first and not (path / "jaxprune.json").exists():
            seen.append(None)
        else:
            seen.append(value(path))
        assert_no_obstacle(path)
        if died is None:
            break
        assert died is Killed
    assert seen[:5] == [start] * 5
    assert set(seen) == {start, 2.0}
    assert seen[-1] == 2.0


def full(event: str) -> None:
    if event not in DELETES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_at_any_step_loses_nothing(tmp_path):
    failures = 0
    for step in itertools.count():
        path = tmp_path / str(step)
        put(path, OLD)
        with watched(path, step, full, once=False):
            failed = outcome(path, NEW)
        assert value(path) == (2.0 if failed is None else 1.0)
        assert data(path).is_dir()  # what was written in vain is gone
        if failed is None:
            break
        assert failed in (OSError, CheckpointError)
        failures += 1
    assert failures > 10


def waits_that_fail(monkeypatch, path: Path, fails) -> list[Path]:
    """Lets a wait for the disk below `path` fail if `fails(files waited for)`; returns the files.

    Waits elsewhere are those of threads of an earlier save. How many files Orbax writes, and so how
    many waits there are, differs from save to save.
    """
    fsync, files = os.fsync, []

    def wait(descriptor):
        file = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if file.is_relative_to(path):
            files.append(file)
            if fails(files):
                raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    return files


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="no way to tell which file is waited for"
)


@needs_proc
def test_a_disk_that_fails_when_it_is_waited_for_loses_nothing(tmp_path, monkeypatch):
    failures = 0
    for call in itertools.count():
        path = tmp_path / str(call)
        put(path, OLD)
        with monkeypatch.context() as patch:
            files = waits_that_fail(patch, path, lambda files, last=call + 1: len(files) == last)
            failed = outcome(path, NEW)
        is_new_name = files[call:] == [path]  # the last wait: the manifest has its name
        assert value(path) == (2.0 if failed is None or is_new_name else 1.0)
        data_kept = len(list(path.glob("jaxprune-data-*")))
        assert_no_obstacle(path)
        if failed is None:
            break
        assert failed is OSError
        assert data_kept == (2 if is_new_name else 1)
        failures += 1
    assert failures > 5


@needs_proc
def test_a_disk_that_fails_at_the_new_name_keeps_the_old_data_too(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    put(path, OLD)
    with monkeypatch.context() as patch:
        files = waits_that_fail(patch, path, lambda files: files[-1] == path)
        assert outcome(path, NEW) is OSError
    assert files.count(path) == 1
    assert value(path) == 2.0
    assert len(list(path.glob("jaxprune-data-*"))) == 2
    assert_no_obstacle(path)


LIMITED = """
import resource, sys
import numpy as np
import jaxprune as jp
from jaxprune.errors import CheckpointError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
spec = {"format": 1, "groups": {}, "versions": {}}
rng = np.random.default_rng(0)
try:
    jp.save(sys.argv[1], {"w": rng.normal(size=100_000)}, spec, overwrite=True)
except (CheckpointError, OSError) as error:
    print(type(error).__name__)
    raise SystemExit(0)
raise SystemExit(1)
"""


def test_a_file_system_that_takes_no_more_loses_nothing(tmp_path):
    """The limit is the kernel's, so that the library below Orbax runs into it too."""
    put(tmp_path, OLD)
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert value(tmp_path) == 1.0
    assert data(tmp_path).is_dir()


def test_of_two_saves_the_last_to_commit_wins_or_the_other_is_refused(tmp_path):
    """One saves whole before the n-th step of the other, for every n."""
    returned = []
    for step in itertools.count():
        path, before = tmp_path / str(step), []
        put(path, OLD)

        def act(path=path, before=before):
            before.append(value(path))
            put(path, OTHER)

        with watched(path, step, elsewhere(act)):
            failed = outcome(path, NEW)
        if not before:
            break
        assert value(path) == (3.0 if failed or before == [2.0] else 2.0)
        returned.append(failed)
        assert_no_obstacle(path)
    assert set(returned) == {None, CheckpointError}
    assert len(returned) > 20


def test_of_two_first_saves_one_is_refused(tmp_path):
    for step in itertools.count():
        path = tmp_path / str(step)
        others = []
        act = elsewhere(lambda p=path, o=others: o.append(outcome(p, OTHER, overwrite=False)))
        with watched(path, step, act) as count:
            failed = outcome(path, NEW, overwrite=False)
        if count[0] <= step:
            break
        assert sorted([failed, *others], key=str) == [CheckpointError, None]
        assert value(path) == (3.0 if failed else 2.0)
        assert_no_obstacle(path)
    assert step > 10


SLOW = [pytest.param(step, marks=pytest.mark.slow) for step in (1, 4, 9, 18, 21)]


@pytest.mark.parametrize("step", [*SLOW, 23])
def test_another_save_and_then_death(tmp_path, step):
    """The second dies, or saves whole, within the first, which dies later."""
    for second, third in itertools.product([0, 9, 22, 23, 99], [step, 24]):
        path = tmp_path / f"{second}-{third}"
        put(path, OLD)

        def dying(path=path, second=second):
            with watched(path, second, die, once=False):
                outcome(path, OTHER)

        with watched(path, third, die, once=False), watched(path, step, elsewhere(dying)):
            outcome(path, NEW)
        assert value(path) in (1.0, 2.0, 3.0)
        assert_no_obstacle(path)


def test_a_reader_beside_a_saver_reads_one_of_the_two(tmp_path):
    put(tmp_path, OLD)
    outcomes = set()
    for step in itertools.count():
        act = elsewhere(lambda s=step: put(tmp_path, OTHER if s % 2 else NEW))
        before = value(tmp_path)
        with watched(tmp_path, step, act, what=is_read) as count:
            restored = restore(tmp_path)
            try:
                assert restored.variables["w"].tolist() == [restored.metadata] * 3
                outcomes.add(restored.metadata == before)
            except CheckpointError as error:
                assert "replaced by a later save" in str(error)  # noqa: PT017
                outcomes.add(str(error).splitlines()[-1])
        if count[0] <= step:
            break
    assert outcomes == {True, False, "Fix: call restore again."}


def test_a_save_whose_directory_vanishes_says_so(tmp_path):
    path = tmp_path / "pruned"
    with (
        watched(path, 12, elsewhere(lambda: shutil.rmtree(path))),
        pytest.raises(CheckpointError, match="files were removed"),
    ):
        put(path, NEW)


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refused(*args):
        del args
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    put(tmp_path, OLD, overwrite=False)
    assert value(tmp_path) == 1.0
    with pytest.raises(CheckpointError, match="there is a checkpoint"):
        put(tmp_path, NEW, overwrite=False)


def test_an_unfinished_first_save_is_no_checkpoint_and_no_obstacle(tmp_path):
    """Also one of an earlier version, which numbered its saves."""
    for name in ("jaxprune-data-0", "jaxprune-data-1.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "jaxprune.json.tmp").write_text('{"format"')
    with pytest.raises(CheckpointError, match="its save did not finish"):
        restore(tmp_path)
    save(tmp_path, PARAMS, SPEC)
    assert_identical(restore(tmp_path).variables, jax.tree.map(np.asarray, PARAMS))
    assert data(tmp_path).is_dir()


def test_what_is_not_superseded_for_good_is_never_deleted(tmp_path):
    """A save that has only begun keeps its data beside any number of others."""
    put(tmp_path, OLD)
    token = "0123456789abcdef"
    begun = tmp_path / f"jaxprune-data-{token}.orbax-checkpoint-tmp"

    def begin(event):
        del event
        begun.mkdir()
        (tmp_path / f"jaxprune-save-{token}.tmp").touch()

    with watched(tmp_path, 5, begin):
        put(tmp_path, NEW)
    assert begun.is_dir()
    assert json.loads((tmp_path / "jaxprune.json").read_text())["content"]["data"] != begun.name
    assert_no_obstacle(tmp_path)
