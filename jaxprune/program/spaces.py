"""Axis spaces: which index space an array axis runs over.

A space is an atom, a concatenation (`Sum`) or a row-major product (`Prod`) of spaces. While a
function is traced, atoms are union-find nodes: `unify`, `split` and `factor` refine them until
every axis of every array is written in the free atoms that remain. A free atom that reaches a
variable is a channel group; a frozen atom carries the reason why it cannot be pruned.

What cannot be aligned is frozen on both sides: never an error, and never wrong. The spaces of a
traced graph are fixed (`traced_spaces.py`): what would refine them afterwards works on copies.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.program.reasons import REARRANGED, RESHAPE, UNALIGNED, Reason


@final
class Atom:
    """One index space; `link` binds it to another space, `reason` freezes it.

    `owner` is the (variable, axis) that the atom was made for, `name` its channel group; `layers`
    the stack of layers of which each has its own channels. A `fixed` atom belongs to a traced
    graph, and can be neither bound nor frozen any more.
    """

    __slots__ = ("fixed", "layers", "link", "name", "owner", "reason", "size")

    def __init__(self, size: int, reason: Reason | None = None, owner: Any = None):
        self.size = size
        self.link: Space | None = None
        self.reason = reason
        self.owner: tuple[int, int] | None = owner
        self.name: str | None = None
        self.layers: Any = None
        self.fixed = False

    def __repr__(self) -> str:
        return f"{self.name or '?'}:{self.size}"


@final
class Sum:
    """A concatenation of spaces, in order."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: Iterable["Space"]):
        self.parts = tuple(parts)
        self.size = sum(part.size for part in self.parts)

    def __repr__(self) -> str:
        return f"({' + '.join(map(repr, self.parts))})"


@final
class Prod:
    """A row-major product of spaces, outermost first; the empty product has size 1."""

    __slots__ = ("factors", "size")

    def __init__(self, factors: Iterable["Space"]):
        self.factors = tuple(factors)
        self.size = 1
        for item in self.factors:
            self.size *= item.size

    def __repr__(self) -> str:
        return f"({' * '.join(map(repr, self.factors))})" if self.factors else "1"


Space = Atom | Sum | Prod


ONE = Prod(())


def fresh(size: int) -> Space:
    """Returns a new free space of `size`."""
    return ONE if size == 1 else Atom(size)


def frozen(size: int, reason: Reason) -> Space:
    """Returns a new frozen space of `size`."""
    return ONE if size == 1 else Atom(size, reason)


def find(space: Space) -> Space:
    """Returns what `space` is bound to."""
    if type(space) is not Atom or space.link is None:
        return space
    root = space.link
    while type(root) is Atom and root.link is not None:
        root = root.link
    space.link = root
    return root


def concat(parts: Iterable[Space]) -> Space:
    """Returns the concatenation of `parts`."""
    parts = [part for part in parts if part.size]
    return parts[0] if len(parts) == 1 else Sum(parts)


def product(factors: Iterable[Space]) -> Space:
    """Returns the row-major product of `factors`."""
    factors = [item for item in factors if item.size != 1]
    return factors[0] if len(factors) == 1 else Prod(factors)


def _parts(space: Space) -> Iterator[Space]:
    left = [space]  # a stack: concatenations nest as deep as a network has layers
    while left:
        space = find(left.pop())
        if type(space) is Sum:
            left.extend(reversed(space.parts))
        elif space.size:
            yield space


def _factors(space: Space) -> Iterator[Space]:
    left = [space]
    while left:
        space = find(left.pop())
        if type(space) is Prod:
            left.extend(reversed(space.factors))
        elif space.size != 1:
            yield space


def atoms(space: Space) -> Iterator[Atom]:
    """Yields the unbound atoms of `space`, in order; an atom may come more than once."""
    left = [space]
    while left:
        space = find(left.pop())
        if type(space) is Atom:
            yield space
        else:
            left.extend(reversed(space.parts if type(space) is Sum else space.factors))


def freeze(space: Space, reason: Reason) -> None:
    """Freezes every atom of `space` that is not frozen yet."""
    for atom in atoms(space):
        if atom.reason is None:
            _check_open(atom)
            atom.reason = reason


def _link(atom: Atom, to: Space) -> None:
    _check_open(atom)
    atom.link = to


def _check_open(atom: Atom) -> None:
    if atom.fixed:
        raise RuntimeError(f"the space {atom} belongs to a traced graph, which never changes")


def resolve(space: Space) -> Space:
    """Returns `space` without bound atoms, concatenations and products flattened."""
    space = find(space)
    if type(space) is Sum:
        parts = [resolve(part) for part in _parts(space)]
        return parts[0] if len(parts) == 1 else Sum(parts)
    if type(space) is Prod:
        factors = [resolve(item) for item in _factors(space)]
        return factors[0] if len(factors) == 1 else Prod(factors)
    return space


def unify(a: Space, b: Space, op: Any = None) -> None:
    """Makes two spaces of one size equal, or freezes both."""
    a, b = find(a), find(b)
    if a is b or a.size <= 1:
        return
    if a.size != b.size:
        raise ValueError(f"spaces {a} and {b} differ in size, at {op}")
    if type(a) is Atom or type(b) is Atom:
        _bind(a, b, op)
    elif type(a) is Prod and type(b) is Prod:
        _unify_products(a, b, op)
    else:
        _unify_sums(a, b, op)


def _bind(a: Space, b: Space, op: Any) -> None:
    if type(a) is not Atom or (type(b) is Atom and (a.reason or a.name) is not None):
        a, b = b, a
    assert type(a) is Atom
    if a.reason is not None:
        freeze(b, a.reason)
    elif type(b) is not Atom and any(atom is a for atom in atoms(b)):
        freeze(b, Reason(REARRANGED, (a.size,), op))
    else:
        _link(a, b)


def _mismatch(a: Space, b: Space, op: Any) -> None:
    reason = Reason(UNALIGNED, (_sizes(a), _sizes(b)), op)
    freeze(a, reason)
    freeze(b, reason)


def _unify_sums(a: Space, b: Space, op: Any) -> None:
    """Cuts both at the boundaries of either; a product without parts is cut where the sum is."""
    left, right = list(_parts(a))[::-1], list(_parts(b))[::-1]
    while left:
        x, y = left.pop(), right.pop()
        if x.size > y.size:
            x, rest = split(x, y.size, op)
            left.append(rest)
        elif y.size > x.size:
            y, rest = split(y, x.size, op)
            right.append(rest)
        unify(x, y, op)


def _unify_products(a: Prod, b: Prod, op: Any) -> None:
    *outer_a, x = _factors(a)
    *outer_b, y = _factors(b)
    common = math.gcd(x.size, y.size)
    if common == 1:
        return _mismatch(a, b, op)
    (rest_a, x), (rest_b, y) = factor(x, common, op), factor(y, common, op)
    unify(x, y, op)
    unify(product([*outer_a, rest_a]), product([*outer_b, rest_b]), op)


def _pieces(space: Sum, k: int) -> list[Space] | None:
    """Two or more runs of parts, each a multiple of `k` long; None where there are none."""
    pieces: list[Space] = []
    run: list[Space] = []
    length = 0
    for part in _parts(space):
        run.append(part)
        length += part.size
        if length % k == 0:
            pieces.append(concat(run))
            run = []
    return None if run or len(pieces) == 1 else pieces


def _sizes(space: Space) -> str:
    """The sizes that a space is made of."""
    space = find(space)
    if type(space) is Atom:
        return str(space.size)
    parts, sign = (_parts(space), " + ") if type(space) is Sum else (_factors(space), " * ")
    return f"({sign.join(map(_sizes, parts))})"


def split(space: Space, k: int, op: Any = None) -> tuple[Space, Space]:
    """Cuts a space into its first `k` indices and the rest."""
    if k in (0, space.size):
        return (Sum(()), space) if k == 0 else (space, Sum(()))
    root = find(space)
    if type(root) is Atom:
        head, tail = _child(root, k), _child(root, root.size - k)
        if root.reason is None:
            _link(root, Sum((head, tail)))
        return head, tail
    if type(root) is Sum:
        before: list[Space] = []
        parts = list(_parts(root))
        while parts and k >= parts[0].size:
            k -= parts[0].size
            before.append(parts.pop(0))
        if k:
            head, tail = split(parts[0], k, op)
            before.append(head)
            parts[0] = tail
        return concat(before), concat(parts)
    outer, *rest = _factors(root)
    inner = product(rest)
    whole, part = divmod(k, inner.size)
    head, tail = split(outer, whole, op)
    if not part:
        return product([head, inner]), product([tail, inner])
    _, tail = split(tail, 1, op)  # the index that the cut goes through stays: it is one by itself
    first, last = split(inner, part, op)
    return concat([product([head, inner]), first]), concat([last, product([tail, inner])])


def factor(space: Space, k: int, op: Any = None) -> tuple[Space, Space]:
    """Writes a space as outer * inner with an inner of size `k`, which divides its size."""
    if k == 1:
        return space, ONE
    if k == space.size:
        return ONE, space
    root = find(space)
    if type(root) is Atom:
        outer, inner = _child(root, root.size // k), _child(root, k)
        if root.reason is None:
            _link(root, Prod((outer, inner)))
        return outer, inner
    if type(root) is Prod:
        *rest, last = _factors(root)
        common = math.gcd(last.size, k)
        if common > 1:
            outer, last = factor(last, common, op)
            outer, inner = factor(product([*rest, outer]), k // common, op)
            return outer, product([inner, last])
    elif pieces := _pieces(root, k):
        pairs = [factor(piece, k, op) for piece in pieces]
        for _, inner in pairs[1:]:
            unify(inner, pairs[0][1], op)
        return concat(outer for outer, _ in pairs), pairs[0][1]
    else:  # no run of parts is whole rows: the rows, each cut as it lies, have one period
        outer, inner = fresh(root.size // k), fresh(k)
        unify(root, product([outer, inner]), op)
        return outer, inner
    reason = Reason(RESHAPE, (_sizes(root), root.size // k, k), op)
    freeze(root, reason)
    return frozen(root.size // k, reason), frozen(k, reason)


def _child(atom: Atom, size: int) -> Space:
    """A piece of `atom`: it keeps the owner and, where there is one, the reason."""
    return ONE if size == 1 else Atom(size, atom.reason, atom.owner)


def count(space: Space, widths: Mapping[str, int]) -> int:
    """Returns the size of `space` at `widths` (group name -> kept); absent groups are whole."""
    space = find(space)
    if type(space) is Atom:
        return space.size if space.name is None else widths.get(space.name, space.size)
    if type(space) is Sum:
        return sum(count(part, widths) for part in _parts(space))
    total = 1
    for item in space.factors:
        total *= count(item, widths)
    return total


def select(space: Space, keep: Mapping[str, Any]) -> Any:
    """Returns the mask of an axis, bool[size]: numpy for numpy keeps, traced for traced ones.

    It is bool[layers, size] where the keep of one of its groups is.
    """
    space = find(space)
    if type(space) is Atom:
        whole = np.ones(space.size, bool)
        return whole if space.name is None else keep.get(space.name, whole)
    if type(space) is Sum:
        return side_by_side([select(part, keep) for part in _parts(space)], np.ones(0, bool))
    return outer([select(item, keep) for item in space.factors], np.ones(1, bool))


def side_by_side(parts: Sequence[Any], empty: np.ndarray) -> Any:
    """Returns the concatenation of arrays [n] or [layers, n] along their last axis."""
    if not parts:
        return empty
    xp = _numpy_of(parts)
    lead = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
    parts = [xp.broadcast_to(part, (*lead, part.shape[-1])) for part in parts]
    return xp.concatenate(parts, axis=-1)


def outer(factors: Sequence[Any], unit: np.ndarray) -> Any:
    """Returns the row-major outer product of arrays [n] or [layers, n], bools by `and`."""
    result = unit
    for item in factors:
        rank = max(result.ndim, item.ndim)
        left, right = (x if x.ndim == rank else x[None] for x in (result, item))
        result = left[..., :, None] * right[..., None, :]
        result = result.reshape(*result.shape[:-2], -1)
    return result


def _numpy_of(arrays: Iterable[Any]) -> Any:
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def positions(space: Space, atom: Atom) -> np.ndarray:
    """Returns int[n, m]: the positions along the axis that belong to each index of `atom`."""
    space = find(space)
    if type(space) is Atom:
        return np.arange(atom.size)[:, None] if space is atom else np.empty((atom.size, 0), int)
    if type(space) is Sum:
        parts = list(_parts(space))
        starts = np.cumsum([0, *(part.size for part in parts)])
        rows = [start + positions(part, atom) for start, part in zip(starts, parts, strict=False)]
        return np.concatenate(rows, axis=1)
    rows, size = np.empty((atom.size, 0), int), 1
    for item in space.factors:
        inner = positions(item, atom)
        twice = rows.size and inner.size  # the atom is on both sides: some positions come twice
        outer = rows[:, :, None] * item.size + np.arange(item.size)
        inner = np.arange(size)[:, None] * item.size + inner[:, None, :]
        rows = np.concatenate([outer.reshape(atom.size, -1), inner.reshape(atom.size, -1)], axis=1)
        if twice:
            rows = np.stack([np.unique(row) for row in rows])
        size *= item.size
    return rows
