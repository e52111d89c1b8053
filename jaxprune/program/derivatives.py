"""The derivatives that a function brings along (custom_jvp, custom_vjp), traced at full size.

They are programs of their own, that no walk of the network meets: what is exact must be so in them
too, and `narrow` evaluates them at the kept sizes. They are walked on copies of the spaces of the
function, of which they may refine nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.program import jaxpr, traced_spaces
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op, Program
from jaxprune.program.relate import Axes, Tracer, Walk
from jaxprune.program.traits import Form

WAY_OUT = "Fix: keep these groups whole (protect= in jp.select)."


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivative:
    """A derivative of an operation.

    Attributes:
      moving, outs: the places of the operands and results that have a derivative; what a function
        closes over has none.
      walk: of a JVP `(operands, tangents) -> tangents`, of a VJP `(operands, cotangents) ->
        cotangents`, of what moves; None if there is a problem, or no derivative.
      problem: why it cannot be followed, and the way out.
      missing: what JAX raises where a function has no derivative after all.
    """

    moving: tuple[int, ...]
    outs: tuple[int, ...]
    walk: Walk | None
    problem: tuple[str, str] | None = None
    missing: str = ""


def derivative(op: Op) -> Derivative:
    """Returns the derivative of a call of a function that brings its own."""
    full = [atom.aval for atom in op.eqn.invars]
    results = [var.aval for var in op.eqn.outvars]
    moving = tuple(i for i in _inexact(full) if i >= jaxpr.closed_over(op.eqn))
    outs = tuple(_inexact(results))

    def linearized(primals: Sequence[Any]) -> tuple[Callable[..., Any], list[Any]]:
        """Returns the operation as a function of what moves, and where it stands."""

        def moved(*xs: Any) -> Any:
            filled = [*primals]
            for i, x in zip(moving, xs, strict=True):
                filled[i] = x
            every = jaxpr.bind(op.eqn, filled, op.eqn.params)
            return [every[i] for i in outs]

        return moved, [primals[i] for i in moving]

    def forward(*operands: Any) -> Any:
        primals, tangents = operands[: len(full)], operands[len(full) :]
        return jax.jvp(*linearized(primals), list(tangents))[1]

    def backward(*operands: Any) -> Any:
        primals, cotangents = operands[: len(full)], operands[len(full) :]
        moved, points = linearized(primals)
        return jax.vjp(moved, *points)[1](list(cotangents))

    if op.form is Form.CUSTOM_JVP:
        run, avals = forward, [*full, *(full[i] for i in moving)]
        ins, ends = [*op.ins, *(op.ins[i] for i in moving)], [op.outs[i] for i in outs]
    else:
        run, avals = backward, [*full, *(results[i] for i in outs)]
        ins, ends = [*op.ins, *(op.outs[i] for i in outs)], [op.ins[i] for i in moving]
    try:
        with jaxpr.context(op.eqn):
            program, _ = jaxpr.trace(run, *avals)
    except Exception as error:  # the user's rule raises, or there is none
        return Derivative(moving=moving, outs=outs, walk=None, missing=f"raises {error}")
    walk, problem = _walk(op, program, ins, ends)
    return Derivative(moving=moving, outs=outs, walk=walk, problem=problem)


def _inexact(avals: Sequence[Any]) -> list[int]:
    return [i for i, aval in enumerate(avals) if jnp.issubdtype(aval.dtype, jnp.inexact)]


def _walk(
    op: Op, program: Program, ins: Sequence[Axes], ends: Sequence[Axes]
) -> tuple[Walk | None, tuple[str, str] | None]:
    """Walks a derivative of `op`, whose results have the axes `ends`."""
    if jaxpr.reads_others(program):
        return None, (
            "reads values of the network that it closes over",
            "Fix: make them arguments of the function, as jax.closure_convert does.",
        )
    copies = traced_spaces.Copies()
    inside, outside = ([list(map(copies, axes)) for axes in arrays] for arrays in (ins, ends))
    tracer = Tracer(op.tracer.rules, free_constants=op.tracer.free_constants)
    walk = tracer.walk(program, inside, [None] * len(inside), op.scope)
    for ours, theirs in zip(walk.outs, outside, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            ax.unify(a, b, op)
    if tied := {atom.name for atom in copies.refined() if atom.name is not None}:
        text = f"ties channels that the function itself does not tie, of {sorted(tied)}"
        return None, (text, WAY_OUT)
    return walk, None
