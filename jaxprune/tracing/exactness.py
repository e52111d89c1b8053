"""Decides which groups can be masked exactly: zeros at pruned indices through the program.

Masking zeroes the pruned entries of the variables; `jp.narrow` runs without them. Both give the
same outputs and gradients exactly when every reduction and every contraction over a pruned axis
meets values that are provably zero there, and no operation has an infinite derivative at these
zeros. This pass propagates "zero at pruned indices" through every operation and names the first
operation at which a group fails. Which constants a resized module computes anew from its widths is
another question: `resize` sees both programs and lists them (`follows`).
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from jaxprune.program import jaxpr, reasons, traced_spaces
from jaxprune.program.derivatives import Derivative, derivative
from jaxprune.program.interpret import Domain
from jaxprune.program.jaxpr import Op
from jaxprune.program.reasons import Reason, Why
from jaxprune.program.relate import Walk
from jaxprune.program.rules import Known
from jaxprune.program.rules.base import is_zero, meet, unknown
from jaxprune.program.spaces import Atom, Space
from jaxprune.program.traits import Form


class Pass(Domain[Known]):
    """One run over a traced program.

    `summed` are the groups whose channels are summed, `known_sums` what an earlier run found of
    them, and `given` the groups of results whose function has a derivative of its own. `found` maps
    a group's atom to the reason it is inexact; `poles` holds the (variable, atom) whose zeros met
    an operation that has no finite value or derivative there.
    """

    def __init__(
        self,
        derivatives: dict[Op, Derivative],
        summed: Set[Atom],
        *,
        may: bool = False,
    ):
        self.may = may
        self.summed: frozenset[Atom] = frozenset()
        self.given: frozenset[Atom] = frozenset()
        self.known_sums = summed
        self._derivatives = derivatives
        self._atoms: dict[str, Atom] = {}
        self.reasons: dict[Atom, Reason] = {}
        self.poles: set[tuple[int, Atom]] = set()
        self._silent = False
        self._within = False
        self._peeked: dict[tuple[Walk, tuple[Known, ...]], list[Known]] = {}
        self._groups: dict[Space, frozenset[Atom]] = {}

    def groups(self, space: Space) -> frozenset[Atom]:
        """Returns the groups that appear in a space."""
        return traced_spaces.fold(space, self._groups, self._join)

    def _join(self, space: Space, items: list[frozenset[Atom]]) -> frozenset[Atom]:
        """A copy of an atom, inside of a derivative, stands for the same group."""
        if not isinstance(space, Atom):
            return frozenset().union(*items)
        if space.name is None:
            return frozenset()
        return frozenset({self._atoms.setdefault(space.name, space)})

    def inexact(self, groups: frozenset[Atom], op: Op, why: Why, *of: Any) -> None:
        """Marks groups as inexact; the first reason stays."""
        if not self.may:
            self._mark(groups, Reason(why, of, op))

    def _mark(self, groups: frozenset[Atom], reason: Reason) -> None:
        if not self._silent:
            for atom in groups:
                self.reasons.setdefault(atom, reason)

    def undefined(self, groups: frozenset[Atom], op: Op, operand: int, why: Why) -> None:
        """Marks groups whose zeros have no finite result, and the variables they come from."""
        self._mark(groups, Reason(why, at=op))
        if not self._silent:
            sources = op.sources[operand] or frozenset()
            self.poles.update((leaf, atom) for leaf in sources for atom in groups)

    def steep(self, groups: frozenset[Atom], op: Op, operand: int) -> None:
        """Marks groups whose zeros have no finite derivative, where a gradient flows."""
        if not self._within:
            self.undefined(groups, op, operand, reasons.STEEP)

    def sums(self, groups: frozenset[Atom]) -> None:
        """Notes groups whose channels are summed, so that their cotangents need not be zero."""
        if not self._within:
            self.summed |= groups

    def derived(self, op: Op, known: list[Known]) -> list[Known]:
        """Returns what is zero in the results and in their derivative.

        Tangents are zero where the values are: they are so for all parameters. Of a result that is
        not zero at a pruned index nothing depends on that index if its group is exact, so that its
        cotangent is zero there; so it is where readers alone meet the channels, as these are zero
        too. And so must be the cotangents of operands that are not zero.
        """
        if self._within:  # of second derivatives nothing is said
            return self.run(op.inner[0], known)
        results = self._apart(op.inner[0], known)
        if op not in self._derivatives:
            self._derivatives[op] = derivative(op)
        derived = self._derivatives[op]
        if derived.problem is not None:
            every = self._present(op.ins) | self._present(op.outs)
            self.inexact(every, op, reasons.OWN_DERIVATIVE, derived.problem[0])
        elif derived.walk is None:  # there is no gradient to be wrong
            return results
        elif op.form is Form.CUSTOM_JVP:
            tangents = [Known(known[i].zeros) for i in derived.moving]
            moved = self._apart(derived.walk, [*known, *tangents])
            for i, tangent in zip(derived.outs, moved, strict=True):
                results[i] = results[i]._replace(zeros=meet(results[i], tangent).zeros)
        else:
            self.given |= self._present(op.outs)
            cotangents = [Known(self._unneeded(op.outs[i], results[i])) for i in derived.outs]
            back = self._apart(derived.walk, [*known, *cotangents])
            for i, item in zip(derived.moving, back, strict=True):
                if op.sources[i] != frozenset() and not is_zero(item):
                    self._check_cotangent(op, op.ins[i], known[i], item)
        return results

    def _check_cotangent(self, op: Op, axes: Sequence[Space], known: Known, given: Known) -> None:
        """An operand that is not zero must not matter."""
        for space, zeros, cotangent in zip(axes, known.zeros, given.zeros, strict=True):
            self.inexact(self.groups(space) - zeros - cotangent, op, reasons.OWN_COTANGENT)

    def _unneeded(self, axes: Sequence[Space], known: Known) -> tuple[frozenset[Atom], ...]:
        """The groups along every axis at whose pruned indices a cotangent is zero."""
        if is_zero(known):
            return known.zeros
        pairs = zip(map(self.groups, axes), known.zeros, strict=True)
        return tuple((groups - zeros) | (groups - self.known_sums) for groups, zeros in pairs)

    def _present(self, arrays: Sequence[Sequence[Space]]) -> frozenset[Atom]:
        return frozenset().union(*(self.groups(space) for axes in arrays for space in axes))

    def _apart(self, walk: Walk, known: list[Known]) -> list[Known]:
        """Runs a program through which no gradient flows but by a derivative of its own."""
        self._within = True
        try:
            return [*self.run(walk, known)]
        finally:
            self._within = False

    def run(self, walk: Walk, ins: Sequence[Known]) -> list[Known]:
        """Returns what is known of the results of a program."""
        return self.peek(walk, ins) if self._silent else super().run(walk, ins)

    def peek(self, walk: Walk, known: Sequence[Known]) -> list[Known]:
        """As `run`, without marking anything; the same is not propagated twice."""
        key = walk, tuple(known)
        if key not in self._peeked:
            before, self._silent = self._silent, True
            try:
                self._peeked[key] = super().run(walk, known)
            finally:
                self._silent = before
        return self._peeked[key]

    def literal(self, value: Any, atom: Any, op: Op | None) -> Known:
        """A number."""
        del value, op
        return unknown(jaxpr.shape(atom))._replace(value=jaxpr.scalar(atom))

    def constant(self, value: Any, var: Any, axes: Any) -> Known:
        """Of constant arrays nothing is known."""
        del value, axes
        return unknown(jaxpr.shape(var))

    def apply(self, op: Op, ins: list[Known]) -> list[Known]:
        """Returns what the rule says; rules run the programs of their operations themselves."""
        return self.compute(op, ins)

    def compute(self, op: Op, ins: list[Known]) -> list[Known]:
        """Returns what is known of the results of one operation."""
        return [*map(unknown, op.out_shapes)] if op.rule is None else op.rule.zeros(op, ins, self)


class Verdict(NamedTuple):
    """Why groups are inexact, and the (variable, group) that masking must not make zero."""

    inexact: dict[Atom, Reason]
    spared: frozenset[tuple[int, Atom]]


Masked = Mapping[int, int | None]
"""{input of the program that is zero at pruned channels: its result after the call, or None}."""


def decide(walk: Walk, masked: Masked) -> Verdict:
    """Returns the verdict on every group.

    State, which the next call reads, is zero at pruned channels only if the call leaves it so.

    Where zeros of a variable meet a pole (the norm of a filter in weight normalization), the
    variable keeps its values in the mask if its group is exact then: others silence the channel.
    """
    derivatives: dict[Op, Derivative] = {}
    first = _passes(walk, masked, frozenset(), derivatives)
    if not first.poles:
        return Verdict(first.reasons, frozenset())
    second = _passes(walk, masked, frozenset(first.poles), derivatives)
    spared = frozenset((leaf, atom) for leaf, atom in first.poles if atom not in second.reasons)
    return Verdict(_passes(walk, masked, spared, derivatives).reasons, spared)


def _passes(
    walk: Walk,
    masked: Masked,
    spared: frozenset[tuple[int, Atom]],
    derivatives: dict[Op, Derivative],
) -> Pass:
    """Runs the pass over what must be zero; poles are also where an array only may be zero."""
    every = frozenset(atom for axes in walk.ins for atom in traced_spaces.distinct(axes))
    must = _run(Pass(derivatives, every), walk, masked, spared)
    if must.given - must.summed:
        must = _run(Pass(derivatives, must.summed), walk, masked, spared)
    may = _run(Pass(derivatives, must.summed, may=True), walk, masked, spared)
    must.reasons = may.reasons | must.reasons
    must.poles |= may.poles
    return must


def _run(run: Pass, walk: Walk, masked: Masked, spared: frozenset[tuple[int, Atom]]) -> Pass:
    """Runs a pass with what is masked zero at pruned indices, but for what is spared."""

    def zeros(leaf: int, space: Space) -> frozenset[Atom]:
        groups = run.groups(space) if leaf in masked else frozenset()
        return groups - {atom for other, atom in spared if other == leaf} if spared else groups

    known = [
        Known(tuple(zeros(leaf, space) for space in axes)) for leaf, axes in enumerate(walk.ins)
    ]
    returned = {leaf: result for leaf, result in masked.items() if result is not None}
    while returned and not run.may:
        results, before = run.peek(walk, known), list(known)
        for leaf, result in returned.items():
            known[leaf] = Known(meet(known[leaf], results[result]).zeros)
        if known == before:
            break
    run.run(walk, known)
    return run
