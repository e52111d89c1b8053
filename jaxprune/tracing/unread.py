"""What the function does not read: nothing says with what its channels would go."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jaxprune.program import jaxpr, reasons, traced_spaces
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
    used = _read(program, results)
    unused = [i for i, var in enumerate(program.invars[: len(axes)]) if var not in used]
    for i in unused:
        for space in axes[i]:
            ax.freeze(space, Reason(reasons.NOT_USED))
    return unused


def _read(program: Program, results: Iterable[Any]) -> set[Any]:
    """The values of a program that its equations read, or that are among the `results` in use.

    What an equation only hands to the programs that it calls is read if one of them reads it.
    """
    used = {atom for atom in results if not jaxpr.is_literal(atom)}
    for eqn in reversed(program.eqns):
        read, handed = set(range(len(eqn.invars))), set()
        for inner, operands, given in jaxpr.calls(eqn):
            pairs = zip(inner.outvars, given, strict=True)
            wanted = _read(inner, [var for var, out in pairs if out is None or out in used])
            pairs = zip(operands, inner.invars, strict=True)
            read.difference_update(set(operands) - handed)
            handed.update(operands)
            read.update(i for i, var in pairs if var in wanted)
        used.update(eqn.invars[i] for i in read if not jaxpr.is_literal(eqn.invars[i]))
    return used


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
