"""What of the modules of a Haiku function goes with branches.

A module call goes if nothing needs what it gives, once the branches are taken out of their sums,
and if no variable of the module stays: zeros stand in its place. So they do in the place of all
variables that go, which the function is called without.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxprune.arguments import paths
from jaxprune.cutting.absent import without_leaves
from jaxprune.cutting.shorter_state import Shorter
from jaxprune.graph import ChannelGraph
from jaxprune.haiku.library import haiku
from jaxprune.program import jaxpr, removed_values
from jaxprune.running import removed_calls
from jaxprune.running.kept_depth import KeptDepth

Function = Callable[..., Any]


def removed_of(
    graph: ChannelGraph, kept: KeptDepth, fn: Function, modules: Iterable[str]
) -> frozenset[str]:
    """Returns the names of the modules whose calls go, of those that a function calls."""
    gone = kept.without.variables
    alive = graph.variables.keys() - gone

    def holds(module: str, path: str) -> bool:
        return f"/{module}/" in f"/{path}"

    candidates = {
        name
        for name in modules
        if any(holds(name, path) for path in gone) and not any(holds(name, path) for path in alive)
    }

    def mark(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        outputs, name = call(*args, **kwargs), context.module.module_name
        if name not in candidates or context.method_name == "__init__":
            return outputs
        return removed_calls.marked(outputs, name)

    def run(*args: Any, **keywords: Any) -> Any:
        with haiku().intercept_methods(mark):
            return fn(*args, **keywords)

    return frozenset(removed_calls.of(graph, kept, run))


def zeros_of(call: Function, args: Any, kwargs: Any) -> Any:
    """Returns zeros in the place of what a method gives, of which only the shapes are computed."""
    return removed_values.zeros_like(lambda: call(*args, **kwargs), haiku().eval_shape)


def filled(fn: Function, graph: ChannelGraph, kept: KeptDepth) -> Function:
    """Returns a function that is called without the variables and the state that go."""
    lost = Shorter.of(graph, kept.without, kept.size)

    def run(variables: Any, *inputs: Any, **keywords: Any) -> Any:
        leaves = paths.flatten(variables)[0]
        whole = [
            leaves[path] if path in leaves else jaxpr.zeros(kept.shape(variable), variable.dtype)
            for path, variable in graph.variables.items()
        ]
        inputs, keywords = lost.filled(inputs, keywords, jaxpr.zeros)
        outputs = fn(jax.tree.unflatten(graph.treedef, whole), *inputs, **keywords)
        return without_leaves(outputs, kept.without.outputs)

    return run
