"""What a network loses at a keep, by mask: one compiled program for all widths and branches."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_callable, check_examples, kind_of
from jaxprune.arguments.functions import check_function
from jaxprune.cutting.transforms import check_tree, mask
from jaxprune.errors import JaxpruneError
from jaxprune.gates.branch_gates import unit_branches
from jaxprune.gates.unit_gates import gated
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.scored import shape_of_numbers
from jaxprune.inspecting import without_branches
from jaxprune.keep.check import Keep, check_keep
from jaxprune.stats.batch_calls import call_of

Evaluate = Callable[..., Any]
"""From a keep to a finite number, lower is better; `jp.plan.evaluator` makes one."""
Loss = Callable[[Any, Any], Any]
"""From the outputs and the batch to the mean over its examples."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluator:
    """A function of keeps: `evaluate(keep)`, or `evaluate(keep, variables)` for other weights."""

    graph: ChannelGraph = field(repr=False)
    variables: Any = field(repr=False)
    batches: tuple[Any, ...] = field(repr=False)
    program: Callable[..., Any] = field(repr=False)

    def __call__(self, keep: Keep, variables: Any = None) -> float:
        """Returns the mean loss over all examples of the network masked to a keep.

        Args:
          keep: {group: bool[n], branch: bool or bool[steps]}; what is absent stays.
          variables: in the full shapes; by default those that the evaluator was made with.

        Raises:
          KeepError, TreeError: one of them does not fit the graph.
          JaxpruneError: the loss is not a number.
        """
        parts = without_branches.split(self.graph, keep)
        masks = {name: np.ones(group.shape, bool) for name, group in self.graph.groups.items()}
        for name, kept in check_keep(self.graph, parts.channels).items():
            masks[name] = np.broadcast_to(kept, masks[name].shape)
        gates = {name: gate.astype(bool) for name, gate in unit_branches(self.graph).items()}
        for name, kept in parts.branches.items():
            gates[name] = np.broadcast_to(kept, gates[name].shape)
        variables = self.variables if variables is None else variables
        check_tree(self.graph, paths.flatten(variables)[0], {})
        losses = [self.program(variables, masks, gates, batch) for batch in self.batches]
        sizes = [np.shape(jax.tree.leaves(batch)[0])[0] for batch in self.batches]
        return float(np.average(np.array(jax.device_get(losses), np.float64), weights=sizes))


def evaluator(
    graph: ChannelGraph,
    variables: Any,
    batches: Iterable[Any],
    loss: Loss,
    *,
    inputs: Callable[[Any], Any] | None = None,
    fn: Callable[..., Any] | None = None,
) -> Evaluator:
    """Returns what gives the loss of the network at any keep, by mask, for all planners.

    Channels are masked and branches gated, in one program that is compiled once for batches of one
    shape, whatever the keep. Of a group that is not exact (`Group.inexact`) the loss is that of the
    masked network, which differs from the sliced one.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables that it was traced from.
      batches: held-out data, each an array or a tree of arrays [examples, ...]; all of them are
        held.
      loss: from the outputs and the batch to one number, the mean over the examples of the batch,
        lower is better: for an accuracy give one minus it. It is traced.
      inputs: from a batch to the inputs of a call, a tuple, or a mapping of keywords; by default
        the front of the batch.
      fn: what runs, by default what was traced.

    Raises:
      JaxpruneError: `loss`, `inputs` or `fn` is not a function, there is no batch, or, when it is
        called, the loss is not a number.
      TreeError: `variables` do not mirror the graph.

    Costs: a forward of all batches for every call.

    >>> import jax.numpy as jnp, jaxprune as jp
    >>> v = {"first": jnp.array([[3.0, 1.0]]), "second": jnp.ones((2, 1))}
    >>> fn = lambda v, x: x @ v["first"] @ v["second"]
    >>> data = [(jnp.ones((4, 1)), jnp.full((4, 1), 4.0))]
    >>> square = lambda outputs, batch: jnp.mean((outputs - batch[1]) ** 2)
    >>> evaluate = jp.plan.evaluator(jp.trace(fn, v, data[0][0]), v, data, square)
    >>> evaluate({}), evaluate({"first": [True, False]})
    (0.0, 1.0)
    """
    check_callable(loss, "loss", "loss=lambda outputs, batch: cross_entropy(outputs, batch[1]).")
    check_graph(graph)
    check_callable(inputs, "inputs", "inputs=lambda batch: (batch['image'],)", optional=True)
    run = graph.fn if fn is None else fn
    check_function(run)
    check_tree(graph, paths.flatten(variables)[0], {})
    held = tuple(check_examples(batches, "plan.evaluator"))
    if not held:
        raise JaxpruneError("plan.evaluator: there is no batch.\nFix: batches=[images].")
    call, switched = call_of(graph, inputs), gated(run, graph)

    @jax.jit
    def program(variables: Any, masks: Keep, gates: Mapping[str, Any], batch: Any) -> Any:
        given, keywords = call(batch)
        masked = mask(graph, variables, masks)
        if gates:
            number = loss(switched(masked, gates, *given, **keywords), batch)
        else:
            number = loss(run(masked, *given, **keywords), batch)
        if shape_of_numbers(number) != []:
            raise JaxpruneError(
                f"loss gave {kind_of(number)}, not a number.\nFix: the mean over the examples of a "
                "batch."
            )
        return number

    return Evaluator(graph=graph, variables=variables, batches=held, program=program)


def divergence(
    graph: ChannelGraph,
    variables: Any,
    batches: Iterable[Any],
    *,
    inputs: Callable[[Any], Any] | None = None,
    fn: Callable[..., Any] | None = None,
) -> Evaluator:
    """Returns the evaluator of the divergence from the dense network, which needs no labels.

    It is the mean over examples and positions of KL(p || q) in nats, where p are the softmax
    probabilities of the dense network along the last axis of its output, and q those of the masked
    one. The outputs of the dense network are computed once and held.

    Args:
      graph: as of `jp.plan.evaluator`, as all others are.
      variables: those of the dense network.
      batches: inputs alone, or in front.
      inputs: from a batch to the inputs of a call.
      fn: what runs.

    Raises:
      JaxpruneError, TreeError: as `jp.plan.evaluator`; when it is called also if the output is not
        one array of real numbers.

    Source: the fitness of Sieberling et al., "EvoPress", 2024, and the replace-one score of
    Bercovich et al., "Puzzle", 2024.

    >>> import jax.numpy as jnp, jaxprune as jp
    >>> v = {"first": jnp.array([[3.0, 1.0]]), "second": jnp.eye(2)}
    >>> x = jnp.ones((4, 1))
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"], v, x)
    >>> evaluate = jp.plan.divergence(graph, v, [x])
    >>> round(evaluate({}), 6), round(evaluate({"first": [True, False]}), 4)
    (0.0, 0.0409)
    """
    check_graph(graph)
    run = graph.fn if fn is None else fn
    check_function(run)
    check_callable(inputs, "inputs", "inputs=lambda batch: (batch['image'],)", optional=True)
    check_tree(graph, paths.flatten(variables)[0], {})
    call = call_of(graph, inputs)

    @jax.jit
    def dense(variables: Any, batch: Any) -> Any:
        given, keywords = call(batch)
        return _log_probabilities(run(variables, *given, **keywords))

    def loss(outputs: Any, pair: Any) -> Any:
        p, q = pair[1], _log_probabilities(outputs)
        return jnp.mean(jnp.sum(jnp.where(jnp.isneginf(p), 0, jnp.exp(p) * (p - q)), axis=-1))

    pairs = [(each, dense(variables, each)) for each in check_examples(batches, "plan.divergence")]

    def front(pair: Any) -> Any:
        given, keywords = call(pair[0])
        return keywords or given

    return evaluator(graph, variables, pairs, loss, inputs=front, fn=fn)


def _log_probabilities(outputs: Any) -> Any:
    leaves = jax.tree.leaves(outputs)
    if len(leaves) != 1 or not jnp.ndim(leaves[0]) or not jnp.isrealobj(leaves[0]):
        raise JaxpruneError(
            f"plan.divergence: the output must be one array of logits, got {len(leaves)} arrays.\n"
            "Fix: fn=lambda v, x: model.apply(v, x)[0], or jp.plan.evaluator with your own loss."
        )
    wide = jnp.promote_types(leaves[0].dtype, jnp.float32)
    return jax.nn.log_softmax(leaves[0].astype(wide), axis=-1)
