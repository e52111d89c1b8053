"""Integers that a program makes of its constants alone, such as where a static window starts."""

from collections.abc import Mapping
from math import prod
from typing import Any

import jax
import numpy as np

from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Program
from jaxprune.program.traits import NOTHING, Trait

LIMIT = 64
"""The most entries of an array that is evaluated."""
_EVALUATED = Trait.ENTRYWISE | Trait.MOVES | Trait.PARTS | Trait.COUNTS


class Static:
    """The integers of one program; `given` are those of its inputs, as far as they are known."""

    def __init__(self, program: Program, rules: Mapping[str, Any], given: Mapping[Any, Any]):
        self.program = program
        self.rules = rules
        self._values: dict[Any, np.ndarray | None] = {}
        self._known: dict[Any, Any] = dict(given)
        self._known.update(zip(program.constvars, program.consts, strict=True))
        self._made: dict[Any, Any] | None = None

    def value(self, atom: Any) -> np.ndarray | None:
        """Returns the value of an operand or a result, None if it depends on an input."""
        if not _few_integers(atom):
            return None
        if jaxpr.is_literal(atom):
            return np.asarray(jaxpr.literal(atom), atom.aval.dtype)
        if atom not in self._values:
            self._values[atom] = self._evaluate(atom)
        return self._values[atom]

    def _evaluate(self, var: Any) -> np.ndarray | None:
        if var in self._known:
            known = self._known[var]
            return None if known is None else np.asarray(known)
        if self._made is None:
            self._made = {out: eqn for eqn in self.program.eqns for out in eqn.outvars}
        eqn = self._made.get(var)
        if eqn is None:
            return None
        rule = self.rules.get(jaxpr.name(eqn))
        if not (NOTHING if rule is None else rule.traits) & _EVALUATED:
            return None
        operands = [self.value(atom) for atom in eqn.invars]
        if any(operand is None for operand in operands):
            return None
        with jax.ensure_compile_time_eval(), jaxpr.context(eqn):
            outs = jaxpr.bind(eqn, operands, eqn.params)
        return np.asarray(outs[eqn.outvars.index(var)])


def _few_integers(atom: Any) -> bool:
    dtype = getattr(atom.aval, "dtype", None)  # that of keys is another type
    return isinstance(dtype, np.dtype) and dtype.kind in "iub" and prod(jaxpr.shape(atom)) <= LIMIT
