"""What the function does not read: nothing says with what its channels would go."""

from collections.abc import Iterator, Sequence

from jaxprune import _jaxpr, fixed
from jaxprune import axes as ax
from jaxprune.axes import Reason, Space
from jaxprune.walk import Walk


def freeze_unused(
    program: _jaxpr.Program, axes: list[list[Space]], twins: Sequence[int | None]
) -> None:
    """Freezes the variables that are neither read nor written."""
    used = {atom for eqn in program.eqns for atom in eqn.invars if not _jaxpr.is_literal(atom)}
    for atom, twin in zip(program.outvars, twins, strict=True):
        if twin is not None and atom is not program.invars[twin]:
            used.add(program.invars[twin])
        if twin is None and not _jaxpr.is_literal(atom):
            used.add(atom)
    for var, spaces in zip(program.invars, axes, strict=False):
        if var not in used:
            for space in spaces:
                ax.freeze(space, Reason("not used by the function"))


def freeze_unread(walk: Walk, variables: Sequence[Sequence[Space]]) -> None:
    """Freezes the parts of variables that a slice leaves out: nothing else has their indices."""
    parts = {
        atom
        for spaces in variables
        for space in spaces
        for atom in ax.atoms(space)
        if atom is not ax.find(space) and atom.reason is None
    }
    if parts:
        parts -= fixed.distinct(_elsewhere(walk))
    for atom in parts:
        ax.freeze(atom, Reason("not read by the function"))


def _elsewhere(walk: Walk) -> Iterator[Space]:
    """Yields the axes of all arrays that are not computed from one variable alone."""
    for op in walk.ops:
        both = frozenset().union(*(source or () for source in op.sources))
        whole = None if None in op.sources else both
        for arrays, found in ((op.ins, op.sources), (op.outs, [whole] * len(op.outs))):
            for spaces, source in zip(arrays, found, strict=True):
                if source is None or len(source) > 1:
                    yield from spaces
        for inner in op.inner:
            yield from _elsewhere(inner)
