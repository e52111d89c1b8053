"""Programs without values that were removed: zero stands in their place, and nothing computes it.

What multiplies, moves or sums zeros is zero, and a sum with zero is its other operand. All that is
zero because of what was removed leaves the program, in the programs that it calls too.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Program
from jaxprune.program.rules import Rule
from jaxprune.program.traits import Form, Trait

_KEEPS_ZERO = (
    Trait.AS_IS | Trait.MOVES | Trait.BROADCASTS | Trait.PARTS | Trait.LINEAR | Trait.HOMOGENEOUS
    | Trait.TOGETHER | Trait.SUMS | Trait.MAXIMUM
)  # fmt: skip


def folded(
    program: Program, rules: Mapping[str, Rule], removed: Sequence[bool] | None = None
) -> tuple[Program, list[bool]]:
    """Returns a program without what is zero, and of every result whether it is.

    Zero are what `jaxpr.zeros` made, the inputs that are `removed`, and what follows from them.
    """
    return _Fold(rules).program(program, removed or [False] * len(program.invars))


def zeros_like(call: Callable[[], Any], eval_shape: Any = jax.eval_shape) -> Any:
    """Returns zeros in the place of the arrays that a call would give; it is not computed.

    `eval_shape` is what takes the shapes, of calls that have state beside their arguments.
    """
    result: list[Any] = []

    def arrays() -> list[Any]:
        leaves, treedef = jax.tree.flatten(call())
        result.extend((treedef, [None if isinstance(x, jax.Array) else x for x in leaves]))
        return [x for x in leaves if isinstance(x, jax.Array)]

    shapes = iter(eval_shape(arrays))
    treedef, others = result
    leaves = [_zeros(next(shapes)) if other is None else other for other in others]
    return jax.tree.unflatten(treedef, leaves)


def _zeros(like: Any) -> jax.Array:
    return jaxpr.zeros(like.shape, like.dtype)


class _Fold:
    def __init__(self, rules: Mapping[str, Rule]):
        self.rules = rules

    def program(
        self, program: Program, removed: Sequence[bool], numbers: Sequence[Any] = ()
    ) -> tuple[Program, list[bool]]:
        """Returns a program without what is zero, and of every result whether it is.

        `numbers` are those that all entries of an input are, None where it is not known.
        """
        level = _Level(self, program, removed, numbers)
        outs = [level.read(atom) for atom in program.outvars]
        return program._replace(eqns=level.eqns, outvars=outs), [level.is_zero(x) for x in outs]


class _Level:
    """The equations of one program."""

    def __init__(
        self, fold: _Fold, program: Program, removed: Sequence[bool], numbers: Sequence[Any]
    ):
        self.fold = fold
        pairs = zip(program.invars, removed, strict=True)
        self.zero = {var for var, flag in pairs if flag}
        self.same: dict[Any, Any] = {}
        known = zip(program.invars, numbers, strict=False)
        self.numbers = {var: number for var, number in known if number is not None}
        self.eqns: list[Any] = []
        for eqn in program.eqns:
            self.add(eqn)

    def read(self, atom: Any) -> Any:
        """What now stands where a value was read."""
        return atom if jaxpr.is_literal(atom) else self.same.get(atom, atom)

    def is_zero(self, atom: Any) -> bool:
        """True of a value that is zero because of what was removed."""
        return not jaxpr.is_literal(atom) and atom in self.zero

    def add(self, eqn: Any) -> None:
        """Adds an equation, if it is not zero or one of its operands."""
        atoms = [self.read(atom) for atom in eqn.invars]
        flags = [self.is_zero(atom) for atom in atoms]
        rule = self.fold.rules.get(jaxpr.name(eqn))
        if jaxpr.is_removed(eqn):
            self.zero.update(eqn.outvars)
            return
        inner = jaxpr.programs(eqn)
        if inner:
            eqn, outs = self.calling(jaxpr.with_operands(eqn, atoms), inner, rule, flags)
            self.zero.update(v for v, flag in zip(eqn.outvars, outs, strict=True) if flag)
            if not all(outs) or jaxpr.has_effects(eqn):
                self.eqns.append(eqn)
            return
        if any(flags) and rule is not None:
            if rule.weights in ((1, 1), (1, -1)) and not all(flags):
                side = flags.index(True)
                other = atoms[1 - side]
                if side in (0, 1)[rule.weights[1] < 0 :] and _alike(other, eqn.outvars[0]):
                    self.same[eqn.outvars[0]] = other
                    return
            elif self.makes_zero(eqn, atoms, flags, rule):
                self.zero.update(eqn.outvars)
                return
        self.note(eqn, atoms, rule)
        self.eqns.append(jaxpr.with_operands(eqn, atoms) if atoms != list(eqn.invars) else eqn)

    def calling(
        self, eqn: Any, inner: Sequence[Program], rule: Rule | None, flags: Sequence[bool]
    ) -> tuple[Any, list[bool]]:
        """Returns an equation with the program that it calls folded, and which results are zero."""
        form = None if rule is None else rule.form
        numbers = [self.number(atom) for atom in eqn.invars]
        if form in (Form.CALL, Form.REMAT):
            body, outs = self.fold.program(inner[0], flags, numbers)
            return jaxpr.with_program(eqn, body), outs
        if form in (Form.CUSTOM_JVP, Form.CUSTOM_VJP):
            return eqn, self.fold.program(inner[0], flags, numbers)[1]
        if form is Form.SCAN:
            return self.stepping(eqn, inner[0], flags)
        if form is Form.COND:
            cases = [self.fold.program(case, flags[1:])[1] for case in inner]
            return eqn, [all(case) for case in zip(*cases, strict=True)]
        return eqn, [False] * len(eqn.outvars)

    def stepping(self, eqn: Any, body: Program, flags: Sequence[bool]) -> tuple[Any, list[bool]]:
        """A carry is zero if it is at the start and after every step."""
        params = jaxpr.params(eqn)
        n, m = params["num_consts"], params["num_carry"]
        carry = list(flags[n : n + m])
        while True:
            inside, outs = self.fold.program(body, [*flags[:n], *carry, *flags[n + m :]])
            fewer = [a and b for a, b in zip(carry, outs[:m], strict=True)]
            if fewer == carry:
                return jaxpr.with_program(eqn, inside), [*carry, *outs[m:]]
            carry = fewer

    def makes_zero(self, eqn: Any, atoms: Sequence[Any], flags: Sequence[bool], rule: Rule) -> bool:
        """True if all results are zero."""
        traits = rule.traits
        if traits & (Trait.MULTIPLIES | Trait.CONTRACTS):
            return any(flags[:2])
        if Trait.DIVIDES in traits:
            return flags[0]
        values = [self.number(atom) for atom in atoms]
        if traits & _KEEPS_ZERO and all(_is_number(x, 0) for x in values[rule.values]):
            return True
        return Trait.ENTRYWISE in traits and _gives_zero(eqn, atoms, values)

    def number(self, atom: Any) -> Any:
        """The number that all entries of a value are, None if it is not known."""
        if jaxpr.is_literal(atom):
            return jaxpr.scalar(atom)
        return 0 if atom in self.zero else self.numbers.get(atom)

    def note(self, eqn: Any, atoms: Sequence[Any], rule: Rule | None) -> None:
        """Notes an array of one number of the code."""
        spreads = rule is not None and rule.traits & (Trait.BROADCASTS | Trait.AS_IS)
        if spreads and len(atoms) == 1 and (value := self.number(atoms[0])) is not None:
            self.numbers[eqn.outvars[0]] = value


def _alike(atom: Any, result: Any) -> bool:
    a, b = atom.aval, result.aval
    return a.shape == b.shape and a.dtype == b.dtype


def _is_number(value: Any, number: int) -> bool:
    return value is not None and value == number


def _gives_zero(eqn: Any, atoms: Sequence[Any], values: Sequence[Any]) -> bool:
    """True if an operation entry by entry makes zero of these numbers."""
    if any(value is None for value in values):
        return False
    pairs = zip(values, atoms, strict=True)
    try:
        outs = jaxpr.bind(eqn, [np.asarray(x, a.aval.dtype) for x, a in pairs], eqn.params)
    except (TypeError, ValueError, NotImplementedError):  # a parameter that is of the shape
        return False
    return all(np.all(np.asarray(out) == 0) for out in outs)
