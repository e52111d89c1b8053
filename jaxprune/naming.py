"""The names of channel groups: readable, and the same after pruning."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxprune import axes as ax
from jaxprune import streams
from jaxprune.axes import Atom, Space
from jaxprune.walk import Walk


class Place(NamedTuple):
    """Where an atom stands: in the `space` of an axis of a variable."""

    path: str
    axis: int
    role: str
    space: Space
    atom: Atom


Slots = Mapping[Atom, Sequence[Place]]


def names(
    walk: Walk, slots: Slots, roles: Sequence[tuple[Atom, str]], paths: Sequence[str]
) -> dict[Atom, str]:
    """Returns the name of the group of every atom that has slots."""
    readers = _readers(walk, slots)
    others = {atom: members for atom, members in slots.items() if atom not in readers}
    return readers | _of_slots(others, roles, paths)


def _of_slots(
    slots: Slots, roles: Sequence[tuple[Atom, str]], paths: Sequence[str]
) -> dict[Atom, str]:
    """The path of the first `out` slot, with [axis.factor] where several groups could claim it.

    An `out` axis that was pruned to one channel still claims, so that the others keep their names.
    """
    firsts = {
        atom: next((slot for slot in members if slot.role == "out"), members[0])
        for atom, members in slots.items()
    }
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


def _readers(walk: Walk, slots: Slots) -> dict[Atom, str]:
    """The readers' own groups go by the names of the readers."""
    spaces = {ax.resolve(reading.reader): reading.name for reading in streams.own(walk)}
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
