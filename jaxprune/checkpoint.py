"""Variables, spec, optimizer state and metadata of a pruned network in one directory, on Orbax.

```
path/
  jaxprune.json       spec, metadata, structure of the trees, and SHA-256 of every other file
  jaxprune-data-0/    the arrays: an Orbax checkpoint with `variables` and, if given, `opt_state`
```

`jaxprune.json` is written last and put in place by one atomic rename; a directory without it is no
checkpoint, and what it does not name is never read. So a save that is killed leaves the old
checkpoint, or none; an overwriting save writes `jaxprune-data-1/` beside the old arrays and removes
those only after the rename.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from jaxprune import _stored_tree as stored_tree
from jaxprune import description
from jaxprune._stored_tree import raise_if
from jaxprune.errors import CheckpointError

_FORMAT = 1
_SPEC_FORMAT = 1
_MANIFEST = "jaxprune.json"
_TEMPORARY = "jaxprune.json.tmp"
_DATA = re.compile(r"jaxprune-data-(\d+)(\.orbax.*)?")  # Orbax adds a suffix while it writes


class Restored(NamedTuple):
    """What a checkpoint holds."""

    variables: Any
    """The pytree that was saved."""
    spec: dict[str, Any]
    """What was cut, the JSON value of `jaxprune.spec`."""
    opt_state: Any
    """The optimizer state in the structure of the template; None without a template."""
    metadata: Any
    """The JSON value given to `save`."""


def save(
    path: str | os.PathLike[str],
    variables: Any,
    spec: Mapping[str, Any],
    *,
    opt_state: Any = None,
    metadata: Any = None,
    overwrite: bool = False,
) -> None:
    """Writes a checkpoint that `restore` reads back bit for bit; atomic, and free of pickle.

    Every argument is checked before anything is written. Of several processes each makes the same
    call, on a file system that all of them see; Orbax writes every shard from a host that owns it.

    Args:
      path: directory to create, with its parents, on a local or shared file system.
      variables: pytree of NumPy and JAX arrays and Python numbers. Nests of dict, list, tuple and
        None come back as they are; other containers need a template at `restore`.
      spec: JSON value of `jaxprune.spec(graph, keep)`.
      opt_state: pytree of the same kinds of leaves, for example an optax state.
      metadata: any JSON value; tuples come back as lists.
      overwrite: replaces the checkpoint at `path`, which stays valid until the new one is complete.

    Raises:
      CheckpointError: `path` is taken, or an argument cannot be stored.
      OSError: the file system refuses a write.

    >>> import tempfile
    >>> import numpy as np
    >>> path = tempfile.mkdtemp() + "/pruned"
    >>> groups = {"Conv_0/kernel": {"size": 4, "kept": [0, 2]}}
    >>> spec = {"format": 1, "groups": groups, "versions": {}}
    >>> save(path, {"params": {"w": np.ones((3, 2))}}, spec, metadata={"accuracy": 0.97})
    >>> restore(path).metadata
    {'accuracy': 0.97}
    """
    trees = {"variables": variables} | ({} if opt_state is None else {"opt_state": opt_state})
    what = f"cannot save {os.fspath(path)!r}"
    raise_if(
        [*_json_problems(spec, "spec"), *_json_problems(metadata, "metadata")]
        or _spec_problems(spec),
        what,
        "pass the value of jaxprune.spec(graph, keep), and a JSON value as metadata.",
    )
    raise_if(
        [problem for name, tree in trees.items() for problem in stored_tree.problems(tree, name)],
        what,
        "keep arrays and numbers in the trees; typed PRNG keys go through jax.random.key_data.",
    )
    directory, stale = _claim(path, overwrite)
    numbers = [int(match[1]) for name in stale if (match := _DATA.fullmatch(name))]
    data = directory / f"jaxprune-data-{max(numbers, default=-1) + 1}"
    multihost_utils.sync_global_devices(f"jaxprune.save claims {directory}")

    arrays = {name: stored_tree.arrays(tree) for name, tree in trees.items()}
    if nonempty := {name: value for name, value in arrays.items() if value}:
        ocp.save_checkpointables(str(data), nonempty)
    if jax.process_index() == 0:
        described = {name: stored_tree.describe(tree) for name, tree in trees.items()}
        _commit(data, {"spec": spec, "metadata": metadata, "trees": described})
        for name in stale:
            shutil.rmtree(directory / name)
    multihost_utils.sync_global_devices(f"jaxprune.save is done with {directory}")


def restore(path: str | os.PathLike[str], *, like: Any = None, opt_state: Any = None) -> Restored:
    """Returns what `save` wrote, after every file has been checked against its SHA-256.

    Args:
      path: directory of the checkpoint.
      like: template of the variables, of arrays or `jax.ShapeDtypeStruct`s: for containers other
        than dict, list, tuple and None, and for arrays on devices. A leaf whose template has a
        sharding becomes a JAX array with that sharding. Every other leaf becomes a NumPy array (a
        Python number stays one), so that any machine can read what another wrote.
      opt_state: template of the optimizer state, for example `jax.eval_shape(tx.init, params)`.
        Without it the optimizer state is left unread.

    Raises:
      CheckpointError: there is no checkpoint at `path`; it is broken, foreign or newer than this
        library; or a template does not fit it.
    """
    directory = Path(path).absolute()
    content = _read(directory)
    data, trees = directory / content["data"], content["trees"]
    raise_if(
        [why for file, sha in content["files"].items() if (why := _file_problem(data / file, sha))],
        f"checkpoint {str(directory)!r} is damaged",
        "restore another copy; a checkpoint is copied as a whole directory.",
    )
    raise_if(
        _spec_problems(content["spec"]),
        f"checkpoint {str(directory)!r} holds a spec that cannot be read",
        "update jaxprune, or write the checkpoint again.",
    )
    if opt_state is not None and "opt_state" not in trees:
        raise CheckpointError(
            f"checkpoint {str(directory)!r} has no optimizer state to fill the template with.\n"
            "Fix: save(..., opt_state=opt_state), or restore without it and call tx.init."
        )
    return Restored(
        variables=stored_tree.load(data, "variables", trees["variables"], like),
        spec=content["spec"],
        opt_state=None
        if opt_state is None
        else stored_tree.load(data, "opt_state", trees["opt_state"], opt_state),
        metadata=content["metadata"],
    )


def _json_problems(value: Any, place: str) -> Iterator[str]:
    match value:
        case None | bool() | int() | str():
            return
        case float():
            if not math.isfinite(value):
                yield f"{place} is {value}, which JSON does not have"
        case list() | tuple():
            for i, item in enumerate(value):
                yield from _json_problems(item, f"{place}[{i}]")
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    yield f"{place} has the key {key!r}; a key in JSON is a string"
                yield from _json_problems(item, f"{place}[{key!r}]")
        case _:
            yield f"{place} is of type {type(value).__name__}, which JSON does not have"


def _spec_problems(spec: Any) -> list[str]:
    match spec:
        case {"format": int(number)} if number > _SPEC_FORMAT:
            return [f"spec has format {number}; this jaxprune reads up to {_SPEC_FORMAT}"]
        case {"format": 1, "groups": dict(groups), "versions": dict()}:
            whys = {name: _group_problem(group) for name, group in groups.items()}
            found = [f"spec of group {name!r}: {why}" for name, why in whys.items() if why]
            why = description.problem(spec["description"]) if "description" in spec else None
            return found or ([f"description of the spec: {why}"] if why else [])
        case _:
            return ["spec is not a dict with format 1, groups and versions"]


def _group_problem(group: Any) -> str | None:
    match group:
        case {"size": int(size), "kept": [[*_], *_] as layers}:
            whys = [_group_problem({"size": size, "kept": kept}) for kept in layers]
            if len({len(kept) for kept in layers}) > 1:
                whys.append("the layers do not keep the same number of channels")
            return next(filter(None, whys), None)
        case {"size": int(size), "kept": [_, *_] as kept} if all(type(i) is int for i in kept):
            if list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= size:
                return f"kept is not a list of increasing indices from 0 to {size - 1}"
            return None
        case _:
            return "not a size and a list of kept indices, at least one"


def _claim(path: str | os.PathLike[str], overwrite: bool) -> tuple[Path, list[str]]:
    """Returns the directory, and the names in it that the new checkpoint makes superfluous."""
    directory, what = Path(path).absolute(), f"cannot save {os.fspath(path)!r}"
    if "://" in os.fspath(path):
        raise CheckpointError(f"{what}: it is a URL.\nFix: pass a directory of a file system.")
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{what}: there is a file.\nFix: pass another path.")
    directory.mkdir(parents=True, exist_ok=True)
    names = sorted(os.listdir(directory))
    stale = [name for name in names if _DATA.fullmatch(name)]
    if foreign := set(names) - {_MANIFEST, _TEMPORARY, *stale}:
        raise CheckpointError(
            f"{what}: it holds other files: {sorted(foreign)[:5]}.\nFix: pass another path."
        )
    if _MANIFEST in names and not overwrite:
        raise CheckpointError(
            f"{what}: there is a checkpoint.\nFix: pass another path, or overwrite=True."
        )
    return directory, stale


def _commit(data: Path, content: dict[str, Any]) -> None:
    """Makes the files of `data` the checkpoint, in one step."""
    digests = {}
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        with open(path, "r+b") as file:
            os.fsync(file.fileno())
        digests[path.relative_to(data).as_posix()] = _digest(path)
    content = {"data": data.name, "files": digests} | content
    manifest = {"format": _FORMAT, "sha256": _content_digest(content), "content": content}
    temporary = data.with_name(_TEMPORARY)
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(manifest, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, data.with_name(_MANIFEST))


def _read(directory: Path) -> dict[str, Any]:
    """Returns the content of the manifest, proved whole."""
    if not directory.is_dir():
        raise CheckpointError(f"no directory {str(directory)!r}.\nFix: check the path.")
    what = f"checkpoint {str(directory)!r}"
    try:
        manifest = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{str(directory)!r} has no {_MANIFEST}: it is not a jaxprune checkpoint, or its save "
            "did not finish.\nFix: pass the directory that jaxprune.save wrote."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{what} is damaged: {_MANIFEST}: {error}.\nFix: restore another copy."
        ) from error
    match manifest:
        case {"format": int(number)} if number > _FORMAT:
            raise CheckpointError(
                f"{what} has format {number}; this jaxprune reads up to {_FORMAT}.\n"
                "Fix: update jaxprune."
            )
        case {"format": 1, "sha256": sha, "content": dict(content)}:
            if sha == _content_digest(content):
                return content
    raise CheckpointError(
        f"{what} is damaged: {_MANIFEST} does not agree with its own SHA-256.\n"
        "Fix: restore another copy."
    )


def _content_digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_problem(path: Path, sha: str) -> str | None:
    try:
        return None if _digest(path) == sha else f"{path.name} has changed since it was written"
    except OSError as error:
        return f"{path.name}: {error.strerror}"
