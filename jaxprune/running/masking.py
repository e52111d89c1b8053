"""Pruned channels take no part: what they hold is replaced where entries of an axis meet."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.errors import ResizeError
from jaxprune.keep.kept import touched
from jaxprune.program import spaces as ax
from jaxprune.program import stacked_layers
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.neutral import Meeting, Neutral, meetings
from jaxprune.program.stacked_layers import Stack


def neutral(
    op: Op, args: list[Any], masks: Mapping[str, Any], steps: Mapping[Stack, Any]
) -> list[Any]:
    """Returns the operands of an operation, at pruned indices what takes no part in it.

    Raises:
      ResizeError: there is no such value.
    """
    args = [*args]
    for meeting in meetings(op):
        space = op.ins[meeting.operand][meeting.axis]
        if touched(space, masks):
            mask = _mask(op, meeting, masks, steps)
            x = jnp.asarray(args[meeting.operand])
            args[meeting.operand] = jnp.where(mask, x, _value(op, meeting, x))
    return args


def _mask(
    op: Op, meeting: Meeting, masks: Mapping[str, Any], steps: Mapping[Stack, Any]
) -> jax.Array:
    """The mask of an axis, in the rank of its array."""
    axes = op.ins[meeting.operand]
    space = axes[meeting.axis]
    mask = jnp.asarray(ax.select(space, masks))
    if mask.ndim == 2 and stacked_layers.layer_axis(axes, space) is None:
        stack = next(atom.layers for atom in ax.atoms(space) if atom.layers is not None)
        mask = mask[steps[stack]]
    return stacked_layers.aligned(mask, axes, meeting.axis)


def _value(op: Op, meeting: Meeting, x: jax.Array) -> jax.Array:
    """What takes no part, in the type of an operand."""
    value = meeting.value
    if value is Neutral.NONE:
        raise ResizeError(
            f"{op!r} at {op.place} writes by index what is pruned, and nothing that it could write "
            "takes no part.\nFix: run jp.narrow(fn, graph, keep), which leaves it out."
        )
    if value in (Neutral.ZERO, Neutral.ONE):
        return jnp.full((), value is Neutral.ONE, x.dtype)
    highest = value is Neutral.HIGHEST
    if x.dtype == jnp.bool_:
        return jnp.asarray(highest)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.full((), jnp.inf if highest else -jnp.inf, x.dtype)
    limits = jnp.iinfo(x.dtype)
    return jnp.full((), limits.max if highest else limits.min, x.dtype)
