"""Why an axis cannot be pruned, in plain words, and the way out if there is one."""

from typing import NamedTuple

from jaxprune.program import reasons
from jaxprune.program import spaces as ax
from jaxprune.program.reasons import Reason


class Explained(NamedTuple):
    """A reason in words, with its place, and what to do about it."""

    words: str
    way_out: str = ""


def immovable(space: ax.Space) -> list[tuple[int, Reason]]:
    """Returns (size, why) of the parts of an axis that cannot be pruned."""
    parts = [atom for atom in dict.fromkeys(ax.atoms(space)) if atom.size > 1]
    if not parts and space.size > 1:
        return [(space.size, Reason(reasons.ONE_BY_ONE))]
    return [(atom.size, atom.reason) for atom in parts if atom.reason is not None]


def explained(reason: Reason, *, brief: bool = False) -> Explained:
    """Returns a reason in words; a `brief` one without the place where that is plain."""
    place = "" if brief and reason.why.natural else _place(reason)
    return Explained(reason.words + place, reason.way_out)


def _place(reason: Reason) -> str:
    """The operation: its module path, or the file and line."""
    return f", by {reason.at.name} at {reason.place}" if reason.place else ""
