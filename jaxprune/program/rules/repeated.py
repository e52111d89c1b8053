"""Positions that counts make: `jnp.repeat(jnp.arange(n), counts)`, `searchsorted` of their sums.

In a program they are several operations that roll, scatter and sum along the counted axis, from
none of which it can be seen that the result points into it. What they make of some numbers tells:
they become one equation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Program

_MOST = 16
"""Of how many equations the positions are made at most."""
_OF = frozenset(
    "add broadcast_in_dim concatenate convert_element_type cumsum iota lt max min reshape scatter "
    "scatter-add select_n slice squeeze sub".split()
)
_CALLED = frozenset({"_roll_static", "_where", "cumsum", "searchsorted"})
"""Of which primitives, and of which functions of JAX."""

Made = Mapping[Any, tuple[int, Any]]
"""{value: the equation that makes it, and which one that is}."""


def joined(program: Program) -> Program:
    """Returns a program in which one equation makes such positions."""
    made = {var: pair for pair in enumerate(program.eqns) for var in pair[1].outvars}
    new: dict[int, Any] = {}
    gone: set[int] = set()
    for i, eqn in enumerate(program.eqns):
        if _may_end(eqn, made) and (found := _owners(i, eqn, made)) is not None:
            new[i], between = found
            gone |= between
    if not new:
        return program
    used = {var for var in program.outvars if not jaxpr.is_literal(var)}
    left = []
    for i, eqn in reversed(list(enumerate(program.eqns))):
        if i in gone and used.isdisjoint(eqn.outvars):
            continue
        left.append(new.get(i, eqn))
        used.update(var for var in left[-1].invars if not jaxpr.is_literal(var))
    return program._replace(eqns=left[::-1])


def _may_end(eqn: Any, made: Made) -> bool:
    """True of the last operation of `repeat`, and of `searchsorted` in sums."""
    if _name(eqn) == "sub":
        one = jaxpr.is_literal(eqn.invars[1]) and np.all(jaxpr.literal(eqn.invars[1]) == 1)
    else:
        one = _name(eqn) == "searchsorted"
    if not one or jaxpr.is_literal(eqn.invars[0]):
        return False
    _, before = made.get(eqn.invars[0], (0, None))
    return before is not None and _name(before) == "cumsum"


def _name(eqn: Any) -> str:
    """The primitive of an equation, or the function of JAX that it calls."""
    name = jaxpr.name(eqn)
    return str(eqn.params.get("name")) if name == "jit" else name


def _owners(place: int, last: Any, made: Made) -> tuple[Any, set[int]] | None:
    """Returns the equation in the place of the last one, and those between it and the counts."""
    eqns, found = {place: last}, None
    while len(eqns) <= _MOST:
        ours = {var for eqn in eqns.values() for var in eqn.outvars}
        read = {var for eqn in eqns.values() for var in eqn.invars if not jaxpr.is_literal(var)}
        given = read - ours
        if len(given) == 1:
            (counts,) = given
            past = _past([eqns[i] for i in sorted(eqns)], counts)
            if past is not None:  # of one count all that is made of it may be told
                found = jaxpr.owners(last, counts, past=past), set(eqns) - {place}
            elif found is not None:
                return found
        makers = dict(made[var] for var in given if var in made)
        if not makers or _name(makers[max(makers)]) not in _OF | _CALLED:
            return found
        eqns[max(makers)] = makers[max(makers)]
    return found


def _past(eqns: Sequence[Any], counts: Any) -> bool | None:
    """Whether what is left of the length is of none, not of the last; None if it is other numbers.

    They are tried with counts of which some are zero, of as many as the length and of fewer.
    """
    ends = counts, eqns[-1].outvars[0]
    integers = all(np.issubdtype(var.aval.dtype, np.integer) for var in ends)
    shapes = [*map(jaxpr.shape, ends)]
    if not integers or [*map(len, shapes)] != [1, 1] or shapes[0] < (1,):
        return None
    (size,), (length,) = shapes
    random, fits = np.random.default_rng(0), [False, True]
    shares = [*np.eye(size)[[0, -1]], *random.dirichlet(np.ones(size), 6)]
    totals = (length, length // 2)
    for numbers in (random.multinomial(total, share) for share in shares for total in totals):
        owners = np.repeat(np.arange(size), numbers)
        ours = jaxpr.evaluated(eqns, {counts: numbers.astype(counts.aval.dtype)})[0]
        left = np.full(length - owners.size, size)
        fits = [past for past in fits if np.array_equal(ours, [*owners, *(left - (not past))])]
        if not fits:
            return None
    return fits[0]
