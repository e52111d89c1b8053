"""The names of channel groups: readable, and the same after pruning."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from jaxprune import axes as ax
from jaxprune import streams
from jaxprune.axes import Atom, Space
from jaxprune.errors import TreeError
from jaxprune.walk import Walk


class _Slot(Protocol):
    """Where an atom stands: in `space`, on an axis of a variable."""

    @property
    def path(self) -> str: ...
    @property
    def axis(self) -> int: ...
    @property
    def role(self) -> str: ...
    @property
    def space(self) -> Space: ...
    @property
    def atom(self) -> Atom: ...


Slots = Mapping[Atom, Sequence[_Slot]]


def names(
    walk: Walk, slots: Slots, roles: Sequence[tuple[Atom, str]], paths: Sequence[str]
) -> dict[Atom, str]:
    """Returns the name of the group of every atom that has slots.

    Raises:
      TreeError: two groups would have one name.
    """
    readers = _readers(walk, slots)
    others = {atom: members for atom, members in slots.items() if atom not in readers}
    found = readers | _of_slots(others, roles, paths)
    _check(found, slots)
    return found


def _check(found: Mapping[Atom, str], slots: Slots) -> None:
    """Raises if two groups have one name: a keep could not tell them apart."""
    places: dict[str, list[str]] = {}
    for atom, name in found.items():
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


def _first(members: Sequence[_Slot]) -> _Slot:
    return next((slot for slot in members if slot.role == "out"), members[0])


def _readers(walk: Walk, slots: Slots) -> dict[Atom, str]:
    """The readers' own groups go by the names of the readers."""
    spaces = {ax.resolve(reading.reader): reading.name for reading in streams.own(walk)}
    return {
        space: name
        for space, name in spaces.items()
        if isinstance(space, Atom) and space in slots and _only_read(slots[space]) and name
    }


def _only_read(slots: Sequence[_Slot]) -> bool:
    return all(slot.role != "out" for slot in slots)


def _part(slot: _Slot) -> str:
    """[axis], or [axis.factor] where the axis holds several groups."""
    inside = list(dict.fromkeys(ax.atoms(slot.space)))
    return f"[{slot.axis}.{inside.index(slot.atom)}]" if len(inside) > 1 else f"[{slot.axis}]"
