"""Any function at the kept sizes: its program evaluated anew on sliced variables.

This needs no module definition and no attribute, so sizes that are hard-coded in the network do
not matter. Constants of the program stay as traced: a mean still divides by the full width, so
that `narrow` equals the masked network; a resized module divides by the kept width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune import _jaxpr, fixed, interpreter, streams
from jaxprune import axes as ax
from jaxprune._jaxpr import Op
from jaxprune.axes import Space
from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.interpreter import Noted
from jaxprune.masks import Keep, Kept, check_keep
from jaxprune.walk import Tracer, Walk


def narrow(fn: Callable[..., Any], graph: ChannelGraph, keep: Keep) -> Callable[..., Any]:
    """Returns `fn` for sliced variables: `narrow(fn, graph, keep)(small, *inputs)`.

    The result can be jitted, differentiated and called at other batch sizes than the traced one;
    every new set of input shapes is traced once. Custom derivatives are those of `fn`.

    Args:
      fn: the function that was traced, for example
        `lambda v, x: model.apply(v, x, train=False)`; any variant that takes the same variables.
      graph: the channel graph.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole.

    Raises:
      KeepError: now. TreeError, ResizeError: when the result is called, if the variables are not
        those that `slice` gives, `fn` ties pruned channels that the graph does not, or the
        function contains what cannot be evaluated at other sizes (`shard_map`).
    """
    check_keep(graph, keep)
    retraced = interpreter.retracer(fn, graph)

    def run(variables: Any, *inputs: Any) -> Any:
        kept = Kept(keep)
        here = retraced(interpreter.full(graph, variables, kept.counts), inputs)
        interpreter.check_groups(graph, here, keep)
        args = [*jax.tree.leaves(variables), *map(jnp.asarray, jax.tree.leaves(inputs))]
        outs = Evaluator(here, kept).run(here.walk, args)
        return jax.tree.unflatten(jax.tree.structure(here.output), outs)

    return run


class Evaluator:
    """Evaluates a traced program at the kept sizes."""

    def __init__(self, graph: ChannelGraph, kept: Kept):
        self.graph = graph
        self.kept = kept

    def run(self, walk: Walk, args: Sequence[Any]) -> list[Any]:
        """Returns the results of a program for small `args`."""
        return self._run(walk, args)[0]

    def _run(self, walk: Walk, args: Sequence[Any]) -> tuple[list[Any], Noted]:
        return interpreter.run(walk, args, self.apply, self.constant)

    def constant(self, value: Any, axes: Sequence[Space]) -> Any:
        """A constant of the program without its pruned entries."""
        for axis, space in enumerate(axes):
            if (indices := self.kept.indices(space)) is not None:
                value = jnp.take(value, indices, axis)
        return value

    def apply(self, op: Op, args: list[Any]) -> tuple[list[Any], Noted]:
        """Returns the results of one operation; nothing is noted."""
        if op.name in interpreter.CONTROL:
            return interpreter.CONTROL[op.name](self._run, op, args)
        special = _SPECIAL.get(op.name)
        if special is not None:
            return special(self, op, args), {}
        return _jaxpr.bind(op.eqn, args, self.params(op)), {}

    def params(self, op: Op) -> dict[str, Any]:
        """The parameters of an operation at the kept sizes."""
        rule = self.graph.rules.get(op.name)
        return op.eqn.params | (rule.params(op, self.kept.size) if rule else {})

    def derivative(
        self, op: Op, fn: Callable[..., Any], full: Sequence[Any], spaces: Any, outs: Any
    ) -> Walk:
        """Walks `fn`, a derivative of `op` at full size; it may tie nothing new."""
        program, _ = _jaxpr.trace(fn, *full)
        tracer = Tracer(self.graph.rules, free_constants=self.graph.options["free_constants"])
        copies = fixed.Copies()
        spaces, outs = ([list(map(copies, axes)) for axes in arrays] for arrays in (spaces, outs))
        walk = tracer.walk(program, spaces, [None] * len(spaces), op.scope)
        for ours, theirs in zip(walk.outs, outs, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                ax.unify(a, b, op)
        if moved := {atom.name for atom in copies.refined() if atom.name is not None}:
            raise ResizeError(
                f"the custom derivative of {op!r} at {op.place} ties channels that the function "
                f"itself does not tie, of {sorted(moved)}.\nFix: keep these groups whole "
                "(protect= in jp.select)."
            )
        return walk


def _select_inputs(run: Evaluator, op: Op, args: list[Any]) -> list[Any]:
    axis, name = op.params["axis"], op.params["reader"]
    indices = streams.reading(op).positions(run.kept.keep)
    return [streams.take(args[0], indices, name, axis=axis)]


def _iota(run: Evaluator, op: Op, args: list[Any]) -> list[Any]:
    """What was counted along the kept channels, in the full network."""
    params, axis = run.params(op), op.params["dimension"]
    indices = run.kept.indices(op.outs[0][axis])
    if indices is None:
        return _jaxpr.bind(op.eqn, args, params)
    return [lax.broadcast_in_dim(jnp.asarray(indices, params["dtype"]), params["shape"], (axis,))]


def _refuse(_run: Evaluator, op: Op, _args: list[Any]) -> list[Any]:
    raise ResizeError(
        f"{op.name} at {op.place} cannot be evaluated at other sizes.\nFix: call narrow inside "
        "of the shard_map, or resize the module."
    )


def _inexact(avals: Sequence[Any]) -> list[int]:
    return [i for i, aval in enumerate(avals) if jnp.issubdtype(aval.dtype, jnp.inexact)]


def _zero_tangent(x: Any) -> np.ndarray:
    return np.zeros(np.shape(x), jax.dtypes.float0)


def _full(op: Op) -> tuple[list[Any], list[Any]]:
    """The full shapes of the operands and the results."""
    shapes = [
        [jax.ShapeDtypeStruct(_jaxpr.shape(atom), atom.aval.dtype) for atom in atoms]
        for atoms in (op.eqn.invars, op.eqn.outvars)
    ]
    return shapes[0], shapes[1]


def _moved(op: Op, primals: Sequence[Any], moving: Sequence[int], outs: Sequence[int]) -> Any:
    """The operation at full size as a function of its differentiable operands."""

    def moved(*xs: Any) -> Any:
        filled = dict(enumerate(primals)) | dict(zip(moving, xs, strict=True))
        every = _jaxpr.bind(op.eqn, [filled[i] for i in range(len(primals))], op.eqn.params)
        return [every[i] for i in outs]

    return moved, [primals[i] for i in moving]


def _custom_jvp(run: Evaluator, op: Op, args: list[Any]) -> list[Any]:
    """The function at the kept sizes, with its own JVP rule at the kept sizes."""
    full, results = _full(op)
    moving, outs = _inexact(full), _inexact(results)

    def at_full_size(*operands: Any) -> Any:
        primals, tangents = operands[: len(full)], operands[len(full) :]
        moved, points = _moved(op, primals, moving, outs)
        return jax.jvp(moved, points, list(tangents))[1]

    def rule(primals: Any, tangents: Any) -> Any:
        walk = run.derivative(
            op,
            at_full_size,
            [*full, *(full[i] for i in moving)],
            [*op.ins, *(op.ins[i] for i in moving)],
            [op.outs[i] for i in outs],
        )
        moved = run.run(walk, [*primals, *(tangents[i] for i in moving)])
        out = fn(*primals)
        found = dict(zip(outs, moved, strict=True))
        return out, [found.get(i, _zero_tangent(y)) for i, y in enumerate(out)]

    fn = jax.custom_jvp(lambda *xs: run.run(op.inner[0], xs))
    fn.defjvp(rule)
    return fn(*map(jnp.asarray, args))


def _custom_vjp(run: Evaluator, op: Op, args: list[Any]) -> list[Any]:
    """The function at the kept sizes, with its own VJP rule at the kept sizes."""
    full, results = _full(op)
    moving, outs = _inexact(full), _inexact(results)

    def at_full_size(*operands: Any) -> Any:
        primals, cotangents = operands[: len(full)], operands[len(full) :]
        moved, points = _moved(op, primals, moving, outs)
        return jax.vjp(moved, *points)[1](list(cotangents))

    def backward(primals: Any, cotangents: Any) -> Any:
        walk = run.derivative(
            op,
            at_full_size,
            [*full, *(results[i] for i in outs)],
            [*op.ins, *(op.outs[i] for i in outs)],
            [op.ins[i] for i in moving],
        )
        moved = run.run(walk, [*primals, *(cotangents[i] for i in outs)])
        found = dict(zip(moving, moved, strict=True))
        return tuple(found.get(i, _zero_tangent(x)) for i, x in enumerate(primals))

    fn = jax.custom_vjp(lambda *xs: run.run(op.inner[0], xs))
    fn.defvjp(lambda *xs: (fn(*xs), xs), backward)
    return fn(*map(jnp.asarray, args))


_SPECIAL: dict[str, Callable[[Evaluator, Op, list[Any]], list[Any]]] = {
    "iota": _iota,
    "select_inputs": _select_inputs,
    "custom_jvp_call": _custom_jvp,
    "custom_vjp_call": _custom_vjp,
    "shard_map": _refuse,
}
