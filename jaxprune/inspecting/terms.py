"""What closed-form costs are: sums of products of the sizes of spaces."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.spaces import Space

Widths = Mapping[str, Any]
"""{group: its width}: a number, an expected one too, which may be traced."""


class Product(NamedTuple):
    """A term of a cost: a factor times the sizes of spaces."""

    factor: float
    spaces: Sequence[Space]
    of: Op | str | None = None  # the contraction, or the path of the variable


class Lookup(NamedTuple):
    """A term of a cost: a factor times what a table says of the widths of the groups `names`."""

    factor: float
    names: tuple[str, ...]
    read: Callable[[Widths], float]
    of: Op | None = None


class Dearest(NamedTuple):
    """A term of a cost: the largest of several sums of terms."""

    alternatives: Sequence[Sequence["Term"]]


Term = Product | Lookup | Dearest
Terms = Iterable[Term]


def total(terms: Terms, at: Widths) -> Any:
    """Returns the sum of the terms at the widths."""
    added = 0
    for term in terms:
        if isinstance(term, Dearest):
            added += _largest([total(branch, at) for branch in term.alternatives])
        elif isinstance(term, Lookup):
            added += term.factor * term.read(at)
        else:
            volume = term.factor
            for space in term.spaces:
                volume *= ax.count(space, at)
            added += volume
    return added


def _largest(values: Sequence[Any]) -> Any:
    """The largest of numbers, traced ones too; 0 of none."""
    if any(isinstance(value, jax.Array) for value in values):
        return functools.reduce(jnp.maximum, values)
    return max(values, default=0)


class Count(NamedTuple):
    """A number, and by how much each group lowers it when it loses a channel."""

    value: Any
    losses: dict[str, Any]


def summed(terms: Terms, at: Widths) -> Count:
    """Returns a sum of terms, and by how much each group lowers it; losses add up."""
    total, losses = 0, {}
    for term in terms:
        if isinstance(term, Dearest):
            count = _dearest([summed(branch, at) for branch in term.alternatives])
        elif isinstance(term, Lookup):
            count = _looked_up(term, at)
        else:
            count = _product([Count(term.factor, {}), *(_size(s, at) for s in term.spaces)])
        total += count.value
        for name, loss in count.losses.items():
            losses[name] = losses.get(name, 0) + loss
    return Count(total, losses)


def _looked_up(term: Lookup, at: Widths) -> Count:
    value = term.factor * term.read(at)
    fewer = {name: term.read({**at, name: at[name] - 1}) for name in term.names if name in at}
    return Count(value, {name: value - term.factor * left for name, left in fewer.items()})


def _dearest(branches: Sequence[Count]) -> Count:
    """The largest; without a channel another one may be."""
    value = max((branch.value for branch in branches), default=0)
    names = dict.fromkeys(name for branch in branches for name in branch.losses)
    return Count(
        value,
        {name: value - max(b.value - b.losses.get(name, 0) for b in branches) for name in names},
    )


def _product(factors: Iterable[Count]) -> Count:
    """A product: what one factor loses is lost as often as the others count."""
    value, losses = 1, {}
    for size, less in factors:
        after = {n: (value - losses.get(n, 0)) * (size - less.get(n, 0)) for n in losses | less}
        value *= size
        losses = {name: value - left for name, left in after.items()}
    return Count(value, losses)


def _size(space: Space, at: Widths) -> Count:
    space = ax.find(space)
    if isinstance(space, ax.Atom):
        size = ax.count(space, at)
        return Count(size, {} if space.name is None else {space.name: 1})
    if isinstance(space, ax.Prod):
        return _product(_size(item, at) for item in space.factors)
    return summed([Product(1, [part]) for part in space.parts], at)
