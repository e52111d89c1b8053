"""Plain functions at the kept widths: the traced function itself, where it is the same network.

Code that reads its sizes from the arrays needs no new definition: it takes what `jp.slice` gives.
Code that holds a size of its own may raise, or silently be another network. `resize` tells them
apart before anything runs, and finds by trying the sizes that the function closes over; what it
refuses runs with `jp.narrow`, which needs no code at all.

Haiku, whose layers hold their output sizes and check them, so that mostly `narrow` remains. Trace
in train mode, so that all of the state is cut, and run either mode:

    net = hk.without_apply_rng(hk.transform_with_state(forward))
    params, state = net.init(key, x, True)
    variables = {"params": params, "state": state}

    def train(v, x):
        logits, state = net.apply(v["params"], v["state"], x, True)
        return logits, {"state": state}

    graph = jp.trace(train, variables, x)
    small = jp.slice(graph, variables, keep)
    logits, updated = jp.narrow(train, graph, keep)(small, x)

Equinox, whose Linear and Conv read their arrays and whose norms, attention and grouped convolutions
hold sizes in static fields, which `resize` finds by trying. The arrays of a model are the
variables:

    variables, static = eqx.partition(model, eqx.is_array)
    fn = lambda v, x: eqx.combine(v, static)(x)
    graph = jp.trace(fn, variables, x)
    small = jp.slice(graph, variables, keep)
    model2 = jax.tree_util.Partial(jp.resize(fn, graph, keep), small)  # or of jp.narrow

`model2` is a pytree like every Equinox model. Where the result has no `overrides`,
the smaller model itself is `eqx.combine(small, static)`. `resize` also takes a function of a model
that has the kept sizes, into which it puts the leaves of the variables.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxprune.arguments import call_inputs
from jaxprune.arguments.functions import check_function, check_inputs
from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import unread_variables
from jaxprune.keep.check import Keep
from jaxprune.keep.kept import Kept
from jaxprune.running import evaluator, head_sizes, same_program
from jaxprune.running.attribute_search import Overrides, solved
from jaxprune.running.closed_over import ClosedOver
from jaxprune.running.depth import with_all_rows
from jaxprune.running.kept_depth import kept_of
from jaxprune.running.same_program import Compared

WAY_OUT = (
    "Fix: make the function read that size from the shape of an array, keep that group whole "
    "(protect= in jp.select), or run jp.narrow(fn, graph, keep), which takes any function."
)
OTHER = (
    "Fix: pass the function that was traced, or correct this one; it differs from the traced one "
    "at the full widths too."
)


@dataclass(frozen=True, eq=False)
class Resized:
    """A function that takes sliced variables; see `resize`.

    Attributes:
      fn: the function.
      follows: the constants of the network that follow a pruned size, before and after.
      draws: what it draws at random over pruned channels, with numbers of its own.
      overrides: what its modules, or the function itself, hold, as it was found by trying.
    """

    fn: Callable[..., Any]
    follows: tuple[str, ...]
    draws: tuple[str, ...]
    graph: ChannelGraph = field(repr=False)
    kept: Kept = field(repr=False)
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __call__(self, variables: Any, *inputs: Any, **keywords: Any) -> Any:
        """Returns `fn(variables, *inputs, **keywords)`.

        Raises:
          TreeError: the variables, or the state among the inputs, are not what `jp.slice` gives.
        """
        if (gone := self.kept.without) is None:
            evaluator.full(self.graph, variables, self.kept.counts)
        else:
            shapes = with_all_rows(jax.eval_shape(lambda v: v, variables), gone)
            evaluator.full(self.graph, shapes, self.kept.counts, gone.variables)
        check_inputs(inputs, call_inputs.split(keywords)[0])
        evaluator.full_state(self.graph, inputs, keywords, self.kept.counts, gone)
        return self.fn(variables, *inputs, **keywords)


def resize(fn: Callable[..., Any], graph: ChannelGraph, keep: Keep) -> Resized:
    """Returns `fn` for sliced variables, `resize(fn, graph, keep)(small, *inputs)`, if it can be.

    The function is traced at the kept widths and compared with the graph equation by equation, so
    that it is the same network or an error. Constants that follow a width (the mean over channels,
    the root of the head size) may differ; `result.follows` lists them. So may random numbers over
    pruned channels (dropout), of which it draws fewer; `result.draws` lists them.

    Args:
      fn: the function that was traced, or one that makes the same network of the kept widths.
      graph: the channel graph.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole. {branch: False} takes a
        branch out (`jp.branches`), where the code leaves it out without its variables, as code
        that loops over a dict does; of a scan layers go as a whole.

    Raises:
      KeepError: the keep does not fit the graph.
      ResizeError: `fn` holds a size that pruning changes, or is another function than the traced
        one; names the equation.

    Example:
      >>> import jax, numpy as np, jaxprune as jp
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> fn = lambda v, x: jax.nn.relu(x @ v["a"]) @ v["b"]
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> keep = {"a": np.arange(4) < 2}
      >>> resize(fn, graph, keep)(jp.slice(graph, v, keep), np.ones((1, 2))).shape
      (1, 3)
    """
    kept = kept_of(graph, keep)
    check_function(fn)
    fn = graph.fn if fn is graph.fn else call_inputs.bound(fn, graph.constants)
    closed = ClosedOver(fn, graph)
    try:
        overrides, compared = head_sizes.or_why(
            graph, kept, lambda kept: _searched(graph, kept, closed)
        )
    except ResizeError as error:
        if _is_traced(fn, graph):
            raise
        raise ResizeError(str(error).removesuffix(WAY_OUT) + OTHER) from error
    others = compared.changed and fn is not graph.fn and same_program.other_constants(graph, fn)
    if others:
        text = "; ".join(map(str, others))
        raise ResizeError(
            f"the function is not the traced one: at the full widths too, {text}.\n{OTHER}"
        )
    unread_variables.warn(graph, keep, "jp.resize")
    return Resized(
        fn=closed.with_sizes(overrides),
        follows=compared.follows,
        draws=compared.draws,
        graph=graph,
        kept=kept,
        overrides={path: dict(values) for path, values in overrides.items()},
    )


def _searched(graph: ChannelGraph, kept: Kept, closed: ClosedOver) -> tuple[Overrides, Compared]:
    """Returns the sizes that the function must close over, and how the network then compares."""
    with_sizes = closed.with_sizes
    return solved(
        graph,
        kept,
        lambda extra: same_program.attempt(graph, kept, with_sizes(extra)),
        lambda extra: same_program.check(graph, kept, with_sizes(extra), "the function", WAY_OUT),
        lambda: closed.holders,
        closed.path_of,
        around=closed.around,
    )


def _is_traced(fn: Callable[..., Any], graph: ChannelGraph) -> bool:
    """True if `fn` is the network of the graph at the full widths."""
    try:
        same_program.check(graph, Kept({}), fn, "the function")
    except ResizeError:
        return False
    return True
