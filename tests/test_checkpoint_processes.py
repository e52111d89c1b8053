"""Several processes save one checkpoint, or all of them say why not."""

import json
from pathlib import Path

from checkpoints import data
from processes import in_two_processes

ARRAY = """
import numpy as np
import jaxprune as jp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
sharding = NamedSharding(Mesh(np.array(jax.devices()), "d"), P("d"))
path, spec = given[0], {"format": 1, "groups": {}, "versions": {}}
def spread(whole):
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
"""

SAVED = """
import jaxprune.checkpoint.manifest as manifest
variables = {"w": spread(np.arange(8, dtype=np.float32)), "n": np.ones(2)}
digest, read = manifest.digest, set()
def writer(file):
    return (file.parent.parent if file.parent.name == "d" else file.parent).name
for step in range(2):
    jp.save(path, variables, spec, metadata=step, overwrite=True)
    manifest.digest = lambda file: read.add(writer(file)) or digest(file)
manifest.digest = digest
try:
    jp.save(path, variables, spec)
except jp.errors.CheckpointError as error:
    print(str(error).splitlines()[0])
restored = jp.restore(path, like=variables)
parts = [shard.data.tolist() for shard in restored.variables["w"].addressable_shards]
print(restored.metadata, sum(parts, []), flush=True)
print(*sorted(read), flush=True)
"""


def test_two_processes_save_one_checkpoint(tmp_path: Path) -> None:
    """The first process claims, commits and cleans; the other hears what came of it."""
    found = in_two_processes(ARRAY + SAVED, str(tmp_path / "pruned"))
    first, second = (lines[-3:-1] for lines in found)
    assert first[0] == second[0]
    assert first[0].startswith("process 0: cannot save")
    assert first[0].endswith("there is a checkpoint.")
    assert first[1] == "1 [0.0, 1.0, 2.0, 3.0]"
    assert second[1] == "1 [4.0, 5.0, 6.0, 7.0]"
    read = [lines[-1].split() for lines in found]
    assert read[1] == ["ocdbt.process_1"]  # who wrote a file computes its SHA-256
    assert "ocdbt.process_0" in read[0]
    assert "ocdbt.process_1" not in read[0]
    assert data(tmp_path / "pruned").is_dir()


FULL = """
import json, os, resource, time
bits = np.random.default_rng(0).integers(0, 2**32, 2**18, np.uint32)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
def say(full, number):
    said = [None, 0]
    if jax.process_index() == full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    start = time.monotonic()
    try:
        tree = {"w": spread(bits + number)}
        jp.save(path, tree, spec, metadata=number, overwrite=True)
    except jp.errors.CheckpointError as error:
        said = [str(error), time.monotonic() - start]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    there = os.path.exists(path + "/jaxprune.json") and jp.restore(path).metadata
    print(json.dumps([*said, there]), flush=True)
for number, full in enumerate([1, None, 0, 1, None]):
    say(full, number)
time.sleep(1 - jax.process_index())  # the first one coordinates, and goes last
os._exit(0)  # an end would wait for threads of Orbax, which still wait for one another
"""


def test_a_disk_that_is_full_on_one_process_is_an_error_of_both(tmp_path: Path) -> None:
    """A limit of the length of files is a disk that takes no more of this process alone."""
    ends = in_two_processes(ARRAY + FULL, str(tmp_path / "pruned"))
    both = [[json.loads(line) for line in lines[-5:]] for lines in ends]
    for full, first, second in zip([1, None, 0, 1, None], *both, strict=True):
        assert first[0] == second[0]
        assert max(first[1], second[1]) < 60
        if full is None:
            assert first[0] is None
            continue
        assert first[0].startswith(f"process {full}: Orbax cannot write '{tmp_path / 'pruned'}'")
        assert "File too large" in first[0]
        assert "\nFix: look for the disk being full" in first[0]
    for said in both:
        assert [there for _, _, there in said] == [False, 1, 1, 1, 4]
    assert data(tmp_path / "pruned").is_dir()
