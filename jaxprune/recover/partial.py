"""Partial evaluation: what an operation gives where its result does not depend on the inputs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.reduction import is_near
from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Op
from jaxprune.program.traits import Trait

FOLLOWED = Trait.LINEAR | Trait.MULTIPLIES | Trait.MAXIMUM
"""What reaches no other channels than its axes say."""


class Partial(NamedTuple):
    """An array known in part: `values`, zero where it `varies` with the inputs.

    `values` is None for PRNG keys among the inputs. Variables, and what is computed of them alone,
    stay on their devices; what inputs have a part in is on the host.
    """

    values: Any
    varies: np.ndarray


def known(value: Any) -> Partial:
    """Returns an array that depends on no input."""
    return Partial(value, np.zeros(np.shape(value), bool))


def unknown(var: Any) -> Partial:
    """Returns what is known of an input."""
    native = not jnp.issubdtype(var.aval.dtype, jax.dtypes.extended)
    values = np.broadcast_to(np.zeros((), var.aval.dtype), var.aval.shape) if native else None
    return Partial(values, np.ones(var.aval.shape, bool))


def rows_of(item: Partial) -> list[Partial]:
    """Returns the rows of an array."""
    return [
        Partial(None if item.values is None else item.values[i], varies)
        for i, varies in enumerate(item.varies)
    ]


def stack(rows: Sequence[Partial]) -> Partial:
    """Returns the array of these rows."""
    keys = any(item.values is None for item in rows)
    numpy = np if all(is_near(item.values) for item in rows) else jnp
    values = None if keys else numpy.stack([item.values for item in rows])
    return Partial(values, np.stack([item.varies for item in rows]))


def only(item: Partial, where: np.ndarray) -> Partial:
    """Returns an array with zeros outside of `where`."""
    return Partial(zero(item.values, ~where), item.varies & where)


def zero(values: Any, where: np.ndarray) -> Any:
    """Returns `values` with zeros at `where`, which broadcasts to them."""
    numpy = np if is_near(values) else jnp
    return numpy.where(where, np.zeros((), values.dtype), values) if where.any() else values


def read(values: Any) -> Any:
    """Returns values on the host, but for PRNG keys."""
    native = values is not None and not jnp.issubdtype(values.dtype, jax.dtypes.extended)
    return values if is_near(values) or not native else fetch(values)


def follows(op: Op) -> bool:
    """True if no entry of an operand reaches other channels than the axes of `op` say."""
    return bool(op.traits & FOLLOWED) or _elementwise(op)


def evaluate(op: Op, ins: Sequence[Partial]) -> list[Partial]:
    """Returns the results of an operation, known where they depend on no input."""
    varies = _varies(op, ins)
    if all(where.all() for where in varies):
        return [unknown(var) for var in op.eqn.outvars]
    values = _bound(op, [item.values for item in ins])
    if any(where.any() for where in varies):
        values = [read(value) for value in values]
    return [Partial(zero(value, where), where) for value, where in zip(values, varies, strict=True)]


def _bound(op: Op, values: Sequence[Any]) -> list[Any]:
    """The results of an operation; explicit axes of a mesh divide what they divided when traced."""
    if not all(map(is_near, values)):
        avals = [var.aval for var in op.eqn.invars]
        values = [
            jax.sharding.reshard(value, aval.sharding) if any(aval.sharding.spec) else value
            for value, aval in zip(values, avals, strict=True)
        ]
    return jaxpr.bind(op.eqn, values, op.eqn.params)


def _varies(op: Op, ins: Sequence[Partial]) -> list[np.ndarray]:
    """Where the results depend on the inputs of the network."""
    if not any(item.varies.any() for item in ins):
        return [np.zeros(shape, bool) for shape in op.out_shapes]
    if Trait.MULTIPLIES in op.traits:  # zero times anything is zero
        left, right = (
            item.varies | (item.values != 0) if item.varies.any() else item.values != 0
            for item in ins
        )
        pairs = (ins[0].varies, right), (left, ins[1].varies)
        return [np.any([_reach(op, ins, pair)[0] for pair in pairs], axis=0)]
    if _elementwise(op):
        where = np.any(np.broadcast_arrays(*(item.varies for item in ins)), axis=0)
        return [np.broadcast_to(where, shape) for shape in op.out_shapes]
    if op.traits & FOLLOWED and all(item.values is not None for item in ins):
        return _reach(op, ins, [item.varies for item in ins])
    return [np.ones(shape, bool) for shape in op.out_shapes]


def _elementwise(op: Op) -> bool:
    """True if every entry of the results is made of the same entry of the operands."""
    several = len(op.ins) > 1 and Trait.AS_IS in op.traits  # each of its own shape
    return Trait.ENTRYWISE in op.traits and not several


def _reach(op: Op, ins: Sequence[Partial], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Where the masks arrive in the results of a sum, a product or a maximum."""
    ones = [mask.astype(item.values.dtype) for item, mask in zip(ins, masks, strict=True)]
    return [np.asarray(read(out)) != 0 for out in _bound(op, ones)]
