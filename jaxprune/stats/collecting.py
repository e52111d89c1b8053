"""Several statistics in one compiled pass over batches."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.arguments.checks import (
    check_callable,
    check_examples,
    check_key,
    check_mapping,
    check_names,
)
from jaxprune.arguments.functions import check_function
from jaxprune.errors import GateError, JaxpruneError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.running import evaluator
from jaxprune.stats.batch_calls import call_of
from jaxprune.stats.curvatures import Curvature
from jaxprune.stats.passes import Pass
from jaxprune.stats.states import State, finished, merged
from jaxprune.stats.statistic import At, Statistic

Statistics = Mapping[str, Statistic | Curvature]
Loss = Callable[[Any, Any], Any]
"""`loss(outputs, batch) -> f[]`, a mean or a sum over the examples of a batch."""
_GRADIENTS = (At.PRODUCTS, At.GATES, At.EXAMPLES)


class Collector(NamedTuple):
    """Pure functions over the state of several statistics; `update` is to be jitted.

    init: `init(variables, batch) -> State` of no data, from arrays or shapes.
    update: `update(state, variables, batch) -> State` with one batch more.
    merge: `merge(state, state) -> State` of the data of both, such as those of two hosts.
    finalize: `finalize(state) -> {statistic: {group: result}}`, on the host.
    """

    init: Callable[[Any, Any], State]
    update: Callable[[State, Any, Any], State]
    merge: Callable[[State, State], State]
    finalize: Callable[[State], dict[str, Any]]


def collector(
    graph: ChannelGraph,
    statistics: Statistics,
    *,
    loss: Loss | None = None,
    inputs: Callable[[Any], Any] | None = None,
    groups: Collection[str] | None = None,
    key: jax.Array | None = None,
    fn: Callable[..., Any] | None = None,
) -> Collector:
    """Returns the functions of which `collect` is the loop; its arguments are those.

    The state is a tree of small arrays, so that it is saved, sent and sharded like any other:

        tools = jp.stats.collector(graph, {"mean": jp.stats.mean()})
        state, update = tools.init(variables, batch), jax.jit(tools.update)
        for batch in batches:
            state = update(state, variables, batch)
        means = tools.finalize(state)["mean"]

    Raises:
      JaxpruneError, GateError: as `collect`.
    """
    check_graph(graph)
    given = check_mapping(statistics, "statistics", "{name: jp.stats.mean()}", JaxpruneError)
    _check_statistics(given, loss)
    check_callable(inputs, "inputs", "inputs=lambda batch: (batch['image'],)", optional=True)
    wanted = None if groups is None else check_names(groups, "groups", GateError)
    if unknown := [name for name in wanted or () if name not in graph.groups]:
        some = list(graph.groups)[:5]
        raise GateError(f"the graph has no group {unknown[:5]}; it has {some}.\nFix: print(graph).")
    key = jax.random.key(0) if key is None else key
    check_key(key, JaxpruneError)
    run = graph.fn if fn is None else fn
    check_function(run)
    each = Pass(
        graph=graph,
        statistics=dict(given),
        loss=loss,
        call=call_of(graph, inputs),
        groups=wanted,
        key=key,
        retraced=evaluator.retracer(run, graph),
    )

    def init(variables: Any, batch: Any) -> State:
        evaluator.full(graph, variables, {})  # in words, before anything is traced
        shapes = jax.eval_shape(each.measure, variables, batch, jnp.int32(0))
        return each.empty(shapes)

    def update(state: State, variables: Any, batch: Any) -> State:
        return merged(each.statistics, state, each.measure(variables, batch, state.batches))

    def merge(ours: State, theirs: State) -> State:
        return merged(each.statistics, ours, theirs)

    def finalize(state: State) -> dict[str, Any]:
        return finished(graph, each.statistics, state)

    return Collector(init, update, merge, finalize)


def collect(
    graph: ChannelGraph,
    variables: Any,
    batches: Iterable[Any],
    statistics: Statistics,
    *,
    loss: Loss | None = None,
    inputs: Callable[[Any], Any] | None = None,
    groups: Collection[str] | None = None,
    key: jax.Array | None = None,
    fn: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Returns {statistic: {group: result}}, measured in one pass over the batches.

    One program is compiled for all batches of one shape, and no activation leaves it: the state is
    a few numbers of each channel (of a Gram n x n, or K x K). Sums are in float32, or float64 where
    the model is. A group that several contractions read has the data of all of them together, as
    has what a loop or shared weights read several times; layers of a stack that have their own
    channels have their own results, [layers, ...].

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables that it was traced from.
      batches: any number of batches, each an array or a tree of arrays with examples along the
        first axis. Of a tuple the first are the inputs of the call, the rest is for the loss.
      statistics: {name: statistic}, such as `jp.stats.mean()`.
      loss: `loss(outputs, batch) -> f[]` of what `fn` returns, for statistics of gradients and
        curvatures. Per example it is called with the outputs and the batch of one: [1, ...].
      inputs: `inputs(batch)` gives the inputs of the call, a tuple, or a mapping of keywords,
        where they are not the first of the batch.
      groups: whose statistics; by default those of all groups that have a place.
      key: a PRNG key of what is drawn (sampled positions, probes); that of 0 by default.
      fn: the function that runs, if not the traced one: a variant that takes the same variables.

    Returns:
      Arrays on the host. Groups without a place are absent; see `jp.gates.refused`.

    Raises:
      JaxpruneError: no data, a statistic that is none, a loss that is missing or not needed,
        numbers that are not finite: the first batch and the group are named.
      GateError: an unknown group, or one that was asked for and has no place.
      TreeError, ResizeError: the variables or the function are not those of the graph.

    Statistics that take examples apart (`activation_norm`, sampled positions, `At.EXAMPLES`) run
    each example by itself under `jax.vmap`, so a function whose examples meet (BatchNorm in train
    mode) is another one there.

    >>> import jax
    >>> import numpy as np
    >>> import jaxprune as jp
    >>> fn = lambda v, x: jax.nn.relu(x @ v["a"]) @ v["b"]
    >>> v = {"a": np.array([[1.0, -1.0]], np.float32), "b": np.ones((2, 1), np.float32)}
    >>> batches = [np.array([[1.0], [2.0]], np.float32), np.array([[-3.0], [1.0]], np.float32)]
    >>> graph = jp.trace(fn, v, batches[0])
    >>> wanted = {"mean": jp.stats.mean(), "zeros": jp.stats.zero_share()}
    >>> found = jp.stats.collect(graph, v, batches, wanted)
    >>> found["mean"]["a"].tolist(), found["zeros"]["a"].tolist()
    ([1.0, 0.75], [0.25, 0.75])
    """
    tools = collector(graph, statistics, loss=loss, inputs=inputs, groups=groups, key=key, fn=fn)
    update = jax.jit(tools.update)
    state = None
    for batch in check_examples(batches, "stats.collect"):
        state = tools.init(variables, batch) if state is None else state
        state = update(state, variables, batch)
    if state is None:
        raise JaxpruneError("stats.collect: no batches.\nFix: pass at least one batch of data.")
    return tools.finalize(state)


def _check_statistics(given: Mapping[Any, Any], loss: Loss | None) -> None:
    if not given:
        raise JaxpruneError("no statistics.\nFix: {'mean': jp.stats.mean()}.")
    bad = [name for name, item in given.items() if not isinstance(item, Statistic | Curvature)]
    if bad:
        kinds = [type(given[name]).__name__ for name in bad]
        raise JaxpruneError(
            f"statistics {bad} are none, but {kinds}.\nFix: call it: jp.stats.mean(), not "
            "jp.stats.mean."
        )
    check_callable(loss, "loss", "loss=lambda outputs, batch: ...", optional=True)
    needing = [
        name for name, item in given.items() if isinstance(item, Curvature) or item.at in _GRADIENTS
    ]
    if needing and loss is None:
        raise JaxpruneError(
            f"statistics {needing} are of gradients, so they need a loss.\n"
            "Fix: loss=lambda outputs, batch: the mean loss of the batch."
        )
    if loss is not None and not needing:
        raise JaxpruneError(
            "loss= is given, but no statistic is of gradients.\n"
            "Fix: leave it out, with the labels; or at=jp.stats.At.GATES."
        )
