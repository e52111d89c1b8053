"""What the function does not read: nothing says with what its channels would go."""

from collections.abc import Iterator, Sequence

from jaxprune.program import reasons, traced_spaces, used_values
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Program
from jaxprune.program.reasons import Reason
from jaxprune.program.relate import Walk
from jaxprune.program.spaces import Space


def freeze_unused(
    program: Program, axes: Sequence[Sequence[Space]], twins: Sequence[int | None]
) -> list[int]:
    """Freezes the variables that are neither read nor written; returns which they are."""
    results = []
    for atom, twin in zip(program.outvars, twins, strict=True):
        if twin is None:
            results.append(atom)
        elif atom is not program.invars[twin]:
            results += [atom, program.invars[twin]]
    used = used_values.read(program, results)
    unused = [i for i, var in enumerate(program.invars[: len(axes)]) if var not in used]
    for i in unused:
        for space in axes[i]:
            ax.freeze(space, Reason(reasons.NOT_USED))
    return unused


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
        parts -= traced_spaces.distinct(_elsewhere(walk))
    for atom in parts:
        ax.freeze(atom, Reason(reasons.NOT_READ))


def _elsewhere(walk: Walk) -> Iterator[Space]:
    """Yields the axes of all arrays that are not computed from one variable alone."""
    for op in every_op(walk):
        both = frozenset().union(*(source or () for source in op.sources))
        whole = None if None in op.sources else both
        for arrays, found in ((op.ins, op.sources), (op.outs, [whole] * len(op.outs))):
            for spaces, source in zip(arrays, found, strict=True):
                if source is None or len(source) > 1:
                    yield from spaces
