"""What data say of the experts behind a router: who is sent what, and what that adds."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_callable, check_examples, check_names
from jaxprune.arguments.dtypes import wide
from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.functions import check_function
from jaxprune.errors import GateError, JaxpruneError
from jaxprune.gates.evaluation import NOTHING, Given, Marked, evaluate
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.inspecting.mixtures import Mixture, mixtures
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.running import evaluator
from jaxprune.running.evaluator import Noted
from jaxprune.stats.batch_calls import Call, call_of

Array = Any
_UNEVEN = 1e-2


class ExpertUse(NamedTuple):
    """What experts were sent and what they added, over all tokens; [layers, n] of stacked layers.

    sent: f32[n], how many tokens reached each expert; one that a capacity drops, or that has a
      weight of exactly zero, did not.
    gates: f32[n], the sum of the weights that its outputs were given; None where the router weighs
      what goes into the experts, so that their outputs have no weight.
    added: f32[n], the sum over tokens of the Euclidean norm of weight times output.

    An expert that no token reached has 0 in all of them.
    """

    sent: Array
    gates: Array | None
    added: Array


def expert_use(
    graph: ChannelGraph,
    variables: Any,
    batches: Iterable[Any],
    *,
    groups: Collection[str] | None = None,
    inputs: Callable[[Any], Any] | None = None,
    fn: Callable[..., Any] | None = None,
) -> dict[str, ExpertUse]:
    """Returns {group: ExpertUse} of the groups that `argmax` or `top_k` choose experts from.

    It is read from the traced program, whatever way tokens are sent to experts and back (products
    with one-hots, sorted rows and `ragged_dot`, look-ups, buffers of a capacity): the last matrix
    of an expert, with its bias, is linear in the mixture, so that the derivative of the mixture in
    the direction of one expert's is what it adds; with ones in the place of all that it sums, its
    weight. It costs a forward pass, and for each expert the part behind the last matrices, twice.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables that it was traced from.
      batches: any number of batches, as for `jp.stats.collect`; every token of theirs counts.
      groups: whose experts; by default all that are chosen from.
      inputs: `inputs(batch)` gives the inputs of the call, where they are not the first of it.
      fn: the function that runs, if not the traced one: a variant that takes the same variables.

    Raises:
      JaxpruneError: no data, or numbers that are not finite.
      GateError: a group is not chosen from, or its experts' outputs cannot be read: they are mixed
        in several places, or not by weighted sums; says where.
      TreeError, ResizeError: the variables or the function are not those of the graph.

    >>> import jax, numpy as np, jaxprune as jp
    >>> v = {"router": np.eye(2), "up": np.ones((2, 2, 3)), "down": np.ones((2, 3, 1))}
    >>> def fn(v, x):
    ...     weight, chosen = jax.lax.top_k(jax.nn.softmax(x @ v["router"]), 1)
    ...     hidden = jax.numpy.einsum("td,tdh->th", x, v["up"][chosen[:, 0]])
    ...     return weight * jax.numpy.einsum("th,thd->td", hidden, v["down"][chosen[:, 0]])
    >>> x = np.array([[1.0, 0.0], [3.0, 0.0]])
    >>> use = jp.stats.expert_use(jp.trace(fn, v, x), v, [x])["router"]
    >>> use.sent.tolist(), [round(float(x), 2) for x in (*use.gates, *use.added)]
    ([2.0, 0.0], [1.68, 0.0, 10.77, 0.0])
    """
    check_graph(graph)
    check_callable(inputs, "inputs", "inputs=lambda batch: (batch['image'],)", optional=True)
    wanted = None if groups is None else check_names(groups, "groups", GateError)
    names = mixed_groups(graph, wanted)
    run = graph.fn if fn is None else fn
    check_function(run)
    retraced = evaluator.retracer(run, graph)
    update = jax.jit(partial(_measure, graph, retraced, tuple(names)))
    total: Any = None
    calls = map(call_of(graph, inputs), check_examples(batches, "stats.expert_use"))
    for call in checked_calls(graph, retraced, names, variables, calls):
        sums = update(variables, call)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    if total is None:
        raise JaxpruneError("stats.expert_use: no batches.\nFix: pass at least one batch of data.")
    return {name: _finished(name, sums) for name, sums in fetch(total).items()}


def mixed_groups(graph: ChannelGraph, wanted: Sequence[str] | None) -> list[str]:
    """Returns the groups whose experts are mixed in one place, by default all that are chosen from.

    Raises:
      GateError: there is none, or one that is wanted is not mixed so; says why.
    """
    known = mixtures(graph)
    names = list(known if wanted is None else wanted)
    lost = {n: known.get(n, "nothing chooses from it (argmax, top_k)") for n in names}
    if not names or any(isinstance(why, str) for why in lost.values()):
        lines = [f"group {name!r}: {why}" for name, why in lost.items() if isinstance(why, str)]
        raise GateError(
            "\n".join(["the outputs of experts cannot be read:", *(lines or ["no group has any"])])
            + "\nFix: groups=, those of jp.explain(graph) that are chosen from and mixed by a "
            "weighted sum; score the others by norms (jp.scores.l2)."
        )
    return names


def checked_calls(
    graph: ChannelGraph,
    retraced: evaluator.Retraced,
    names: Sequence[str],
    variables: Any,
    calls: Iterable[Call],
) -> Iterator[Call]:
    """Yields calls, each once its shapes are known to be those of the graph's groups and mixtures.

    Raises:
      GateError, TreeError, ResizeError: as `expert_use`.
    """
    for call in calls:
        here = traced_at(graph, retraced, variables, call)
        evaluator.check_groups(graph, here, names)
        mixed_groups(here, names)
        yield call


def traced_at(
    graph: ChannelGraph, retraced: evaluator.Retraced, variables: Any, call: Call
) -> ChannelGraph:
    """Returns the graph of a function at the shapes of a call."""
    inputs, keywords = call
    full = evaluator.full(graph, variables, {})
    return retraced(full, inputs, {**keywords, **graph.constants})


def _measure(
    graph: ChannelGraph,
    retraced: evaluator.Retraced,
    names: Sequence[str],
    variables: Any,
    call: Call,
) -> dict[str, Any]:
    """The sums of one batch, and how unevenly the features of a token are weighed."""
    here = traced_at(graph, retraced, variables, call)
    known = mixtures(here)
    mixed = {name: item for name in names if isinstance(item := known[name], Mixture)}
    args = evaluator.operands(variables, call[0], {**call[1], **graph.constants})
    real = _Run(here, mixed, args)
    added, known = _by_expert(real, _norms)
    weighed, _ = _by_expert(_Run(here, mixed, args, known), _weights)
    return {
        name: ExpertUse(
            sent=weighed[name][0],
            gates=(weighed[name][1], weighed[name][2]) if not item.weighed_before else None,
            added=added[name],
        )
        for name, item in mixed.items()
    }


class _Run:
    """The mixtures of a network as functions of what the experts give their outputs with.

    Where they are `known`, it is with ones in the place of all that the last matrices sum.
    """

    def __init__(
        self,
        here: ChannelGraph,
        mixed: Mapping[str, Mixture],
        args: list[Any],
        known: Given = NOTHING,
    ):
        self.here = here
        self.mixed = mixed
        self.args = args
        self.known = known
        self.names = list(here.variables)
        last = dict.fromkeys(path for item in mixed.values() for path in item.last)
        self.point = {path: jnp.asarray(args[self.names.index(path)]) for path in last}

    @property
    def ones(self) -> bool:
        """True where ones are in the place of all that the last matrices sum."""
        return bool(self.known)

    def __call__(self, point: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the mixtures; no layer depends on one before it, which gives what is known."""
        marks = [(item.op, (name, item.result)) for name, item in self.mixed.items()]
        sides = [edge for item in self.mixed.values() for edge in item.inner if self.ones]
        marked = Marked([*marks, *sides])

        def enter(op: Op, args: list[Any], _: Any) -> list[Any]:
            sides = [mark for mark in marked.at(op) if isinstance(mark, int)]
            return [jnp.ones_like(x) if i in sides else x for i, x in enumerate(args)]

        def leave(op: Op, _: list[Any], outs: list[Any]) -> Noted:
            here = [mark for mark in marked.at(op) if not isinstance(mark, int)]
            return {name: outs[result] for name, result in here}

        def onward(op: Op, outs: list[Any], given: Given) -> list[Any]:
            here = [mark for mark in marked.at(op) if not isinstance(mark, int)]
            ends = {result: given.get(name, outs[result]) for name, result in here}
            stopped = {i: jax.lax.stop_gradient(x) for i, x in ends.items()}
            return [stopped.get(i, x) for i, x in enumerate(outs)]

        args = list(self.args)
        for path, value in point.items():
            args[self.names.index(path)] = value
        stacks = {name: item.scan for name, item in self.mixed.items()}
        return evaluate(
            self.here,
            marked,
            args,
            enter=enter,
            leave=leave,
            onward=onward,
            given=self.known,
            stacks=stacks,
        )[1]

    def direction(self, expert: Array) -> dict[str, Array]:
        """Returns what the experts give their outputs with, of one of every group alone."""
        point = {}
        for name, item in self.mixed.items():
            chosen = {name: jnp.arange(self.here.groups[name].size) == expert}
            for path in item.last:
                x = self.point[path]
                if self.ones:
                    bias = bool(item.sums) and path not in item.sums
                    x = jnp.full_like(x, 0 if bias else 1 / item.sums.get(path, 1))
                for axis, space in enumerate(self.here.variables[path].axes):
                    if any(atom.name == name for atom in ax.atoms(space)):
                        mask = jnp.asarray(ax.select(space, chosen))
                        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
                        x = jnp.where(mask.reshape(shape), x, 0)
                point[path] = x
        return point


def _by_expert(run: _Run, measure: Callable[[Array, bool], Any]) -> tuple[dict[str, Any], Given]:
    """What is measured of every mixture, with one expert after the other alone; the mixtures."""
    whole, moved = jax.linearize(run, run.point)
    groups = {name: run.here.groups[name] for name in run.mixed}

    def of(expert: Array) -> dict[str, Any]:
        parts = moved(run.direction(expert))
        return {n: measure(wide(y), groups[n].layers is not None) for n, y in parts.items()}

    every = jax.lax.map(of, jnp.arange(max(group.size for group in groups.values())))
    return {
        name: jax.tree.map(lambda x, n=group.size: jnp.moveaxis(x[:n], 0, -1), every[name])
        for name, group in groups.items()
    }, whole


def _norms(y: Array, stacked: bool) -> Array:
    """The sum over tokens of the norm over features; of every layer of a stack."""
    return _over_tokens(jnp.sqrt((y * y).sum(-1)), stacked)


def _weights(y: Array, stacked: bool) -> tuple[Array, Array, Array]:
    """How many tokens have a weight, the sum of weights, and how they differ over features."""
    weight = y.mean(-1)
    apart = abs(y - weight[..., None]).max(-1, initial=0)
    return (
        _over_tokens((abs(y).max(-1, initial=0) > 0).astype(y.dtype), stacked),
        _over_tokens(weight, stacked),
        _over_tokens(apart, stacked),
    )


def _over_tokens(x: Array, stacked: bool) -> Array:
    return x.sum(tuple(range(int(stacked), x.ndim)))


def _finished(name: str, sums: ExpertUse) -> ExpertUse:
    """The sums on the host, once they are known to be of weights."""
    arrays = jax.tree.map(np.asarray, sums)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(arrays)):
        raise JaxpruneError(
            f"the experts of group {name!r} give numbers that are not finite.\n"
            "Fix: look for NaN or infinity in the batches and in the variables."
        )
    if arrays.gates is None:
        return arrays
    gates, apart = arrays.gates
    if (apart > _UNEVEN * np.maximum(abs(gates), arrays.sent)).any():
        raise GateError(
            f"the outputs of the experts of group {name!r} have no one weight: it differs between "
            "the entries of the last axis of their mixture.\nFix: features along the last axis; or "
            "groups=, without this one."
        )
    return arrays._replace(gates=gates)
