"""What the function does not read: nothing says with what its channels would go."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress

from jaxprune.program import reasons, traced_spaces, used_values
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op, Program
from jaxprune.program.reasons import Reason
from jaxprune.program.relate import Walk
from jaxprune.program.spaces import Atom, Space
from jaxprune.program.traits import Trait
from jaxprune.program.used_values import Live


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


def freeze_left_out(walk: Walk, twins: Sequence[int | None]) -> None:
    """Freezes the channels of activations that a slice leaves out and nothing else reads.

    What a network gives back of its state (`twins`), such as statistics, does not read them. A
    split leaves nothing out: parts that nothing reads are pruned with the others, as its code may
    ask for equal parts.
    """
    if not any(_takes_part(op) for op in every_op(walk)):
        return
    ops = list(_live_ops(walk, [True] * len(walk.outs)))
    left_out: dict[Atom, Op] = {}
    for op in ops:
        if _takes_part(op):
            gone = traced_spaces.distinct(op.ins[0]) - traced_spaces.distinct(chain(*op.outs))
            left_out |= {atom: op for atom in gone if atom.reason is None and atom not in left_out}
    known: dict[Space, frozenset[Atom]] = {}

    def among(arrays: Iterable[Iterable[Space]]) -> set[Atom]:
        def make(space: Space, items: list[frozenset[Atom]]) -> frozenset[Atom]:
            alone = {space} if isinstance(space, Atom) else set()
            return frozenset(left_out.keys() & alone).union(*items)

        sets = (traced_spaces.fold(space, known, make) for space in chain(*arrays))
        return set().union(*sets)

    read = among(axes for axes, twin in zip(walk.outs, twins, strict=True) if twin is None)
    for op in ops:
        if left_out and not op.inner and not _takes_part(op):
            read |= among(op.ins) - among(op.outs)
    for atom, op in left_out.items():
        if atom not in read:
            ax.freeze(atom, Reason(reasons.LEFT_OUT, (), op))


def _takes_part(op: Op) -> bool:
    """True for an operation that takes parts of one array."""
    return Trait.PARTS in op.traits and len(op.ins) == 1


def _live_ops(walk: Walk, wanted: Sequence[bool]) -> Iterator[Op]:
    """Yields the operations on which the results in use depend."""
    live = Live(used_values.live(walk.program, compress(walk.program.outvars, wanted)))
    for op in walk.ops:
        if not live.is_dead(op.eqn):
            yield op
            for inner, results in zip(op.inner, live.results(op.eqn), strict=True):
                yield from _live_ops(inner, results)


def _elsewhere(walk: Walk) -> Iterator[Space]:
    """Yields the axes of all arrays that are not computed from one variable alone."""
    for op in every_op(walk):
        both = frozenset().union(*(source or () for source in op.sources))
        whole = None if None in op.sources else both
        for arrays, sources in ((op.ins, op.sources), (op.outs, [whole] * len(op.outs))):
            for spaces, source in zip(arrays, sources, strict=True):
                if source is None or len(source) > 1:
                    yield from spaces
