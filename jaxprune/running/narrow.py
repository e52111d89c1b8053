"""Any function at the kept sizes: its program evaluated anew on sliced variables.

This needs no module definition and no attribute, so sizes that are hard-coded in the network do
not matter. Constants of the program stay as traced: a mean still divides by the full width, so
that `narrow` equals the masked network; a resized module divides by the kept width. For the same
reason random numbers are drawn at full size, and the kept ones taken; a resized module draws fewer.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.cutting import entries, shorter_state
from jaxprune.cutting.entries import Cut
from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import without_branches
from jaxprune.inspecting.without_branches import Without
from jaxprune.keep.check import Keep, check_keep
from jaxprune.keep.kept import Kept
from jaxprune.program import jaxpr, stacked_layers, stream_readers
from jaxprune.program import spaces as ax
from jaxprune.program.derivatives import Derivative, derivative
from jaxprune.program.interpret import steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.rules import random
from jaxprune.program.spaces import Space
from jaxprune.program.stacked_layers import Stack
from jaxprune.program.traits import Form, Trait
from jaxprune.running import depth, evaluator, masking
from jaxprune.running.depth import WHOLE, Part
from jaxprune.running.evaluator import Noted

Find = Callable[[Space], np.ndarray | None]
Steps = Mapping[Stack, Any]
Sums = Mapping[Op, Mapping[int, Any]]
Constants = Mapping[tuple[Op, int], float]
"""{(operation, operand): value}."""


def narrow(fn: Callable[..., Any], graph: ChannelGraph, keep: Keep) -> Callable[..., Any]:
    """Returns `fn` for sliced variables: `narrow(fn, graph, keep)(small, *inputs, **keywords)`.

    The result can be jitted, differentiated and called at other batch sizes than the traced one;
    every new set of input shapes is traced once. Custom derivatives are those of `fn`. Random
    numbers (dropout, noise, keys split by a width) are those that the masked network draws. State
    among the inputs is sliced too: `jp.slice(graph, cache, keep, state="cache")`.

    Args:
      fn: the function that was traced, for example
        `lambda v, x: model.apply(v, x, train=False)`; any variant that takes the same variables.
      graph: the channel graph.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole. {branch: False} takes a
        branch out (`jp.branches`), bool[steps] those of some steps of a scan: what only they had
        use for is not run, and its variables are absent.

    Raises:
      KeepError: now. TreeError, ResizeError: when the result is called, if the variables are not
        those that `slice` gives, or `fn` ties pruned channels that the graph does not.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> keep = {"a": np.array([True, False, True, True])}
      >>> jp.narrow(fn, graph, keep)(jp.slice(graph, v, keep), np.ones((1, 2))).tolist()
      [[6.0, 6.0, 6.0]]
    """
    parts = without_branches.split(graph, keep)
    channels = check_keep(graph, parts.channels)
    gone = without_branches.without(graph, parts.branches)
    retraced = evaluator.retracer(fn, graph)

    def run(variables: Any, *inputs: Any, **keywords: Any) -> Any:
        kept = Kept(channels)
        whole = depth.with_all_rows(variables, gone)
        full = evaluator.full(graph, whole, kept.counts, gone.variables)
        here = retraced(full, *evaluator.full_state(graph, inputs, keywords, kept.counts, gone))
        evaluator.check_groups(graph, here, channels)
        _check_layers(here, kept)
        if not any(mask.any() for mask in without_branches.gone_of(graph, parts.branches).values()):
            return evaluate(here, kept, variables, inputs, keywords)
        cut = depth.of_now(graph, here, parts.branches, gone)
        return evaluate(here, kept, whole, inputs, keywords, without=cut)

    return run


def evaluate(
    here: ChannelGraph,
    kept: Kept,
    variables: Any,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any],
    constants: Constants = MappingProxyType({}),
    without: Without | None = None,
) -> Any:
    """Returns the outputs of a graph traced at these inputs, for sliced variables.

    `constants` are other values for some of those that the program reads. What is evaluated is
    `without` some branches, and has no outputs that update their variables.
    """
    if without is None:
        args = evaluator.operands(variables, inputs, keywords)
        outs = Evaluator(here, kept, constants=constants).run(here.walk, args)
        return jax.tree.unflatten(jax.tree.structure(here.output), outs)
    called = shorter_state.whole(here, without, inputs, keywords)
    args = depth.operands(here, without, variables, *called)
    part = Part.of(without.live, here.walk)
    outs = Evaluator(here, kept, constants=constants, part=part).run(here.walk, args)
    return depth.outputs(here, outs, without)


def _check_layers(here: ChannelGraph, kept: Kept) -> None:
    """Raises ResizeError where layers keep channels of their own that the function ties."""
    groups = {name: here.groups[name] for name in kept.keep if name in here.groups}
    tied = [name for name, g in groups.items() if kept.keep[name].shape not in ((g.size,), g.shape)]
    if tied:
        raise ResizeError(
            f"every layer keeps channels of its own of {tied}, which the function ties over all "
            "layers at these inputs (a random draw that they share).\nFix: trace the graph with "
            "the function that you run, or keep the same channels in every layer: bool[n]."
        )


class Evaluator:
    """Evaluates a traced program at the kept sizes.

    `masked`: {group: bool[n]} of a network at full size, whose pruned channels take no part; they
    may be traced. `steps`: of every stack that is stepped over here, and whose layers keep channels
    of their own, the layer of now. `constants`: other values for some that the program reads.
    `sums`: {addition: {operand: whether it is added}}, bool[] or bool[steps] in a scan, traced too.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        kept: Kept,
        steps: Steps = MappingProxyType({}),
        constants: Constants = MappingProxyType({}),
        part: Part = WHOLE,
        masked: Mapping[str, Any] = MappingProxyType({}),
        sums: Sums = MappingProxyType({}),
    ):
        self.graph = graph
        self.kept = kept
        self.steps = steps
        self.constants = constants
        self.part = part
        self.masked = masked
        self.sums = sums

    def at(self, steps: Steps, part: Part | None = None) -> "Evaluator":
        """The evaluator inside of a step, of which a part is evaluated."""
        inside = copy.copy(self)
        inside.steps, inside.part = {**self.steps, **steps}, part or self.part
        return inside

    @property
    def now(self) -> tuple[list[Any], dict[str, Any]]:
        """What may be traced of an evaluator: the layers of now, and the masks."""
        return [*self.steps.values()], dict(self.masked)

    def again(self, now: tuple[Sequence[Any], Mapping[str, Any]]) -> "Evaluator":
        """The evaluator at other layers of the same stacks, and under other masks."""
        other = copy.copy(self)
        other.steps, other.masked = dict(zip(self.steps, now[0], strict=True)), now[1]
        return other

    def run(self, walk: Walk, args: Sequence[Any]) -> list[Any]:
        """Returns the results of a program for small `args`."""
        return self._run(walk, args)[0]

    def _run(self, walk: Walk, args: Sequence[Any]) -> tuple[list[Any], Noted]:
        return evaluator.run(walk, args, self.apply, self.cut)

    def cut(self, value: Any, axes: Sequence[Space], first: int = 0) -> Any:
        """Returns an array of the full network without its pruned entries, from axis `first`."""
        return self._take(value, axes, first, self.kept.indices)

    def spread(self, value: Any, axes: Sequence[Space], first: int = 0) -> Any:
        """Returns a small array at full size: in the place of a pruned entry is a kept one."""
        return self._take(value, axes, first, self.kept.places)

    def _take(self, value: Any, axes: Sequence[Space], first: int, find: Find) -> Any:
        indices = [self._here(find(space), space, axes) for space in axes]
        indices[:first] = [None] * first
        if all(index is None for index in indices):
            return value
        return entries.entries(jnp.asarray(value), Cut.of(indices, axes))

    def _here(self, index: Any, space: Space, axes: Sequence[Space]) -> Any:
        """Positions, without those of other layers where an array has no axis for them."""
        if index is None or index.ndim == 1 or stacked_layers.layer_axis(axes, space) is not None:
            return index
        stack = next(atom.layers for atom in ax.atoms(space) if atom.layers is not None)
        return jnp.asarray(index)[self.steps[stack]]

    def apply(self, op: Op, args: list[Any]) -> tuple[list[Any], Noted]:
        """Returns the results of one operation, None where nothing needs it; nothing is noted."""
        if op in self.part.idle:
            return [None] * len(op.eqn.outvars), {}
        if op in self.part.cuts:
            return [args[1 - self.part.cuts[op]]], {}
        args = self._given(op, args)
        if op.form is Form.SCAN:
            return self._scan(op, args)
        if op.form in evaluator.CONTROL:
            return evaluator.CONTROL[op.form](self._run, op, args)
        if op.form is not None:
            return _PROGRAMS[op.form](self, op, args), {}
        for trait, special in _SPECIAL.items():
            if trait in op.traits:
                return special(self, op, args), {}
        return jaxpr.bind(op.eqn, self.operands(op, args), self.params(op)), {}

    def _given(self, op: Op, args: list[Any]) -> list[Any]:
        """The operands, with what stands in the place of some of them."""
        if self.masked:
            args = masking.neutral(op, args, self.masked, self.steps)
        if op in self.sums:
            args = self._added(op, args)
        return [self._other(op, i, x) for i, x in enumerate(args)] if self.constants else args

    def _added(self, op: Op, args: Sequence[Any]) -> list[Any]:
        """The operands of a sum, zero in the place of one that is not added."""
        args = [*args]
        for side, stays in self.sums[op].items():
            here = jnp.asarray(stays)
            here = here[self.steps[op.scans[0]]] if here.ndim else here
            added = jnp.asarray(args[side])
            args[side] = jnp.where(here, added, jnp.zeros((), added.dtype))
        return args

    def _other(self, op: Op, operand: int, value: Any) -> Any:
        constant = self.constants.get((op, operand))
        return value if constant is None else jnp.asarray(constant, jnp.asarray(value).dtype)

    def _scan(self, op: Op, args: list[Any]) -> tuple[list[Any], Noted]:
        """A scan, whose steps know their layer where the layers keep channels of their own."""
        before = sum(steps(op))
        over = self._layered().intersection(
            stacked_layers.stack(axes[0]) for axes in op.ins[before:]
        )
        over |= {op} if any(op in item.around for item in self.sums) else set()
        each = jnp.arange(op.params["length"]) if over else ()

        def runner(part: Part) -> Callable[[Any], evaluator.Run]:
            return lambda n: self.at(dict.fromkeys(over, n), part)._run

        return depth.scan(self.part, runner, op, args, each)

    def _layered(self) -> set[Stack]:
        """The stacks whose layers keep channels of their own."""
        every = {**self.kept.keep, **self.masked}
        layered = {name for name, kept in every.items() if np.ndim(kept) == 2}
        slots = (self.graph.groups[name].slots[0] for name in layered & self.graph.groups.keys())
        return {slot.atom.layers for slot in slots if slot.atom.layers is not None}

    def params(self, op: Op) -> dict[str, Any]:
        """The parameters of an operation at the kept sizes."""
        return op.eqn.params | (op.rule.params(op, self.kept.size) if op.rule else {})

    def operands(self, op: Op, args: list[Any]) -> list[Any]:
        """The operands, those that follow a size at the kept one."""
        sizes = op.rule.operands(op, self.kept.size) if op.rule else {}
        return [
            jnp.asarray(sizes[i], x.aval.dtype) if i in sizes else args[i]
            for i, x in enumerate(op.eqn.invars)
        ]


def _select_inputs(run: Evaluator, op: Op, args: list[Any]) -> list[Any]:
    axis, name = op.params["axis"], op.params["reader"]
    indices = stream_readers.reading(op).positions(run.kept.keep)
    return [stream_readers.take(args[0], indices, name, axis=axis)]


def _iota(run: Evaluator, op: Op, args: list[Any]) -> list[Any]:
    """What was counted: anew where it points into the axis, else as in the full network."""
    params, axis = run.params(op), op.params["dimension"]
    indices = run.kept.indices(op.outs[0][axis])
    if indices is None or op.points[0] is not None:
        return jaxpr.bind(op.eqn, args, params)
    return [lax.broadcast_in_dim(jnp.asarray(indices, params["dtype"]), params["shape"], (axis,))]


def _draw(run: Evaluator, op: Op, args: list[Any]) -> list[Any]:
    """The kept ones of the numbers that the full network draws; each key draws by itself."""
    keys = len(op.outs[-1]) - len(random.drawn(op))
    rest = (run.spread(x, axes, keys) for x, axes in zip(args[1:], op.ins[1:], strict=True))
    outs = jaxpr.bind(op.eqn, [args[0], *rest], op.eqn.params)
    return [*outs[:-1], run.cut(outs[-1], op.outs[-1], keys)]


def _shard_map(run: Evaluator, op: Op, args: list[Any]) -> list[Any]:
    """The program on every device of the mesh; axes that it divides are whole."""
    options = op.params
    mapped = jax.shard_map(
        lambda *xs: run.run(op.inner[0], xs),
        mesh=options["mesh"],
        in_specs=options["in_specs"],
        out_specs=list(options["out_specs"]),
        check_vma=options["check_vma"],
        axis_names=options["manual_axes"],
    )
    return mapped(*map(jnp.asarray, args))


def _zero_tangent(x: Any) -> np.ndarray:
    return np.zeros(np.shape(x), jax.dtypes.float0)


def _custom_jvp(run: Evaluator, op: Op, args: list[Any]) -> list[Any]:
    """The function at the kept sizes, with its own JVP rule at the kept sizes."""

    def rule(primals: Any, tangents: Any) -> Any:
        (now, *points), (_, *directions) = primals, tangents
        derived, walk = _derivative(op)
        moved = run.again(now).run(walk, [*points, *(directions[i] for i in derived.moving)])
        out = fn(*primals)
        by_output = dict(zip(derived.outs, moved, strict=True))
        return out, [by_output.get(i, _zero_tangent(y)) for i, y in enumerate(out)]

    fn = jax.custom_jvp(lambda now, *xs: run.again(now).run(op.inner[0], xs))
    fn.defjvp(rule)
    return fn(run.now, *map(jnp.asarray, args))


def _custom_vjp(run: Evaluator, op: Op, args: list[Any]) -> list[Any]:
    """The function at the kept sizes, with its own VJP rule at the kept sizes."""

    def backward(primals: Any, cotangents: Any) -> Any:
        now, *points = primals
        derived, walk = _derivative(op)
        moved = run.again(now).run(walk, [*points, *(cotangents[i] for i in derived.outs)])
        by_input = dict(zip(derived.moving, moved, strict=True))
        still = jax.tree.map(_zero_tangent, primals)
        return still[0], *(by_input.get(i, zero) for i, zero in enumerate(still[1:]))

    fn = jax.custom_vjp(lambda now, *xs: run.again(now).run(op.inner[0], xs))
    fn.defvjp(lambda *xs: (fn(*xs), xs), backward)
    return fn(run.now, *map(jnp.asarray, args))


def _derivative(op: Op) -> tuple[Derivative, Walk]:
    derived = derivative(op)
    if derived.walk is None:
        text, way_out = derived.problem or (derived.missing, "Fix: give it one.")
        where = f"the custom derivative of {op!r} at {op.place}"
        raise ResizeError(f"{where} {text}.\n{way_out}")
    return derived, derived.walk


_Special = Callable[[Evaluator, Op, list[Any]], list[Any]]
_PROGRAMS: Mapping[Form, _Special] = {
    Form.CUSTOM_JVP: _custom_jvp,
    Form.CUSTOM_VJP: _custom_vjp,
    Form.SHARD_MAP: _shard_map,
}
_SPECIAL: Mapping[Trait, _Special] = {
    Trait.COUNTS: _iota,
    Trait.MARKS: _select_inputs,
    Trait.DRAWS: _draw,
}
