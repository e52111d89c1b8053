"""Writes a checkpoint."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

import jaxprune.checkpoint.directory as directory
import jaxprune.checkpoint.manifest as manifest
import jaxprune.checkpoint.trees as trees
import jaxprune.checkpoint.values as values
from jaxprune.arguments import stored_arrays
from jaxprune.arguments.checks import check_flag, check_path
from jaxprune.checkpoint.directory import Claim
from jaxprune.errors import CheckpointError
from jaxprune.keep.format import Spec, spec_problems

T = TypeVar("T")
_TOLD = 4096
"""Bytes that a process tells the others of its checks: whether it fails, a digest, and why."""


def save(
    path: str | os.PathLike[str],
    variables: Any,
    spec: Spec,
    *,
    opt_state: Any = None,
    metadata: Any = None,
    overwrite: bool = False,
) -> None:
    """Writes a checkpoint that `restore` reads back bit for bit; atomic, and free of pickle.

    Every argument is checked before anything is written. A save that fails or is killed leaves the
    old checkpoint, or none. Of two saves to one path at once, one may raise; `path` holds a whole
    checkpoint, that of the last one that returned. Of several processes each makes the same call,
    on a file system that all of them see; Orbax writes every shard from a host that owns it. What
    one of them cannot save none does, with the same error.

    Args:
      path: directory to create, with its parents, on a local or shared file system.
      variables: pytree of NumPy and JAX arrays and Python numbers. Nests of dict, list, tuple and
        None come back as they are; other containers need a template at `restore`.
      spec: JSON value of `jaxprune.spec(graph, keep)`.
      opt_state: pytree of the same kinds of leaves, for example an optax state.
      metadata: any JSON value up to 100 levels deep; tuples come back as lists.
      overwrite: replaces the checkpoint at `path`, which stays valid until the new one is complete.

    Raises:
      CheckpointError: `path` is taken, an argument cannot be stored, another save to `path` has
        finished meanwhile, or Orbax cannot write. Of several processes: they save different
        things, or one holds an array that is on its devices alone.
      OSError: the file system refuses a write.

    >>> import tempfile
    >>> import numpy as np
    >>> import jaxprune as jp
    >>> path = tempfile.mkdtemp() + "/pruned"
    >>> groups = {"Conv_0/kernel": {"size": 4, "kept": [0, 2]}}
    >>> spec = {"format": 1, "groups": groups, "versions": {}}
    >>> jp.save(path, {"params": {"w": np.ones((3, 2))}}, spec, metadata={"accuracy": 0.97})
    >>> jp.restore(path).metadata
    {'accuracy': 0.97}
    """
    stored = {"variables": variables} | ({} if opt_state is None else {"opt_state": opt_state})

    def checked() -> dict[str, Any]:
        check_flag(overwrite, "overwrite")
        _check(path, stored, spec, metadata)
        return {name: trees.describe(tree) for name, tree in stored.items()}

    described = _agreed(
        checked, lambda described: [os.path.abspath(path), overwrite, spec, described]
    )
    content: dict[str, object] = {"spec": spec, "metadata": metadata, "trees": described}
    arrays = {name: leaves for name, tree in stored.items() if (leaves := trees.arrays(tree))}
    begun = _claim(Path(path).absolute(), overwrite)
    try:
        _on_all(lambda: _write(begun, arrays))
        content["files"] = _digests(begun)
        _on_first(lambda: directory.commit(begun, content, overwrite=overwrite))
    except BaseException as error:
        if jax.process_index() == 0:
            too_late = isinstance(error, Exception) and directory.is_overtaken(begun)
            directory.abandon(begun)
            if too_late:
                raise directory.overtaken(begun) from error
        raise


def _agreed(check: Callable[[], T], said: Callable[[T], object]) -> T:
    """Returns what `check` gives, if it gives something on every process and they say the same.

    Raises:
      CheckpointError: that of the first process that has one, on all of them.
    """
    if jax.process_count() == 1:
        return check()
    value, failure, text = None, None, b""
    told = np.zeros(_TOLD, np.uint8)
    try:
        value = check()
        digest = hashlib.sha256(json.dumps(said(value), sort_keys=True).encode()).digest()
    except Exception as error:
        failure, digest = error, bytes(32)
        text = str(error).encode()[: _TOLD - 33] or b"?"
    told[: 33 + len(text)] = np.frombuffer(bytes([failure is not None]) + digest + text, np.uint8)
    everywhere = np.asarray(multihost_utils.process_allgather(told), np.uint8)
    if (bad := np.flatnonzero(everywhere[:, 0])).size:
        shown = everywhere[bad[0], 33:].tobytes().rstrip(b"\0").decode(errors="replace")
        raise CheckpointError(f"process {bad[0]}: {shown}") from failure
    if (others := np.flatnonzero((everywhere[:, 1:33] != everywhere[0, 1:33]).any(axis=1))).size:
        raise CheckpointError(
            f"process {others[0]} saves another path, spec or tree than process 0.\n"
            "Fix: make the same call on every process; only the parts of arrays may differ."
        )
    assert value is not None
    return value


def _check(
    path: str | os.PathLike[str],
    stored: Mapping[str, Any],
    spec: Spec,
    metadata: Any,
) -> None:
    check_path(path, CheckpointError)
    what = f"cannot save {os.fspath(path)!r}"
    if "://" in os.fspath(path):
        raise CheckpointError(f"{what}: it is a URL.\nFix: pass a directory of a file system.")
    values.raise_if(
        [*values.json_problems(spec, "spec"), *values.json_problems(metadata, "metadata")]
        or spec_problems(spec),
        what,
        "pass the value of jaxprune.spec(graph, keep), and a JSON value as metadata.",
    )
    values.raise_if(
        [problem for name, tree in stored.items() for problem in trees.problems(tree, name)],
        what,
        "keep arrays and numbers in the trees; typed PRNG keys go through jax.random.key_data.",
    )


def _claim(path: Path, overwrite: bool) -> Claim:
    """Begins the save on the first process, and tells the others its token."""
    begun: list[Claim] = []

    def claim() -> bytes:
        begun.append(directory.claim(path, overwrite=overwrite))
        return bytes.fromhex(begun[0].token)

    token = _on_first(claim).hex()
    return begun[0] if begun else Claim(path, token)


def _write(begun: Claim, arrays: Mapping[str, Any]) -> None:
    if not arrays:
        return
    from orbax.checkpoint import v1 as ocp  # when used: importing it is slow

    context = ocp.Context()
    context.array.saving.scoped_storage_options_creator = _chunks
    try:
        with context:
            ocp.save_checkpointables(str(begun.data), dict(arrays))
    except OSError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"Orbax cannot write {str(begun.directory)!r}: {error}\n"
            "Fix: look for the disk being full, and for arrays that were deleted."
        ) from error


def _digests(begun: Claim) -> dict[str, str]:
    """Returns {file: SHA-256} of the data; each process reads what it wrote, and tells the rest."""
    found: dict[str, str] = {}
    _on_all(lambda: found.update(manifest.digests(begun.data, _is_mine)))
    if jax.process_count() == 1:
        return found
    text = np.frombuffer(json.dumps(found).encode(), np.uint8)
    lengths = np.ravel(multihost_utils.process_allgather(np.int32(text.size)))
    told = np.zeros(lengths.max(), np.uint8)
    told[: text.size] = text
    everywhere = np.asarray(multihost_utils.process_allgather(told), np.uint8)
    for row, length in zip(everywhere, lengths, strict=True):
        found |= json.loads(row[:length].tobytes())
    return dict(sorted(found.items()))


def _is_mine(file: str) -> bool:
    """True for what Orbax wrote here; what no process wrote alone is the first one's."""
    writer = _WRITER.search(file)
    return (int(writer[1]) if writer else 0) % jax.process_count() == jax.process_index()


_WRITER = re.compile(r"\bocdbt\.process_(\d+)/")


def _chunks(key: Any, value: Any) -> Any:
    """Returns in what chunks Orbax stores an array: of a part of which no less than one is read.

    Orbax divides axes by their prime factors. Where one is large, chunks would be tiny.
    """
    from orbax.checkpoint import v1 as ocp

    del key
    if value.nbytes <= stored_arrays.PIECE:
        return None
    divides = max(map(_prime, value.shape)) < 256
    return ocp.options.ArrayOptions.Saving.StorageOptions(
        shard_axes=(0,) if value.ndim > 2 else None,  # perhaps layers
        chunk_byte_size=stored_arrays.chunk_bytes() if divides else None,
    )


def _prime(n: int) -> int:
    """Returns the largest prime factor."""
    factor = 2
    while factor * factor <= n:
        if n % factor:
            factor += 1
        else:
            n //= factor
    return n


def _on_all(action: Callable[[], None]) -> None:
    """Runs `action`; raises on every process if it raises on one."""
    failure = None
    try:
        action()
    except Exception as error:
        failure = error
    done = multihost_utils.process_allgather(np.uint8(failure is None))
    if failure is not None:
        raise failure
    if not np.all(done):
        raise CheckpointError("another process cannot save.\nFix: see the error that it raised.")


def _on_first(action: Callable[[], bytes | None]) -> bytes:
    """Runs `action` on the first process; returns its 8 bytes, or raises, on every process."""
    told, failure = np.zeros(9, np.uint8), None
    if jax.process_index() == 0:
        try:
            token = action() or bytes(8)
            told = np.frombuffer(b"\1" + token, np.uint8)
        except Exception as error:
            failure = error
    told = np.asarray(multihost_utils.broadcast_one_to_all(told), np.uint8)
    if failure is not None:
        raise failure
    if not told[0]:
        raise CheckpointError("the first process cannot save.\nFix: see the error that it raised.")
    return told[1:].tobytes()
