"""Weights paired with what belongs to each of them: gradients, curvatures."""

from collections.abc import Callable, Collection
from typing import Any

import jax

from jaxprune.arguments import paths
from jaxprune.errors import ScoreError, TreeError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.members import Array, Pair, Pairs, shape_in


def pairs(
    graph: ChannelGraph,
    variables: Any,
    others: Any,
    wanted: Collection[str],
    combine: Callable[[Array, Array], Array],
    what: str = "gradients",
) -> Pairs:
    """Returns {path: the pair combine(w, other)} of the wanted variables.

    Raises:
      TreeError: a tree does not mirror the graph.
      ScoreError: weights are integers, which have no gradient.
    """
    trees = [paths.flatten(tree)[0] for tree in (variables, others)]
    failures = [
        f"{path}: the graph has shape {graph.variables[path].shape}, the {name} have {shape}"
        for name, tree in zip(("variables", what), trees, strict=True)
        for path in wanted
        if (shape := shape_in(tree, path)) != graph.variables[path].shape
    ]
    if failures:
        fix = (
            f"Fix: pass the variables that the graph was traced from, and {what} in the same "
            "tree ({'params': ...}, not the params alone)."
        )
        raise TreeError("\n".join(["the trees do not mirror the graph.", *failures, fix]))
    still = [path for path in wanted if getattr(trees[1][path], "dtype", None) == jax.dtypes.float0]
    if still:
        raise ScoreError(
            f"{still[:5]} are integers, which have no gradient.\n"
            "Fix: scores.l2, or the gates of jp.gated."
        )
    ours, theirs = trees
    return Pairs({path: Pair(ours[path], theirs[path], combine) for path in wanted})


def product(w: Array, gradient: Array) -> Array:
    """Returns the real part of w * dL/dw."""
    return (w * gradient).real
