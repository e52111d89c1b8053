"""Writes a checkpoint."""

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

import jax

import jaxprune.checkpoint.agreement as agreement
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
_PATIENCE = 1.0
"""Seconds after which processes that write ask each other whether one has failed."""


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
      OSError: the file system refuses a write; of several processes a CheckpointError on all.

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

    def checked() -> bytes:
        check_flag(overwrite, "overwrite")
        _check(path, stored, spec, metadata)
        described.update((name, trees.describe(tree)) for name, tree in stored.items())
        said = [os.path.abspath(path), overwrite, spec, described]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()

    described: dict[str, Any] = {}
    _check_same(agreement.everywhere(checked))
    content: dict[str, object] = {"spec": spec, "metadata": metadata, "trees": described}
    arrays = {name: leaves for name, tree in stored.items() if (leaves := trees.arrays(tree))}
    begun = _claim(Path(path).absolute(), overwrite)
    try:
        _write(begun, arrays)
        content["files"] = _digests(begun)
        _commit(begun, content, overwrite)
    except BaseException as error:
        try:
            if isinstance(error, Exception) and _is_overtaken(begun):
                raise directory.overtaken(begun) from error
        finally:
            if jax.process_index() == 0:
                directory.abandon(begun)
        raise


def _check_same(digests: Sequence[bytes]) -> None:
    """Raises unless the digests of the calls of all processes are equal."""
    others = [process for process, digest in enumerate(digests) if digest != digests[0]]
    if others:
        raise CheckpointError(
            f"process {others[0]} saves another path, spec or tree than process 0.\n"
            "Fix: make the same call on every process; only the parts of arrays may differ."
        )


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
        return begun[0].token.encode()

    token = agreement.on_first(claim).decode()
    return begun[0] if begun else Claim(path, token)


def _commit(begun: Claim, content: dict[str, object], overwrite: bool) -> None:
    def commit() -> bytes:
        directory.commit(begun, content, overwrite=overwrite)
        return b""

    agreement.on_first(commit)


def _is_overtaken(begun: Claim) -> bool:
    return agreement.on_first(lambda: bytes([directory.is_overtaken(begun)])) == b"\1"


def _write(begun: Claim, arrays: Mapping[str, Any]) -> None:
    """Lets Orbax write; where it cannot on one process, raises soon on all of them.

    Orbax lets a process wait for one that has failed. So each asks the others now and then.
    """
    if not arrays:
        return
    ended: Future[None] = Future()

    def start() -> bytes:
        response = _explained(begun, lambda: _started(begun, arrays))
        threading.Thread(target=lambda: _end(ended, response), daemon=True).start()
        return b""

    def is_written() -> bytes:
        if not wait([ended], _PATIENCE).done:
            return b"\0"
        _explained(begun, ended.result)
        return b"\1"

    agreement.everywhere(start)
    while set(agreement.everywhere(is_written)) != {b"\1"}:
        pass


def _started(begun: Claim, arrays: Mapping[str, Any]) -> Any:
    from orbax.checkpoint import v1 as ocp  # when used: importing it is slow

    context = ocp.Context()
    context.array.saving.scoped_storage_options_creator = _chunks
    with context:
        return ocp.save_checkpointables_async(str(begun.data), dict(arrays))


def _end(ended: Future[None], response: Any) -> None:
    """Waits for Orbax; hands over what comes of it."""
    try:
        ended.set_result(response.result())
    except BaseException as error:
        ended.set_exception(error)


def _explained(begun: Claim, call: Callable[[], T]) -> T:
    """Returns what a call of Orbax gives; an error of it says what could not be written."""
    try:
        return call()
    except OSError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"Orbax cannot write {str(begun.directory)!r}: {error}\n"
            "Fix: look for the disk being full, and for arrays that were deleted."
        ) from error


def _digests(begun: Claim) -> dict[str, str]:
    """Returns {file: SHA-256} of the data; each process reads what it wrote, and tells the rest."""
    told = agreement.everywhere(lambda: json.dumps(manifest.digests(begun.data, _is_mine)).encode())
    return dict(sorted((file, sha) for text in told for file, sha in json.loads(text).items()))


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
