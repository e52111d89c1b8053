"""What stands beside the tensors that `slice_stored` wrote: spec, metadata, structure, SHA-256."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jaxprune.checkpoint.manifest as manifest
import jaxprune.checkpoint.trees as trees
from jaxprune.arguments.stored_arrays import permutation

NAME = "jaxprune-slice.json"
_SHA = re.compile(r"[0-9a-f]{64}")


def is_at(directory: Path) -> bool:
    """True if there is one."""
    return (directory / NAME).exists()


def read(directory: Path) -> dict[str, Any]:
    """Returns its content: spec, metadata, trees, tensors and sha256.

    Raises:
      FileNotFoundError: there is none.
      CheckpointError: it is damaged, foreign or newer.
    """
    return manifest.read(directory, NAME, _problems)


def _problems(content: Mapping[str, Any]) -> Iterator[str]:
    match content:
        case {
            "sha256": dict(digests),
            "trees": {"variables": dict(tree)},
            "tensors": list(tensors),
            "spec": _,
            "metadata": _,
        }:
            pass
        case _:
            yield f"{NAME} lacks sha256, trees, tensors, spec or metadata"
            return
    yield from trees.description_problems(tree, "variables")
    for name, sha in digests.items():
        if not (isinstance(sha, str) and _SHA.fullmatch(sha)):
            yield f"the tensor {name!r} has the SHA-256 {sha!r}"
    leaves = tree.get("leaves", [])
    fits = len(leaves) == len(tensors) and all(map(_is_tensor, tensors, leaves))
    if not fits or {name for name, _ in tensors} != digests.keys():
        yield "the tensors are not those of the leaves"


def _is_tensor(tensor: Any, leaf: Any) -> bool:
    match tensor, leaf:
        case [str(), list(axes)], {"shape": list(shape)}:
            return permutation(axes, len(shape)) is not None
        case _:
            return False
