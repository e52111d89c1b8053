"""Decides which groups can be masked exactly: zeros at pruned indices through the program.

Masking zeroes the pruned entries of the variables; slicing removes them. Both give the same
network exactly when every reduction and every contraction over a pruned axis meets values that
are provably zero there, and nothing divides by the size. This pass propagates "zero at pruned
indices" through every operation and names the first operation at which a group fails.
"""

from collections.abc import Mapping

from jaxprune import _jaxpr, sizes
from jaxprune import axes as ax
from jaxprune._jaxpr import Op
from jaxprune.axes import Atom, Space
from jaxprune.rules import Known, Rule
from jaxprune.walk import Walk


class Pass:
    """One run over a traced program; `found` maps a group's atom to the reason it is inexact."""

    def __init__(self, rules: Mapping[str, Rule]):
        self.rules = rules
        self.found: dict[Atom, str] = {}
        self._silent = 0
        self._groups: dict[int, frozenset[Atom]] = {}

    def groups(self, space: Space) -> frozenset[Atom]:
        """Returns the groups that appear in a space."""
        known = self._groups.get(id(space))
        if known is None:
            known = frozenset(atom for atom in ax.atoms(space) if atom.name is not None)
            self._groups[id(space)] = known
        return known

    def inexact(self, groups: frozenset[Atom], op: Op, why: str) -> None:
        """Marks groups as inexact; the first reason stays."""
        if groups and not self._silent:
            for atom in groups:
                self.found.setdefault(atom, f"{op!r} at {op.place}: {why}")

    def run(self, walk: Walk, known: list[Known]) -> list[Known]:
        """Returns what is known of the results of a program."""
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
            results = sizes.follow(op, operands, results, self)
            env.update(zip(op.eqn.outvars, results, strict=True))
        return [_read(env, atom) for atom in program.outvars]

    def peek(self, walk: Walk, known: list[Known]) -> list[Known]:
        """As `run`, without marking anything."""
        self._silent += 1
        try:
            return self.run(walk, known)
        finally:
            self._silent -= 1


def _read(env: Mapping[object, Known], atom: object) -> Known:
    if not _jaxpr.is_literal(atom):
        return env[atom]
    shape = _jaxpr.shape(atom)
    return Known((frozenset(),) * len(shape), None if shape else _jaxpr.literal(atom))


def inexact(walk: Walk, rules: Mapping[str, Rule], variables: int) -> dict[Atom, str]:
    """Returns {group atom: why}; the first `variables` inputs of the program are the variables."""
    run = Pass(rules)
    known = [
        Known(tuple(run.groups(space) if i < variables else frozenset() for space in axes))
        for i, axes in enumerate(walk.ins)
    ]
    run.run(walk, known)
    return run.found
