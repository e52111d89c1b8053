"""The form of a spec: the JSON value that says what was cut, and what is wrong with one."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from jaxprune.keep import program_description
from jaxprune.keep.check import is_branch
from jaxprune.keep.program_description import Description

FORMAT = 2
"""The newest form; in 1 there are no branches."""


class GroupSpec(TypedDict):
    """What a group kept: increasing indices, or a list of them for each layer of a stack."""

    size: int
    kept: list[int] | list[list[int]]


class Spec(TypedDict):
    """What was cut of which network: a JSON value."""

    format: int
    groups: Mapping[str, GroupSpec]
    branches: NotRequired[Mapping[str, bool | list[bool]]]  # in format 2: which stay
    versions: Mapping[str, str]
    description: NotRequired[Description]  # of the whole network; early specs have none


_NO_GROUP = "not a size and a list of kept indices, at least one"


def spec_problems(spec: Any) -> list[str]:
    """Returns what is wrong with the JSON value that says what was cut; nothing if it is whole."""
    match spec:
        case {"format": int(number)} if number > FORMAT:
            return [f"spec has format {number}; this jaxprune reads up to {FORMAT}"]
        case {"format": 1 | 2, "groups": dict(groups), "versions": dict()}:
            if bad := _branches_problem(spec):
                return [bad]
            whys = {name: _stored_problem(group) for name, group in groups.items()}
            if bad := [f"spec of group {name!r}: {why}" for name, why in whys.items() if why]:
                return bad
            why = (
                program_description.problem(spec["description"]) if "description" in spec else None
            )
            return [f"description of the spec: {why}"] if why else []
        case _:
            return ["spec is not a dict with format 1 or 2, groups and versions"]


def _branches_problem(spec: Mapping[str, Any]) -> str | None:
    match spec:
        case {"format": 2, "branches": dict(branches)}:
            bad = [name for name, kept in branches.items() if not _is_kept(name, kept)]
            text = "is not True, False, or a list of them for each step"
            return f"spec of branch {bad[0]!r} {text}" if bad else None
        case {"format": 2} | {"branches": _}:
            return "spec has branches in format 2, and only there"
    return None


def _is_kept(name: Any, kept: Any) -> bool:
    steps = kept if isinstance(kept, list) and kept else [kept]
    return is_branch(name) and all(isinstance(step, bool) for step in steps)


def _stored_problem(group: Any) -> str | None:
    match group:
        case {"size": int(size), "kept": [[*_], *_] as layers} if type(size) is int:
            whys = [_kept_problem(size, kept) for kept in layers]
            if not any(whys) and len({len(kept) for kept in layers}) > 1:
                return "the layers do not keep the same number of channels"
            return next(filter(None, whys), None)
        case {"size": int(size), "kept": kept} if type(size) is int:
            return _kept_problem(size, kept)
        case _:
            return _NO_GROUP


def _kept_problem(size: int, kept: Any) -> str | None:
    if not isinstance(kept, list | tuple) or not kept or any(type(i) is not int for i in kept):
        return _NO_GROUP
    if list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= size:
        return f"kept is not a list of increasing indices from 0 to {size - 1}"
    return None
