"""Explanations of branches, and of sums that have none, in plain text."""

from collections.abc import Iterator

from jaxprune.arguments import paths
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import cost
from jaxprune.inspecting.branches import Branch, branches, other_sums
from jaxprune.keep.check import BRANCH

_NONE = (
    "there are no sums of two layers. Weights that a loop looks up by its counter make none: step "
    "over the stack itself, jax.lax.scan(body, x, weights), or a Python loop over it"
)


def explained(graph: ChannelGraph, pattern: str) -> str:
    """Returns in words what goes with the branches that a pattern names.

    "+" is all of them, with the sums that have none, and why.

    Raises:
      PatternError: the pattern matches no branch.
    """
    known = branches(graph)
    if pattern == BRANCH:
        lines = _others(graph)
        blocks = [*map(_block, [graph] * len(known), known.values()), *lines]
        return "\n\n".join(blocks) or _NONE
    matched = paths.require([pattern], known, what="branch pattern")
    return "\n\n".join(_block(graph, known[name]) for name in known if name in matched)


def _block(graph: ChannelGraph, branch: Branch) -> str:
    macs, params = (cost.branch_cost(graph, of)[branch.name] for of in (cost.macs, cost.params))
    each = f", in each of {branch.steps} steps" if branch.steps is not None else ""
    where = f", a term of {branch.within}" if branch.within else ""
    return "\n".join(
        [
            f"branch {branch.name} at {branch.place}{each}{where}",
            f"  operand {branch.side} of {branch.op!r}",
            f"  without it there are {macs:,} MACs and {params:,} parameters less:",
            *(f"    {path}" for path in branch.variables),
        ]
    )


def _others(graph: ChannelGraph) -> Iterator[str]:
    """Yields the sums of two layers that have no branch, by what is in the way."""
    by_reason: dict[str, dict[str, None]] = {}
    for other in other_sums(graph):
        line = f"    {other.op!r} at {other.op.place}"
        by_reason.setdefault(other.why, {}).setdefault(line)
    if by_reason:
        lines = (line for why, ops in by_reason.items() for line in (f"  {why}:", *ops))
        yield "\n".join(["sums without a branch:", *lines])
