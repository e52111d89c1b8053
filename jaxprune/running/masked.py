"""Any function at full size without its pruned channels, for keeps that may be traced."""

from collections.abc import Callable
from typing import Any

import jax

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import without_branches
from jaxprune.keep.check import Keep, check_keep
from jaxprune.keep.kept import Kept
from jaxprune.running import depth, evaluator
from jaxprune.running.narrow import Evaluator


def masked(fn: Callable[..., Any], graph: ChannelGraph) -> Callable[..., Any]:
    """Returns `fn` for a keep: `masked(fn, graph)(variables, keep, *inputs, **keywords)`.

    It gives what `jp.narrow` gives, at the full shapes: for every group, also for one that is
    inexact, of which zeros in the variables (`jp.mask`) are not enough. Wherever entries of a
    pruned axis meet, a pruned one holds what takes no part there: zero in a sum, -inf in a maximum
    and in the choice of experts (`argmax`, `top_k`). A branch that goes (`jp.branches`) is not
    added to its stream. The keep may be traced, so that one compiled program serves all keeps; it
    can be differentiated, and mapped over keeps.

    Outputs along axes that are pruned (`free_outputs`) have any values at pruned indices.

    Args:
      fn: the function that was traced, or any variant that takes the same variables.
      graph: the channel graph.

    Raises:
      KeepError, TreeError, ResizeError: when the result is called, if the keep does not fit, the
        variables or the groups of `fn` are not those of the graph, or an operation writes pruned
        channels by index.

    Example:
      >>> import jax.numpy as jnp, numpy as np, jaxprune as jp
      >>> fn = lambda v, x: jax.nn.softmax(x @ v["a"]) @ v["b"]
      >>> v = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 3))}
      >>> graph = jp.trace(fn, v, jnp.ones((1, 2)))
      >>> keep = {"a": np.arange(4) < 2}
      >>> print(fn(jp.mask(graph, v, keep), jnp.ones((1, 2))).round(2))
      [[0.88 0.88 0.88]]
      >>> jp.masked(fn, graph)(v, keep, jnp.ones((1, 2))).tolist()
      [[1.0, 1.0, 1.0]]
    """
    retraced = evaluator.retracer(fn, graph)

    def run(variables: Any, keep: Keep, *inputs: Any, **keywords: Any) -> Any:
        parts = without_branches.split(graph, keep, traced=True)
        masks = check_keep(graph, parts.channels, traced=True)
        here = retraced(evaluator.full(graph, variables, {}), inputs, keywords)
        evaluator.check_groups(graph, here, masks)
        args = evaluator.operands(variables, inputs, keywords)
        sums = depth.sums_of(graph, here, parts.branches)
        outs = Evaluator(here, Kept({}), masked=masks, sums=sums).run(here.walk, args)
        return jax.tree.unflatten(jax.tree.structure(here.output), outs)

    return run
