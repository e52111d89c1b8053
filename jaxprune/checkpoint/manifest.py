"""The manifest of a checkpoint: what it must be, and that the files are those it names."""

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import jaxprune.checkpoint.trees as trees
import jaxprune.checkpoint.values as values
from jaxprune.errors import CheckpointError
from jaxprune.keep.format import spec_problems

NAME = "jaxprune.json"
_FORMAT = 1
_DATA = re.compile(r"jaxprune-data-[0-9a-f]+")
_SHA = re.compile(r"[0-9a-f]{64}")


def dumps(content: Mapping[str, Any]) -> str:
    """Returns the text of a manifest."""
    return json.dumps({"format": _FORMAT, "sha256": _content_digest(content), "content": content})


def read(
    directory: Path,
    name: str = NAME,
    problems: Callable[[Mapping[str, Any]], Iterator[str]] | None = None,
) -> dict[str, Any]:
    """Returns the content of the manifest of that name, every part of it checked.

    `problems` yields why a content is not that of such a manifest.

    Raises:
      FileNotFoundError: there is none.
      CheckpointError: it is damaged, foreign or newer.
    """
    what, path = f"checkpoint {str(directory)!r}", directory / name
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError("it is a directory, or a link out of the checkpoint")
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{what} is damaged: {name}: {error}.\nFix: restore another copy."
        ) from error
    match manifest:
        case {"format": int(number)} if number > _FORMAT:
            raise CheckpointError(
                f"{what} has format {number}; this jaxprune reads up to {_FORMAT}.\n"
                "Fix: update jaxprune."
            )
        case {"format": 1, "sha256": str(sha), "content": dict(content)}:
            if sha == _content_digest(content):
                _check(content, what, name, problems or _content_problems)
                return content
    raise CheckpointError(
        f"{what} is damaged: {name} does not agree with its own SHA-256.\n"
        "Fix: restore another copy."
    )


def whole(directory: Path) -> dict[str, Any]:
    """Returns the content of the manifest of `save`, its files there, also while others save.

    Raises:
      CheckpointError: there is none, or it is broken, foreign or newer.
    """
    while True:
        content = saved(directory)
        try:
            check_names(directory, content)
            return content
        except CheckpointError:
            if saved(directory)["data"] == content["data"]:
                raise


def saved(directory: Path) -> dict[str, Any]:
    """Returns the content of the manifest of `save`, of which no file may be left.

    Raises:
      CheckpointError: there is none, or it is broken, foreign or newer.
    """
    if not directory.is_dir():
        raise CheckpointError(f"no directory {str(directory)!r}.\nFix: check the path.")
    try:
        return read(directory)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{str(directory)!r} has no {NAME}: it is not a jaxprune checkpoint, or its "
            "save did not finish.\nFix: pass the directory that jaxprune.save wrote."
        ) from error


def digests(data: Path, mine: Callable[[str], bool] = lambda _: True) -> dict[str, str]:
    """Returns {name: SHA-256} of the files below `data` that are `mine`.

    All are written through to the disk. Several are read at once.
    """
    names = []
    for path in sorted(data.rglob("*")) if data.exists() else []:
        if path.is_dir():
            sync(path)
        elif mine(name := path.relative_to(data).as_posix()):
            names.append(name)
    if data.exists():
        sync(data)
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: _synced(data / name), names), strict=True))


def _synced(path: Path) -> str:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
    return digest(path)


def replace(path: Path, text: str) -> None:
    """Writes a file through to the disk."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync(directory: Path) -> None:
    """Waits until the names in a directory are on the disk."""
    if os.name != "nt":  # which has no such call
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_names(directory: Path, content: Mapping[str, Any]) -> None:
    """Checks that the files which the manifest names are there, and no others; reads none.

    Raises:
      CheckpointError: a file is missing, is a link, or is not in the manifest.
    """
    data, files = directory / content["data"], content["files"]
    if not files and not os.path.lexists(data):
        return
    try:
        entries = {Path(entry.path).relative_to(data).as_posix(): entry for entry in _entries(data)}
    except OSError as error:  # a later save may be removing it
        _raise_damaged(directory, [f"{data.name}: {error.strerror}"])
        return
    links = {name for name, entry in entries.items() if not entry.is_file(follow_symlinks=False)}
    problems = [f"{name} is a link or a special file" for name in links]
    problems += [f"{name} is not in {NAME}" for name in entries.keys() - files.keys() - links]
    problems += [f"{name}: No such file" for name in files.keys() - entries]
    _raise_damaged(directory, sorted(problems))


def check_files(directory: Path, content: Mapping[str, Any], tree: str) -> None:
    """Checks the files of one tree, and those of all trees, against their SHA-256.

    Raises:
      CheckpointError: a file is missing, has changed, is a link, or is not in the manifest.
    """
    check_names(directory, content)
    data, others = directory / content["data"], content["trees"].keys() - {tree}
    needed = [name for name in content["files"] if name.partition("/")[0] not in others]
    with ThreadPoolExecutor() as pool:
        whys = pool.map(lambda name: _file_problem(data, name, content["files"][name]), needed)
    _raise_damaged(directory, [why for why in whys if why])


def _raise_damaged(directory: Path, problems: list[str]) -> None:
    values.raise_if(
        problems,
        f"checkpoint {str(directory)!r} is damaged",
        "restore another copy; a checkpoint is copied as a whole directory.",
    )


def _check(
    content: Mapping[str, Any],
    what: str,
    name: str,
    problems: Callable[[Mapping[str, Any]], Iterator[str]],
) -> None:
    """Raises unless the content is what `save` writes; the SHA-256 proves no more than that."""
    values.raise_if(
        [*values.json_problems(content, name, 4 * values.DEEPEST)] or [*problems(content)],
        f"{what} is damaged",
        "restore another copy.",
    )
    values.raise_if(
        spec_problems(content["spec"]),
        f"{what} holds a spec that cannot be read",
        "update jaxprune, or write the checkpoint again.",
    )


def _content_problems(content: Mapping[str, Any]) -> Iterator[str]:
    match content:
        case {"data": str(data), "files": dict(files), "trees": dict(kept), "spec": _}:
            pass
        case _:
            yield f"{NAME} lacks data, files, trees or spec"
            return
    if "metadata" not in content:
        yield f"{NAME} lacks metadata"
    if not _DATA.fullmatch(data):
        yield f"the data {data!r} is not a directory that jaxprune writes"
    for name, sha in files.items():
        if not _is_inside(name) or not (isinstance(sha, str) and _SHA.fullmatch(sha)):
            yield f"the file {name!r} with SHA-256 {sha!r} cannot be one of the checkpoint"
    if "variables" not in kept or kept.keys() - {"variables", "opt_state"}:
        yield f"it holds the trees {[*kept]}, not variables and perhaps opt_state"
    for name, description in kept.items():
        yield from trees.description_problems(description, name)


def _is_inside(name: str) -> bool:
    """True for a relative path in its plain form that does not climb."""
    path = PurePosixPath(name)
    plain = path.as_posix() == name and name != "." and not set(name) & {"\\", "\0", ":"}
    return plain and not path.is_absolute() and ".." not in path.parts


def _entries(data: Path) -> Iterator[os.DirEntry[str]]:
    """Yields what stands below a directory, except for directories; follows no link."""
    if data.is_symlink():
        raise OSError(errno.ELOOP, "it is a link")
    todo = [os.fspath(data)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    yield entry


def _file_problem(data: Path, name: str, sha: str) -> str | None:
    try:
        return None if digest(data / name) == sha else f"{name} has changed since it was written"
    except OSError as error:
        return f"{name}: {error.strerror}"


def _content_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
