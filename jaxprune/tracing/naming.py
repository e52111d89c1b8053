"""The names of channel groups: readable, and the same after pruning."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxprune.errors import TreeError
from jaxprune.program import spaces as ax
from jaxprune.program import stream_readers
from jaxprune.program.relate import Walk
from jaxprune.program.spaces import Atom, Space


class Place(NamedTuple):
    """Where an atom stands: in the `space` of an axis of a variable."""

    path: str
    axis: int
    role: str
    space: Space
    atom: Atom


Slots = Mapping[Atom, Sequence[Place]]


def places(
    variables: Mapping[str, Sequence[Space]], roles: Sequence[tuple[Atom, str]]
) -> dict[Atom, list[Place]]:
    """Returns where every free atom stands, in tree order, given {path: axes}."""
    names = list(variables)
    known: dict[tuple[str, int, Atom], str] = {}
    for owned, role in roles:
        assert owned.owner is not None
        leaf, axis = owned.owner
        for atom in ax.atoms(owned):
            key = (names[leaf], axis, atom)
            known[key] = "out" if "out" in (role, known.get(key)) else role
    by_atom: dict[Atom, list[Place]] = {}
    for path, axes in variables.items():
        for axis, space in enumerate(axes):
            for atom in dict.fromkeys(ax.atoms(space)):
                if atom.reason is None and atom.size > 1:
                    role = known.get((path, axis, atom), "vector")
                    by_atom.setdefault(atom, []).append(Place(path, axis, role, space, atom))
    return by_atom


def names(
    walk: Walk, slots: Slots, roles: Sequence[tuple[Atom, str]], paths: Sequence[str]
) -> dict[Atom, str]:
    """Returns the name of the group of every atom that has slots.

    Raises:
      TreeError: two groups would have one name.
    """
    readers = _readers(walk, slots)
    others = {atom: members for atom, members in slots.items() if atom not in readers}
    named = readers | _of_slots(others, roles, paths)
    _check(named, slots)
    return named


def _check(named: Mapping[Atom, str], slots: Slots) -> None:
    """Raises if two groups have one name: a keep could not tell them apart."""
    places: dict[str, list[str]] = {}
    for atom, name in named.items():
        slot = _first(slots[atom])
        places.setdefault(name, []).append(f"{slot.path!r} axis {slot.axis}")
    twice = [
        f"{name!r} would name the groups of {' and of '.join(where)}"
        for name, where in places.items()
        if len(where) > 1
    ]
    if twice:
        raise TreeError(
            "\n".join(twice)
            + "\nFix: rename one of the variables; a group goes by the path of its "
            "first kernel without 'params/', with [axis] behind it where a kernel has several."
        )


def _of_slots(
    slots: Slots, roles: Sequence[tuple[Atom, str]], paths: Sequence[str]
) -> dict[Atom, str]:
    """The path of the first `out` slot, with [axis.factor] where several groups could claim it.

    An `out` axis that was pruned to one channel still claims, so that the others keep their names.
    """
    firsts = {atom: _first(members) for atom, members in slots.items()}
    claims: dict[str, set[tuple[int, Atom]]] = {}
    for atom, role in roles:
        if role == "out" and atom.size == 1 and atom.owner:
            leaf, axis = atom.owner
            claims.setdefault(paths[leaf], set()).add((axis, atom))
    for atom, first in firsts.items():
        claims.setdefault(first.path, set()).add((first.axis, atom))
        for slot in slots[atom]:
            if slot.role == "out":
                claims.setdefault(slot.path, set()).add((slot.axis, atom))
    return {
        atom: first.path.removeprefix("params/")
        + (_part(first) if len(claims[first.path]) > 1 else "")
        for atom, first in firsts.items()
    }


def _first(members: Sequence[Place]) -> Place:
    return next((slot for slot in members if slot.role == "out"), members[0])


def _readers(walk: Walk, slots: Slots) -> dict[Atom, str]:
    """The readers' own groups go by the names of the readers."""
    spaces = {
        ax.resolve(reading.reader): reading.name for reading in stream_readers.selecting(walk)
    }
    return {
        space: name
        for space, name in spaces.items()
        if isinstance(space, Atom) and space in slots and _only_read(slots[space]) and name
    }


def _only_read(slots: Sequence[Place]) -> bool:
    return all(slot.role != "out" for slot in slots)


def _part(slot: Place) -> str:
    """[axis], or [axis.factor] where the axis holds several groups."""
    inside = list(dict.fromkeys(ax.atoms(slot.space)))
    return f"[{slot.axis}.{inside.index(slot.atom)}]" if len(inside) > 1 else f"[{slot.axis}]"
