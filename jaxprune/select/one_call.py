"""What one call of `prune` does between the graph and the cut: scores, normalized, to a keep.

The defaults are safe ones. Scores are normalized in every group, or one budget would empty whole
layers. Every group keeps a tenth of its channels at least (`FLOOR`), as in You et al., "Gate
Decorator", NeurIPS 2019: a layer of a few channels cuts the network in two, whatever its scores
say.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxprune.arguments.bounds import Bound
from jaxprune.arguments.call_inputs import needed
from jaxprune.arguments.checks import check_callable, kind_of
from jaxprune.arguments.functions import TRACE_OPTIONS
from jaxprune.errors import ScoreError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.constraints import Constraints
from jaxprune.groups.scored import Scores
from jaxprune.keep.check import Keep
from jaxprune.scores.normalizing import Normalizer, normalized
from jaxprune.select.selectors import budget

Score = Callable[[ChannelGraph, Any], Scores]
"""Such as `jp.scores.l2`."""


class Bounds(NamedTuple):
    """The bounds of `budget`."""

    keep_macs: Bound | None
    keep_params: Bound | None
    keep_weights: Bound | None
    keep_bytes: Bound | None


FLOOR = 0.1
"""The default of `min_keep_ratio`, here and in `jp.plan.problem`."""

CONSTRAINTS = tuple(name for name in Constraints.__annotations__ if name != "strict")
"""Those of `jp.select`; under this name `prune` has the option of `trace`."""

OWN = (*Bounds._fields, *CONSTRAINTS, "scores", "normalize", "overrides")
"""The names that no argument of a call can have."""


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the constraints among the options, and the others: those of a trace and its call."""
    constraints = {name: value for name, value in options.items() if name in CONSTRAINTS}
    return constraints, {n: value for n, value in options.items() if n not in constraints}


def of_call(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that no `trace` has: the arguments of the call."""
    return {name: value for name, value in options.items() if name not in TRACE_OPTIONS}


def choose(
    graph: ChannelGraph,
    variables: Any,
    *,
    scores: Score | Scores,
    normalize: Normalizer,
    bounds: Bounds,
    constraints: Mapping[str, Any],
) -> Keep:
    """Returns the keep of the best channels within the bounds.

    Raises:
      ScoreError: `scores` is neither a function nor scores, or they do not fit the graph.
      BudgetError: a bound or a constraint makes no sense or is out of reach.
      PatternError: a pattern matches nothing.
    """
    if not callable(scores) and not isinstance(scores, Mapping):
        raise ScoreError(
            "scores must be a function (graph, variables) -> scores, or {group: f32[n]}, got "
            f"{kind_of(scores)}.\nFix: scores=jp.scores.l2."
        )
    if more := needed(scores)[2:] if callable(scores) else []:
        name = getattr(scores, "__name__", "score")
        raise ScoreError(
            f"scores is called with a graph and variables, and {name} needs {more} too.\n"
            f"Fix: scores=lambda graph, variables: jp.scores.{name}(graph, variables, ...)."
        )
    check_callable(normalize, "normalize", "normalize=jp.scores.mean.", ScoreError)
    found = scores(graph, variables) if callable(scores) else scores
    limits: Any = {"min_keep_ratio": FLOOR, **constraints}
    return budget(graph, normalized(found, by=normalize), **bounds._asdict(), **limits)
