"""Sparse arrays of `jax.experimental.sparse`: what is stored and where is frozen."""

from math import prod

from jaxprune.program import reasons
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.base import (
    Axes,
    Exactness,
    Known,
    Rule,
    freeze,
    frozen,
    unknown,
)
from jaxprune.program.rules.indexing import opaque


def bcoo_dot_general(op: Op) -> list[Axes]:
    """The axes of the dense operand that do not meet the sparse one pass, as channels of nodes."""
    data, indices, dense = op.ins
    met = _met(op)
    freeze([*data, *indices, *(dense[i] for i in met)], reasons.SPARSE, op)
    free = [space for i, space in enumerate(dense) if i not in met]
    shape = op.out_shapes[0]
    out = [*frozen(shape[: len(shape) - len(free)], reasons.SPARSE, op), *free]
    op.record(
        out=out,
        spaces=free,
        coefficient=_stored(op),
        contracted=(data, indices, [dense[i] for i in met]),
    )
    return [out]


def _met(op: Op) -> list[int]:
    """The axes of the dense operand that are contracted, or shared with the sparse one."""
    (_, contracted), (_, batch) = op.params["dimension_numbers"]
    return [*contracted, *batch]


def _stored(op: Op) -> int:
    """How many numbers the sparse operand stores, repeated ones as often as they are used."""
    data, indices = op.ins[:2]
    batch, sparse = len(indices) - 2, indices[-1].size
    shape = op.params["lhs_spinfo"].shape
    return data[batch].size * prod((*shape[:batch], *shape[batch + sparse :]))


def dot_zeros(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """Zeros of the axes that pass stay."""
    free = [zeros for i, zeros in enumerate(known[2].zeros) if i not in _met(op)]
    zeros = unknown(op.out_shapes[0]).zeros
    return [Known((*zeros[: len(zeros) - len(free)], *free))]


_OTHER = (
    "bcoo_extract bcoo_fromdense bcoo_sort_indices bcoo_sum_duplicates bcoo_todense bcoo_transpose"
).split()

RULES = {"bcoo_dot_general": Rule(bcoo_dot_general, dot_zeros)} | {
    name: Rule(opaque(reasons.SPARSE)) for name in _OTHER
}
