"""Finds the tensors of a file of safetensors, or of a directory of them with its index."""

import json
from collections.abc import Mapping
from pathlib import Path

import jaxprune.checkpoint.safetensors_files as files
import jaxprune.checkpoint.slice_manifest as slice_manifest
from jaxprune.checkpoint.tensors import Found
from jaxprune.checkpoint.values import raise_if
from jaxprune.errors import CheckpointError


def found(path: Path) -> dict[str, Found]:
    """Returns {name: tensor} of a file or a directory.

    Raises:
      CheckpointError: there are no such files, one is damaged, or some are missing.
    """
    known, digests = _file(path) if path.is_file() else _directory(path)
    return {name: files.found(entry, name, digests.get(name)) for name, entry in known.items()}


def _file(path: Path) -> tuple[dict[str, files.Entry], Mapping[str, str]]:
    """Returns the tensors of a file, and their SHA-256 where it is one of those of a slice."""
    known, digests = files.entries(path), {}
    if slice_manifest.is_at(path.parent) and path.name.startswith("model"):
        digests = slice_manifest.read(path.parent)["sha256"]
    return known, digests


def _directory(path: Path) -> tuple[dict[str, files.Entry], Mapping[str, str]]:
    digests = slice_manifest.read(path)["sha256"] if slice_manifest.is_at(path) else {}
    indexed = sorted(item for item in path.iterdir() if item.name.endswith(files.INDEX))
    if len(indexed) > 1:
        raise CheckpointError(
            f"{str(path)!r} holds several indices: {[item.name for item in indexed]}.\n"
            "Fix: one checkpoint in a directory."
        )
    listed = _weight_map(indexed[0]) if indexed else None
    shards = list(files.files_below(path))
    if listed is not None:
        shards = sorted({path / name for name in listed.values()})
    if not shards:
        raise CheckpointError(
            f"{str(path)!r} holds no file *{files.SUFFIX}, and no checkpoint of Orbax.\n"
            "Fix: check the path."
        )
    tensors: dict[str, files.Entry] = {}
    problems = []
    for shard in shards:
        inside = files.entries(shard)
        problems += [f"tensor {name!r} is in two files" for name in inside if name in tensors]
        tensors |= inside
    if listed is not None:
        problems += [
            f"tensor {name!r} is not in {file}, where the index has it"
            for name, file in listed.items()
            if name not in tensors or tensors[name].file.name != file
        ]
    problems += [f"tensor {name!r} is missing" for name in digests if name not in tensors]
    raise_if(problems, f"{str(path)!r} is not whole", "fetch the files again, all of one version.")
    return tensors, digests


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(found, dict) or not all(map(files.is_file_name, found.values())):
            raise ValueError("weight_map is not {tensor: file beside it}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"the index {str(index)!r} cannot be read: {error}.\nFix: fetch it again."
        ) from error
    return found
