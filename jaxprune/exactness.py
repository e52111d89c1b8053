"""Decides which groups can be masked exactly: zeros at pruned indices through the program.

Masking zeroes the pruned entries of the variables; `jp.narrow` runs without them. Both give the
same outputs and gradients exactly when every reduction and every contraction over a pruned axis
meets values that are provably zero there, and no operation has an infinite derivative at these
zeros. This pass propagates "zero at pruned indices" through every operation and names the first
operation at which a group fails. Which constants a resized module computes anew from its widths is
another question: `resize` sees both programs and lists them (`follows`).
"""

from collections.abc import Mapping
from typing import NamedTuple

from jaxprune import _jaxpr, fixed
from jaxprune._jaxpr import Op
from jaxprune.axes import Atom, Space
from jaxprune.rules import Known, Rule
from jaxprune.walk import Walk


class Pass:
    """One run over a traced program.

    `found` maps a group's atom to the reason it is inexact; `poles` holds the (variable, atom)
    whose zeros met an operation that has no finite value or derivative there.
    """

    def __init__(self, rules: Mapping[str, Rule], *, may: bool = False):
        self.rules = rules
        self.may = may
        self.found: dict[Atom, str] = {}
        self.poles: set[tuple[int, Atom]] = set()
        self._silent = False
        self._peeked: dict[tuple[Walk, tuple[Known, ...]], list[Known]] = {}
        self._groups: dict[Space, frozenset[Atom]] = {}

    def groups(self, space: Space) -> frozenset[Atom]:
        """Returns the groups that appear in a space."""
        return fixed.fold(space, self._groups, _groups)

    def inexact(self, groups: frozenset[Atom], op: Op, why: str) -> None:
        """Marks groups as inexact; the first reason stays."""
        if not self.may:
            self._mark(groups, op, why)

    def _mark(self, groups: frozenset[Atom], op: Op, why: str) -> None:
        if groups and not self._silent:
            for atom in groups:
                self.found.setdefault(atom, f"{op!r} at {op.place}: {why}")

    def undefined(self, groups: frozenset[Atom], op: Op, operand: int, why: str) -> None:
        """Marks groups whose zeros have no finite result, and the variables they come from."""
        self._mark(groups, op, why)
        if not self._silent:
            sources = op.sources[operand] or frozenset()
            self.poles.update((leaf, atom) for leaf in sources for atom in groups)

    def run(self, walk: Walk, known: list[Known]) -> list[Known]:
        """Returns what is known of the results of a program."""
        return self.peek(walk, known) if self._silent else self._run(walk, known)

    def peek(self, walk: Walk, known: list[Known]) -> list[Known]:
        """As `run`, without marking anything; the same is not propagated twice."""
        key = walk, tuple(known)
        if key not in self._peeked:
            before, self._silent = self._silent, True
            try:
                self._peeked[key] = self._run(walk, known)
            finally:
                self._silent = before
        return self._peeked[key]

    def _run(self, walk: Walk, known: list[Known]) -> list[Known]:
        program = walk.program
        env = dict(zip(program.invars, known, strict=True))
        for var in program.constvars:
            env[var] = Known((frozenset(),) * len(_jaxpr.shape(var)))
        for op in walk.ops:
            operands = [_read(env, atom) for atom in op.eqn.invars]
            rule = self.rules.get(op.name)
            if rule is None:
                results = [Known((frozenset(),) * len(shape)) for shape in op.out_shapes]
            else:
                results = rule.zeros(op, operands, self)
            env.update(zip(op.eqn.outvars, results, strict=True))
        return [_read(env, atom) for atom in program.outvars]


def _groups(space: Space, items: list[frozenset[Atom]]) -> frozenset[Atom]:
    if isinstance(space, Atom):
        return frozenset() if space.name is None else frozenset({space})
    return frozenset().union(*items)


def _read(env: Mapping[object, Known], atom: object) -> Known:
    if not _jaxpr.is_literal(atom):
        return env[atom]
    return Known((frozenset(),) * len(_jaxpr.shape(atom)), _jaxpr.scalar(atom))


class Verdict(NamedTuple):
    """Why groups are inexact, and the (variable, group) that masking must not make zero."""

    inexact: dict[Atom, str]
    spared: frozenset[tuple[int, Atom]]


def decide(walk: Walk, rules: Mapping[str, Rule], variables: int) -> Verdict:
    """Returns the verdict on every group; the program's first inputs are the variables.

    Where zeros of a variable meet a pole (the norm of a filter in weight normalization), the
    variable keeps its values in the mask if its group is exact then: others silence the channel.
    """
    first = _passes(walk, rules, variables, frozenset())
    if not first.poles:
        return Verdict(first.found, frozenset())
    second = _passes(walk, rules, variables, frozenset(first.poles))
    spared = frozenset((leaf, atom) for leaf, atom in first.poles if atom not in second.found)
    return Verdict(_passes(walk, rules, variables, spared).found, spared)


def _passes(
    walk: Walk, rules: Mapping[str, Rule], variables: int, spared: frozenset[tuple[int, Atom]]
) -> Pass:
    """Runs the pass over what must be zero; poles are also where an array only may be zero."""
    must, may = (_run(Pass(rules, may=m), walk, variables, spared) for m in (False, True))
    must.found = may.found | must.found
    must.poles |= may.poles
    return must


def _run(run: Pass, walk: Walk, variables: int, spared: frozenset[tuple[int, Atom]]) -> Pass:
    """Runs a pass with every variable zero at pruned indices, but for what is spared."""

    def zeros(leaf: int, space: Space) -> frozenset[Atom]:
        groups = run.groups(space) if leaf < variables else frozenset()
        return groups - {atom for other, atom in spared if other == leaf} if spared else groups

    known = [
        Known(tuple(zeros(leaf, space) for space in axes)) for leaf, axes in enumerate(walk.ins)
    ]
    run.run(walk, known)
    return run
