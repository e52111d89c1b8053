"""Evaluates a traced program anew, equation by equation: what `narrow`, gates and taps share."""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.arguments import call_inputs, paths
from jaxprune.arguments.functions import check_function, check_inputs
from jaxprune.cutting import shorter_state
from jaxprune.cutting.transforms import at_call, check_tree
from jaxprune.errors import ResizeError, TraceError, TreeError
from jaxprune.graph import ChannelGraph, Variable, check_graph
from jaxprune.inspecting.without_branches import Without
from jaxprune.keep.kept import with_state
from jaxprune.program import jaxpr, states
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import Domain, steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.spaces import Space
from jaxprune.program.traits import Form
from jaxprune.tracing.trace import trace

Noted = dict[Any, Any]
"""What is noted beside the results, {key: array}; of a scan stacked along a leading axis."""
Apply = Callable[[Op, list[Any]], tuple[list[Any], Noted]]
Run = Callable[[Walk, Sequence[Any]], tuple[list[Any], Noted]]
Cut = Callable[[Any, Sequence[Space]], Any]
GRAPHS = 16
"""For how many sets of input shapes the graph of a function is kept."""


def whole(constant: Any, _axes: Sequence[Space]) -> Any:
    """Returns a constant of the program as it is."""
    return constant


class _Evaluation(Domain[Any]):
    """One evaluation of a program: `apply` says what comes of an operation, and what is noted."""

    def __init__(self, apply: Apply, cut: Cut):
        self.by = apply
        self.cut = cut
        self.noted: Noted = {}

    def literal(self, value: Any, atom: Any, op: Op | None) -> Any:
        """A number is itself."""
        del atom, op
        return value

    def constant(self, value: Any, var: Any, axes: Sequence[Space]) -> Any:
        """A constant, cut to the sizes of now."""
        del var
        return self.cut(value, axes)

    def apply(self, op: Op, ins: list[Any]) -> list[Any]:
        """Returns the results of any operation."""
        return self.compute(op, ins)

    def compute(self, op: Op, ins: list[Any]) -> list[Any]:
        """Returns the results of an operation under its own mesh."""
        with jaxpr.context(op.eqn):
            outs, noted = self.by(op, ins)
        self.noted |= noted
        return outs


def run(walk: Walk, args: Sequence[Any], apply: Apply, cut: Cut = whole) -> tuple[list[Any], Noted]:
    """Returns the results of a program for `args`, every operation evaluated by `apply`.

    `cut` is what becomes of a constant of the program, given its axes.
    """
    evaluation = _Evaluation(apply, cut)
    return evaluation.run(walk, args), evaluation.noted


def full(
    graph: ChannelGraph,
    variables: Any,
    counts: Mapping[str, int],
    gone: Collection[str] = (),
) -> Any:
    """Returns what `variables` are to JAX at their full shapes: dtypes, weak types, shardings.

    Those that are `gone` are as they were traced.

    Raises:
      TreeError: they are not all of the graph's variables in their shapes at `counts`.
    """
    leaves, treedef = paths.flatten(variables)
    check_tree(graph, leaves, counts)
    absent = [path for path in graph.variables if path not in leaves]
    if missing := [path for path in absent if path not in gone]:
        tree = "jp.slice's tree" if counts or gone else "the variables that were traced"
        raise TreeError(f"variables {missing} are missing.\nFix: pass all of {tree}.")
    shapes = {
        path: jax.typeof(leaf).update(shape=graph.variables[path].shape)
        for path, leaf in leaves.items()
    }
    if not absent:
        return jax.tree.unflatten(treedef, shapes.values())
    whole = [shapes.get(path, v.struct(v.shape)) for path, v in graph.variables.items()]
    return jax.tree.unflatten(graph.treedef, whole)


def full_state(
    graph: ChannelGraph,
    inputs: Any,
    keywords: Mapping[str, Any],
    counts: Mapping[str, int],
    gone: Without | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the inputs of a call with shapes in the place of state, at its full sizes.

    What is `gone` with branches is there again.

    Raises:
      TreeError: state has not the sizes at `counts` where it is pruned, or has what is gone.
    """
    if gone is not None:
        inputs, keywords = shorter_state.whole(graph, gone, inputs, keywords, counts)

    def at_full(leaf: Any, variable: Variable) -> Any:
        given, sizes = np.shape(leaf), [ax.count(space, counts) for space in variable.axes]
        wanted = at_call(variable, given, sizes) if len(given) == len(sizes) else tuple(sizes)
        if given != wanted:
            raise TreeError(
                f"state {variable.path!r} has shape {given}, not {wanted}.\nFix: jp.slice(graph, "
                "state, keep, state=its name) gives what this network takes."
            )
        return jax.typeof(leaf).update(shape=at_call(variable, given, variable.shape))

    return with_state(graph, inputs, keywords, at_full)


Retraced = Callable[[Any, Sequence[Any], Mapping[str, Any]], ChannelGraph]
"""`(variables, inputs, keywords) -> graph` of a function at full shapes."""


def retracer(fn: Callable[..., Any], graph: ChannelGraph) -> Retraced:
    """Returns what traces `fn` at the shapes of a call; the last graphs are kept."""
    check_function(fn)
    check_graph(graph)
    options = graph.options._asdict() | {"rules": graph.rules}
    called = call_inputs.bound(fn, graph.constants)

    @lru_cache(maxsize=GRAPHS)
    def traced(treedef: Any, _context: Any, constants: Any, *leaves: Any) -> ChannelGraph:
        variables, inputs, keywords = jax.tree.unflatten(treedef, leaves)
        known = call_inputs.named(inputs, keywords)
        there = ((item, path) for item in graph.state.values() for path in item.inputs)
        outputs = {path: item.output and states.IfReturned(item.output) for item, path in there}
        state = {path: output for path, output in outputs.items() if states.below(path, known)}
        keywords = {**keywords, **dict(constants)}
        return trace(called, variables, *inputs, **options | {"state": state}, **keywords)

    def graph_of(
        variables: Any, inputs: Sequence[Any], keywords: Mapping[str, Any]
    ) -> ChannelGraph:
        given, constants = call_inputs.split(keywords)
        check_inputs(inputs, given)
        shapes = jax.eval_shape(lambda *xs: xs, *inputs, given)  # a graph holds no tracers
        leaves, treedef = jax.tree.flatten((variables, shapes[:-1], shapes[-1]))
        context = jax.sharding.get_abstract_mesh(), jax.dtypes.canonicalize_dtype(float)
        return traced(treedef, context, _hashable(constants), *leaves)

    return graph_of


def operands(variables: Any, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> list[Any]:
    """Returns the arrays that a traced program takes for a call."""
    given = jax.tree.leaves((tuple(inputs), call_inputs.split(keywords)[0]))
    return [*jax.tree.leaves(variables), *map(jnp.asarray, given)]


def _hashable(constants: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The constants of a call as the key of a cache.

    Raises:
      TraceError: a constant has no hash.
    """
    items = tuple(sorted(constants.items()))
    if bad := [name for name, value in items if not isinstance(value, Hashable)]:
        raise TraceError(
            f"keyword arguments {bad} are neither inputs nor have a hash.\nFix: close over them, "
            "lambda v, x: fn(v, x, option=[1, 2])."
        )
    return items


def check_groups(graph: ChannelGraph, here: ChannelGraph, names: Collection[str]) -> None:
    """Raises ResizeError unless the groups `names` are the same groups in a graph of now.

    Variables that the function of now does not use may be missing from them.
    """
    failures = []
    for name in names:
        wanted = {(slot.path, slot.axis) for slot in graph.groups[name].slots}
        group = here.groups.get(name)
        slots = set() if group is None else {(slot.path, slot.axis) for slot in group.slots}
        if slots - wanted or any(path not in here.unread for path, _ in wanted - slots):
            failures.append(f"group {name!r} has slots {sorted(wanted)}, now {sorted(slots)}")
    if failures:
        raise ResizeError(
            "the function does not tie the same channels at these inputs:\n"
            + "\n".join(failures)
            + "\nFix: trace the graph with the function and the input ranks that you run."
        )


def _call(run: Run, op: Op, args: list[Any]) -> tuple[list[Any], Noted]:
    return run(op.inner[0], args)


def _remat(run: Run, op: Op, args: list[Any]) -> tuple[list[Any], Noted]:
    options = {key: op.params[key] for key in ("policy", "prevent_cse")}
    return jax.checkpoint(lambda *xs: run(op.inner[0], xs), **options)(*args)


def scan(
    runner: Callable[[Any], Run], op: Op, args: list[Any], each: Any, length: int | None = None
) -> tuple[list[Any], Noted]:
    """Evaluates a scan, every step by `runner(each[step])`; `each` is a tree of stacked arrays.

    It has the steps of the operation, or `length` others.
    """
    n, m = steps(op)
    consts = args[:n]

    def body(carry: Any, step: Any) -> Any:
        x, item = step
        outs, noted = runner(item)(op.inner[0], [*consts, *carry, *x])
        return outs[:m], (outs[m:], noted)

    options = {key: op.params[key] for key in ("length", "reverse", "unroll")}
    options |= {} if length is None else {"length": length, "unroll": 1}
    carry, (ys, noted) = lax.scan(body, args[n : n + m], (args[n + m :], each), **options)
    return [*carry, *ys], noted


def _scan(run: Run, op: Op, args: list[Any]) -> tuple[list[Any], Noted]:
    return scan(lambda _: run, op, args, ())


def _while(run: Run, op: Op, args: list[Any]) -> tuple[list[Any], Noted]:
    n, m = op.params["cond_nconsts"], op.params["body_nconsts"]
    test, body = op.inner
    outs = lax.while_loop(
        lambda carry: run(test, [*args[:n], *carry])[0][0],
        lambda carry: run(body, [*args[n : n + m], *carry])[0],
        args[n + m :],
    )
    return outs, {}


def _cond(run: Run, op: Op, args: list[Any]) -> tuple[list[Any], Noted]:
    branches = [lambda *xs, walk=walk: run(walk, xs) for walk in op.inner]
    return lax.switch(jnp.asarray(args[0], jnp.int32), branches, *args[1:])


CONTROL: Mapping[Form | None, Callable[[Run, Op, list[Any]], tuple[list[Any], Noted]]] = {
    Form.CALL: _call,
    Form.REMAT: _remat,
    Form.SCAN: _scan,
    Form.WHILE: _while,
    Form.COND: _cond,
}
"""How calls and control flow are evaluated, given what runs their programs.

What is noted in a `while` is dropped, and the branches of a `cond` must note the same: nothing.
"""
