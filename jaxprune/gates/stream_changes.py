"""By how much branches change their streams, noted where they are added."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxprune.arguments.checks import check_callable
from jaxprune.gates.evaluation import Marked, evaluate
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.branches import branches
from jaxprune.program.jaxpr import Op
from jaxprune.running import evaluator
from jaxprune.running.evaluator import Noted


def branch_changes(
    fn: Callable[..., Any], graph: ChannelGraph, measure: Callable[[Any, Any], Any]
) -> Callable[..., Any]:
    """Returns `fn` with what every branch changes: `(outputs, {branch: measure(before, after)})`.

    `before` and `after` are the stream without the branch, and the sum. Inside of a scan the steps
    are a leading axis.

    Args:
      fn: the function that was traced, or any variant that takes the same variables.
      graph: the channel graph.
      measure: a function of two arrays of one shape.

    Raises:
      JaxpruneError: `measure` is not a function.
      TreeError: when the result is called, if the variables are not those of the graph.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> v = {"up": np.ones((4, 8)), "down": np.ones((8, 4)), "head": np.ones((4, 2))}
      >>> fn = lambda v, x: (x + x @ v["up"] @ v["down"]) @ v["head"]
      >>> graph = jp.trace(fn, v, np.ones((1, 4)))
      >>> growth = lambda before, after: jnp.abs(after).sum() / jnp.abs(before).sum()
      >>> noted = jp.gates.branch_changes(fn, graph, growth)(v, np.ones((1, 4)))[1]
      >>> {name: float(value) for name, value in noted.items()}
      {'+down': 33.0}
    """
    check_callable(measure, "measure", "measure=lambda before, after: jnp.mean(after - before).")
    retraced = evaluator.retracer(fn, graph)
    known = branches(graph)

    def run(variables: Any, *inputs: Any, **keywords: Any) -> Any:
        here = retraced(evaluator.full(graph, variables, {}), inputs, keywords)
        own = [item for name, item in branches(here).items() if name in known]
        marked = Marked((item.op, item) for item in own)

        def note(op: Op, args: list[Any], outs: list[Any]) -> Noted:
            return {item.name: measure(args[1 - item.side], outs[0]) for item in marked.at(op)}

        args = evaluator.operands(variables, inputs, keywords)
        outs, noted = evaluate(here, marked, args, leave=note)
        return outs, {name: jnp.asarray(noted[name]) for name in known if name in noted}

    return run
