"""Which values of a program anything reads, and which its results depend on."""

from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import Any

from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Program


def read(program: Program, results: Iterable[Any]) -> set[Any]:
    """Returns the values that equations read, or that are among the `results` in use.

    What an equation only hands to the programs that it calls is read if one of them reads it.
    """
    used = _variables(results)
    for eqn in reversed(program.eqns):
        used |= _operands(eqn, used, read)
    return used


def live(program: Program, results: Iterable[Any]) -> set[Any]:
    """Returns the values that the `results` in use depend on, or an equation with effects."""
    used = _variables(results)
    for eqn in reversed(program.eqns):
        if jaxpr.has_effects(eqn) or not used.isdisjoint(eqn.outvars):
            used |= _operands(eqn, used, live)
    return used


class Live:
    """What the results in use of programs depend on; `Live(None)` is everything."""

    def __init__(self, values: set[Any] | None):
        self._values = values

    def reads(self, atoms: Iterable[Any]) -> list[bool]:
        """Returns which values anything depends on; a literal is always one."""
        values = self._values
        return [values is None or jaxpr.is_literal(atom) or atom in values for atom in atoms]

    def is_dead(self, eqn: Any) -> bool:
        """True if nothing depends on an equation, and it has no effects."""
        return not (jaxpr.has_effects(eqn) or any(self.reads(eqn.outvars)) or self._values is None)

    def without_dead(self, program: Program) -> Program:
        """Returns a program without dead equations and constants that only these read."""
        read = self.reads(program.constvars)
        return program._replace(
            constvars=list(compress(program.constvars, read)),
            consts=list(compress(program.consts, read)),
            eqns=[eqn for eqn in program.eqns if not self.is_dead(eqn)],
        )

    def results(self, eqn: Any) -> list[list[bool]]:
        """Returns of each program that an equation calls which results are in use."""
        flags = [
            [out is None or used for out, used in zip(given, self.reads(given), strict=True)]
            for _, _, given in jaxpr.calls(eqn)
        ]
        return flags or [[True] * len(program.outvars) for program in jaxpr.programs(eqn)]


def _variables(atoms: Iterable[Any]) -> set[Any]:
    return {atom for atom in atoms if not jaxpr.is_literal(atom)}


def _operands(
    eqn: Any, used: set[Any], inside: Callable[[Program, Sequence[Any]], set[Any]]
) -> set[Any]:
    """The operands of an equation that it, or a program that it calls, reads."""
    needed, handed = set(range(len(eqn.invars))), set()
    for inner, operands, given in jaxpr.calls(eqn):
        pairs = zip(inner.outvars, given, strict=True)
        wanted = inside(inner, [var for var, out in pairs if out is None or out in used])
        pairs = zip(operands, inner.invars, strict=True)
        needed.difference_update(set(operands) - handed)
        handed.update(operands)
        needed.update(i for i, var in pairs if var in wanted)
    return _variables(eqn.invars[i] for i in needed)
