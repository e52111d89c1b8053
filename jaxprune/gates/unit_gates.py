"""Unit gates where channels are consumed, and the activations there."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments import dtypes, paths
from jaxprune.arguments.checks import check_mapping, check_names, kind_of
from jaxprune.errors import GateError
from jaxprune.gates.branch_gates import branch_sites, split_gates
from jaxprune.gates.evaluation import Marked, evaluate
from jaxprune.gates.folded_branches import folded
from jaxprune.gates.sites import CLOSED, UNTAPPED, find_sites, read_once, refusals
from jaxprune.graph import ChannelGraph, Slot, check_graph
from jaxprune.groups.channels import located, spread
from jaxprune.program.jaxpr import Op
from jaxprune.running import evaluator
from jaxprune.running.evaluator import Noted

Gates = Mapping[str, Any]
_FIX = {
    "a gate": "Fix: leave them out; jp.gates.unit(graph) has all groups that can carry a gate.",
    "a folded gate": "Fix: leave them out; jp.gated goes on to apply the gates of these.",
    "a tap": "Fix: leave them out; without groups= jp.tap hands out all that can be tapped.",
}


def unit(graph: ChannelGraph) -> dict[str, np.ndarray]:
    """Returns {group: f32[n] of ones} for every group that can carry a gate; see `refused`.

    They are f32[layers, n] where every layer of a stack has its own channels.

    >>> import numpy as np, jaxprune as jp
    >>> fn = lambda v, x: x @ v["a"] @ v["b"]
    >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
    >>> graph = jp.trace(fn, v, np.ones((1, 2)))
    >>> jp.gates.unit(graph)
    {'a': array([1., 1., 1., 1.], dtype=float32)}
    """
    without = refused(graph)
    return {
        name: np.ones(group.shape, np.float32)
        for name, group in graph.groups.items()
        if name not in without
    }


def refused(graph: ChannelGraph) -> dict[str, str]:
    """Returns {group: reason} for the groups that can carry no gate.

    >>> import numpy as np, jaxprune as jp
    >>> fn = lambda v, x: x @ v["a"] @ v["b"]
    >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
    >>> graph = jp.trace(fn, v, np.ones((1, 2)))
    >>> jp.gates.refused(graph)
    {}
    """
    check_graph(graph)
    return refusals(graph, list(find_sites(graph.walk)), CLOSED)


def gated(fn: Callable[..., Any], graph: ChannelGraph) -> Callable[..., Any]:
    """Returns `fn` with gates: `gated(fn, graph)(variables, gates, *inputs)`.

    The gate of a branch (`jp.branches`) is one number, or f32[steps] in a scan: it multiplies what
    the branch adds to its stream, and with zero the sum is what `jp.narrow` leaves of it. A bool
    chooses instead, so that what is not finite in a branch that is off does not spread.

    A gate multiplies channel c of a group at every contraction (`dot_general`, convolution) that
    sums over the group: where the channel leaves the layers that are pruned together, behind
    their normalization, activation and residual sums. Depthwise convolutions, the groups of a
    grouped convolution and the batch axes of an attention sum over no channel: they pass it on,
    and the gate sits at the next contraction that does. Where two activations are contracted
    (queries with keys) it multiplies one of them. What a reduction takes of a channel (the mean
    of a LayerNorm, a maximum over channels) is not gated.

    With gates of zero and one an exact group behaves as under `jp.mask`, unless such a reduction
    reads it. With unit gates every operation gets the bits that it gets in `fn`. The derivative
    by a gate is the first-order effect of its channel: |m dL/dm| is the Taylor score, summed over
    batches, and `jax.vmap` gives that of every example (`scores.taylor_activation`).

    The result can be jitted, differentiated, mapped, and called at other batch sizes than the
    traced one; every new set of input shapes is traced once. Custom derivatives are those of `fn`.

    Args:
      fn: the function that was traced, or any variant that takes the same variables.
      graph: the channel graph.

    Raises:
      GateError, TreeError, ResizeError: when the result is called, if `gates` name a group that
        can carry none or have the wrong length, or the variables or the groups of `fn` are not
        those of the graph.

    >>> import jaxprune as jp
    >>> fn = lambda v, x: x @ v["a"] @ v["b"]
    >>> v, x = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}, jnp.ones((4, 2))
    >>> apply = jp.gated(fn, jp.trace(fn, v, x))
    >>> apply(v, {"a": jnp.array([1.0, 0.5, 0.0])}, x)[0]
    Array([3.], dtype=float32)
    """
    retraced = evaluator.retracer(fn, graph)

    def run(variables: Any, gates: Gates, *inputs: Any, **keywords: Any) -> Any:
        of_branches, channels = split_gates(graph, gates)
        check_gates(graph, channels)
        here = retraced(evaluator.full(graph, variables, {}), inputs, keywords)
        evaluator.check_groups(graph, here, channels.keys())
        places = list(find_sites(here.walk))
        _check(channels, refusals(here, places, CLOSED), "a gate")
        sums = branch_sites(graph, here, of_branches)
        gated = [site for site in places if site.groups & channels.keys()]
        marked = Marked((site.op, site) for site in (*gated, *sums))

        def scale(op: Op, args: list[Any], gates: Gates) -> list[Any]:
            for site in marked.at(op):
                args[site.operand] = site.scaled(args[site.operand], gates)
            return args

        args = evaluator.operands(variables, inputs, keywords)
        stacks = {name: here.groups[name].slots[0].atom.layers for name in channels}
        stacks |= {site.name: site.scan for site in sums}
        given = {**channels, **of_branches}
        return evaluate(here, marked, args, enter=scale, given=given, stacks=stacks)[0]

    return run


def fold(graph: ChannelGraph, variables: Any, gates: Gates) -> Any:
    """Returns the variables with gates multiplied into the weights that read each channel.

    `fn(fold(graph, variables, gates), *inputs)` is `gated(fn, graph)(variables, gates, *inputs)` up
    to rounding. For a network without BatchNorm, whose gates are a tree of their own, it is what
    `melt` is for decorated variables: the last step before `jp.slice`. A kernel that is normalized
    along its inputs before it is used undoes it.

    Args:
      graph: the channel graph.
      variables: the variables; they may be traced, as the gates may.
      gates: {group: f32[n], branch: f32[]}; what is absent stays as it is. The gate of a branch
        goes into its last weights and what is added behind them, which then add the fraction.

    Raises:
      GateError: a group is unknown, its gate has the wrong length, or its weights do not tell: no
        weight reads it (queries and keys), one contraction is of two of its variables or of none,
        or the weights that read it also make it (a tied embedding); or of a branch: something else
        reads its last weights, or an operation that is not linear comes behind them.
      TreeError: a kernel is absent or has another shape.

    >>> import jaxprune as jp
    >>> v = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}
    >>> graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, jnp.ones((4, 2)))
    >>> fold(graph, v, {"a": jnp.array([1.0, 0.5, 0.0])})["b"].ravel().tolist()
    [1.0, 0.5, 0.0]
    """
    check_graph(graph)
    on_branches, gates = split_gates(graph, gates)
    check_gates(graph, gates)
    slots, failures = folding(graph, gates)
    _check(gates, failures, "a folded gate")
    leaves, treedef = paths.flatten(variables)
    leaves = folded(graph, leaves, on_branches)
    kernels = [slot.path for readers in slots.values() for slot in readers]
    places = located("fold", graph, kernels, leaves)
    for name, readers in slots.items():
        for slot in readers:
            kernel = jnp.asarray(leaves[places[slot.path]])
            wide = dtypes.wide(kernel)
            factors = spread(jnp.asarray(gates[name], wide.real.dtype), slot, wide)
            leaves[places[slot.path]] = (wide * factors).astype(kernel.dtype)
    return jax.tree.unflatten(treedef, list(leaves.values()))


def folding(
    graph: ChannelGraph, names: Collection[str]
) -> tuple[dict[str, list[Slot]], dict[str, str]]:
    """Returns {group: the slots that its gates fold into}, and {group: why there are none}."""
    read, why = read_once(graph), "no single weight reads its channels at every contraction"
    slots = {n: [slot for slot in graph.groups[n].slots if slot in read] for n in names}
    failures = {name: why for name, readers in slots.items() if not readers}
    for name, readers in slots.items():
        for path, dtype in ((slot.path, graph.variables[slot.path].dtype) for slot in readers):
            if not jnp.issubdtype(dtype, jnp.inexact):
                failures[name] = f"{path} is {dtype}, which holds no fractions"
    return slots, failures


def tap(
    fn: Callable[..., Any], graph: ChannelGraph, groups: Collection[str] | None = None
) -> Callable[..., Any]:
    """Returns `fn` with what contractions consume: `tap(fn, graph)(variables, *inputs)`.

    The result of a call is `(outputs, {group: activations})`, with one array for every contraction
    that sums over the group, in the order of the program: the operand as it stands there, its
    other axes in their order and the n channels of the group moved last, [..., n]. Where the axis
    holds more than the group (the channels of every pixel after a flatten, heads x head_dim), its
    m positions of each channel come before, [..., m, n]. Inside of a scan the steps are a leading
    axis. What nothing reads costs nothing under `jax.jit`.

    Args:
      fn: the function that was traced, or any variant that takes the same variables.
      graph: the channel graph.
      groups: whose activations; by default all that can be handed out. Those that a `while`, a
        `cond`, a `shard_map` or a function with its own derivative consumes cannot.

    Raises:
      GateError: the graph has no such group.
      GateError, TreeError, ResizeError: when the result is called, if a group in `groups` cannot
        be tapped, or the variables or the groups of `fn` are not those of the graph.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> outputs, read = jp.tap(fn, graph)(v, np.ones((5, 2)))
      >>> outputs.shape, [activation.shape for activation in read["a"]]
      ((5, 3), [(5, 4)])
    """
    retraced = evaluator.retracer(fn, graph)
    if groups is not None:
        groups = check_names(groups, "groups", GateError)
        _check(groups, _unknown(graph, groups), "a tap")

    def run(variables: Any, *inputs: Any, **keywords: Any) -> Any:
        here = retraced(evaluator.full(graph, variables, {}), inputs, keywords)
        places = list(find_sites(here.walk))
        without = refusals(here, places, UNTAPPED)
        everything = (name for name in graph.groups if name not in without)
        wanted = list(everything if groups is None else groups)
        evaluator.check_groups(graph, here, wanted)
        _check(wanted, without, "a tap")
        keys = {
            id(site): [(name, i) for name in wanted if name in site.groups]
            for i, site in enumerate(places)
        }
        marked = Marked((site.op, site) for site in places if keys[id(site)])

        def note(op: Op, args: list[Any], _outs: list[Any]) -> Noted:
            return {
                key: site.channels(args[site.operand], key[0])
                for site in marked.at(op)
                for key in keys[id(site)]
            }

        args = evaluator.operands(variables, inputs, keywords)
        outs, noted = evaluate(here, marked, args, leave=note)
        in_order = sorted(noted)
        return outs, {n: tuple(noted[key] for key in in_order if key[0] == n) for n in wanted}

    return run


def check_gates(graph: ChannelGraph, gates: Gates) -> None:
    """Raises GateError unless these are gates of channels of the graph, in their shapes."""
    check_graph(graph)
    check_mapping(gates, "gates", "{group: f32[n]}", GateError)
    failures = _unknown(graph, gates) | {
        name: f"its gate must be numbers of shape {graph.groups[name].shape}, got {kind_of(gate)}"
        for name, gate in gates.items()
        if name in graph.groups and _shape(gate) != graph.groups[name].shape
    }
    _check(gates, failures, "a gate")


def _shape(gate: Any) -> tuple[int, ...] | None:
    """The shape of a gate; None if it does not consist of real numbers."""
    if isinstance(gate, jax.ShapeDtypeStruct):
        return None
    try:
        values = gate if isinstance(gate, jax.Array) else np.asarray(gate)
    except (TypeError, ValueError):  # ragged lists, lists of traced values
        return None
    real = jnp.issubdtype(values.dtype, np.number) and not jnp.iscomplexobj(values)
    return values.shape if real or values.dtype == np.bool_ else None


def _unknown(graph: ChannelGraph, names: Collection[str]) -> dict[str, str]:
    some = list(graph.groups)[:5]
    return {
        name: f"the graph has no such group; it has {some}..."
        for name in names
        if name not in graph.groups
    }


def _check(asked: Collection[str], reasons: Mapping[str, str], what: str) -> None:
    failures = [f"group {name!r}: {reasons[name]}" for name in asked if name in reasons]
    if failures:
        raise GateError("\n".join([f"these groups cannot have {what}:", *failures, _FIX[what]]))
