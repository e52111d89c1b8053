"""Contractions in another order: the same product of the same arrays.

`jnp.einsum` orders the contractions of three and more operands by their sizes, so that at the kept
sizes it may be another chain of products, sums and transpositions. Two chains compute the same, up
to rounding, if they multiply the same arrays over the same axes and sum over the same ones.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Op, Program
from jaxprune.program.rules import axis_map, contraction
from jaxprune.program.traits import Trait

LONGEST = 24
"""A chain of more operations is not looked at."""
_SEVERAL_OPERANDS = re.compile(r"[^/,]*(,[^/,]*){2,}->")


class Product(NamedTuple):
    """What a chain of operations computes.

    Attributes:
      factors: (value, its axes) of what the chain reads; an axis is any object.
      axes: those of the result, over all others the product is summed.
      settings: in what precision and types it is computed.
    """

    factors: tuple[tuple[Any, tuple[Any, ...]], ...]
    axes: tuple[Any, ...]
    settings: frozenset[Any] = frozenset()


def chains(
    program: Program, rules: Mapping[str, Any], first: Any
) -> Iterator[tuple[Sequence[Any], Product]]:
    """Yields (equations, what they compute) of the chains that begin with an equation.

    Nothing else in the program reads what a chain computes on the way.
    """
    start = next(i for i, eqn in enumerate(program.eqns) if eqn is first)
    every = [atom for eqn in program.eqns for atom in eqn.invars] + [*program.outvars]
    readers = Counter(atom for atom in every if not jaxpr.is_literal(atom))
    made: dict[Any, Product] = {}
    settings: frozenset[Any] = frozenset()
    run: list[Any] = []
    for eqn in program.eqns[start : start + LONGEST]:
        op = Op(eqn, rules=rules)
        read = [_take(made, atom) for atom in eqn.invars]
        product = _joined(op, read)
        if product is None:
            return
        run.append(eqn)
        settings |= _settings(op)
        made[eqn.outvars[0]] = product
        if len(made) == 1:
            yield tuple(run), product._replace(settings=settings)
        if readers[eqn.outvars[0]] != 1:
            return


def same(a: Product, b: Product, alike: Callable[[Any, Any], bool]) -> bool:
    """True if two chains compute the same of values that are `alike`."""
    if len(a.factors) != len(b.factors) or a.settings != b.settings:
        return False
    start = _paired(frozenset(), a.axes, b.axes)
    return start is not None and _matches(a.factors, list(b.factors), start, alike)


def hint(op: Op) -> str:
    """Returns what may be the reason why an operation differs, if it is a part of an einsum."""
    spec = _SEVERAL_OPERANDS.search(op.place)
    return (
        "; an einsum orders the contractions of three and more operands by size: if only their "
        "order differs, give it optimize=jnp.einsum_path(...)[0] of the traced sizes, or write it "
        "as einsums of two operands"
        if spec
        else ""
    )


def _take(made: dict[Any, Product], atom: Any) -> Product:
    """What an operand is, with axes of its own."""
    if not jaxpr.is_literal(atom) and atom in made:
        return made.pop(atom)
    axes = tuple(object() for _ in jaxpr.shape(atom))
    return Product(((atom, axes),), axes)


def _joined(op: Op, read: Sequence[Product]) -> Product | None:
    """What an operation computes of products, None if it is not a part of a chain."""
    if contraction.is_product(op) and "dimension_numbers" in op.params and len(read) == 2:
        return _multiplied(op, *read)
    if len(read) != 1:
        return None
    (x,) = read
    if (left := axis_map.axes_left(op)) is not None:
        return x._replace(axes=tuple(x.axes[i] for i in left))
    if Trait.SUMS in op.traits and Trait.LINEAR in op.traits and "axes" in op.params:
        return x._replace(axes=_without(x.axes, op.params["axes"]))
    return None


def _multiplied(op: Op, a: Product, b: Product) -> Product:
    summed, shared = contraction.pairs(op), contraction.batches(op)
    renamed = {b.axes[j]: a.axes[i] for i, j in (*summed, *shared)}
    factors = tuple((value, tuple(renamed.get(x, x) for x in axes)) for value, axes in b.factors)
    batch = tuple(a.axes[i] for i, _ in shared)
    rest = _without(a.axes, [i for i, _ in (*summed, *shared)])
    rest += _without(b.axes, [j for _, j in (*summed, *shared)])
    return Product(a.factors + factors, batch + rest)


def _without(axes: Sequence[Any], gone: Sequence[int]) -> tuple[Any, ...]:
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


def _settings(op: Op) -> frozenset[Any]:
    dtype = ("dtype", str(op.eqn.outvars[0].aval.dtype))
    others = op.params.items() if contraction.is_product(op) else ()
    return frozenset({dtype, *((k, str(v)) for k, v in others if k != "dimension_numbers")})


def _matches(
    ours: Sequence[tuple[Any, Sequence[Any]]],
    theirs: Sequence[tuple[Any, Sequence[Any]]],
    pairs: frozenset[tuple[Any, Any]],
    alike: Callable[[Any, Any], bool],
) -> bool:
    """True if factors can be paired so that the axes of one are those of the other."""
    if not ours:
        return True
    (value, axes), *rest = ours
    for i, (other, places) in enumerate(theirs):
        if not alike(value, other) or (more := _paired(pairs, axes, places)) is None:
            continue
        if _matches(rest, [*theirs[:i], *theirs[i + 1 :]], more, alike):
            return True
    return False


def _paired(
    pairs: frozenset[tuple[Any, Any]], a: Sequence[Any], b: Sequence[Any]
) -> frozenset[tuple[Any, Any]] | None:
    """Pairs of axes with those of `a` and `b`, None if they are not one to one."""
    if len(a) != len(b):
        return None
    together = pairs | set(zip(a, b, strict=True))
    alone = len({x for x, _ in together}) == len({y for _, y in together}) == len(together)
    return together if alone else None
