"""Several savers, and savers that die: there is always a whole checkpoint."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from checkpoints import data, (
    PARAMS,
    SPEC,
    assert_identical,
)
from jaxprune.checkpoint import restore, save
from jaxprune.errors import CheckpointError

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
    assert data(tmp_path).is_dir()
