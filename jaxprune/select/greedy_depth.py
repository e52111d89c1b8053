"""Which branches go: one after the other, each time that without which the loss is least."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments import paths
from jaxprune.arguments.bounds import Absolute, Bound, Share, typed_bounds
from jaxprune.arguments.checks import check_callable
from jaxprune.arguments.numbers import check_count
from jaxprune.errors import BudgetError
from jaxprune.gates.branch_gates import gate_places
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import cost
from jaxprune.inspecting.branches import Branch, branches

Decision = tuple[str, int]
"""A branch, and the step of its scan; 0 outside of scans."""
_COSTS: Mapping[str, Callable[..., int]] = {"keep_macs": cost.macs, "keep_params": cost.params}


class _Limits(NamedTuple):
    remove: int | None
    bounds: Mapping[str, Share | Absolute]
    least: int


def depth(
    graph: ChannelGraph,
    loss: Callable[[Any], Any],
    *,
    remove: int | None = None,
    keep_macs: Bound | None = None,
    keep_params: Bound | None = None,
    min_left: int = 0,
    protect: str | Iterable[str] = (),
    protect_first: int = 0,
    protect_last: int = 0,
    together: Iterable[Iterable[str]] = (),
) -> dict[str, np.ndarray]:
    """Returns {branch: bool} or bool[steps]: which branches stay, taken out greedily by the loss.

    In every round the loss without each branch that is left is computed anew, by one program for
    all rounds, and the branch goes without which it is least. Select channels afterwards, on the
    network without these branches, under what is left of the budget.

    Args:
      graph: the channel graph.
      loss: gates of the branches, as `jp.gates.unit_branches` gives them, to a number; it is
        traced.
      remove: how many go; in a scan a branch is one of every step.
      keep_macs: branches go until the multiply-accumulates are within this bound, as in
        `jp.select.budget`. One of the three must be given at least; all that are given hold.
      keep_params: likewise for the parameters.
      min_left: at least so many stay.
      protect: names of branches, or patterns, that stay.
      protect_first: how many at the start of the network stay.
      protect_last: how many at its end.
      together: names or patterns, several in every entry, of branches that go or stay as one, such
        as the attention and the MLP of a layer; those of scans step by step. Together they count
        as one.

    Raises:
      BudgetError: the constraints do not leave enough that may go, or a number makes no sense.
      PatternError: a pattern matches no branch.

    Source: the greedy search with rescoring of Song et al., "SLEB: Streamlining LLMs through
    Redundancy Verification and Elimination of Transformer Blocks", ICML 2024, whose blocks are
    whole layers.

    Example:
      >>> import jax.numpy as jnp, numpy as np, jaxprune as jp
      >>> v = {"a": 0.1 * np.ones((4, 4)), "b": np.ones((4, 4)), "head": np.ones((4, 2))}
      >>> fn = lambda v, x: ((y := x + x @ v["a"]) + y @ v["b"]) @ v["head"]
      >>> x = np.ones((1, 4))
      >>> graph = jp.trace(fn, v, x)
      >>> loss = lambda gates: jnp.sum((jp.gated(fn, graph)(v, gates, x) - fn(v, x)) ** 2)
      >>> {name: bool(kept) for name, kept in jp.select.depth(graph, loss, remove=1).items()}
      {'+a': False, '+b': True}
    """
    check_callable(loss, "loss", "loss=lambda gates: the loss of jp.gated(fn, graph).")
    counts = {"min_left": min_left, "protect_first": protect_first, "protect_last": protect_last}
    counts |= {} if remove is None else {"remove": remove}
    for name, value in counts.items():
        check_count(value, name, f"{name}=1.", BudgetError, least=0)
    given = {"keep_macs": keep_macs, "keep_params": keep_params}
    bounds = typed_bounds({name: bound for name, bound in given.items() if bound is not None})
    if remove is None and not bounds:
        raise BudgetError("depth needs a number or a bound.\nFix: depth(graph, loss, remove=2).")
    known = branches(graph)
    units = _units(known, together)
    stay = paths.require(protect, known, what="protect pattern") if protect else set()
    inner = units[protect_first : len(units) - protect_last]
    free = [unit for unit in inner if not any(name in stay for name, _ in unit)]
    limits = _Limits(remove, bounds, max(min_left, len(units) - len(free)))
    gone = _greedy(graph, loss, units, free, limits)
    return {
        name: np.array([(name, step) not in gone for step in range(item.steps or 1)]).reshape(
            item.shape
        )
        for name, item in known.items()
    }


def _units(
    known: Mapping[str, Branch], together: Iterable[Iterable[str]]
) -> list[tuple[Decision, ...]]:
    """What goes as one, in the order of the network."""
    entries = list(together) if isinstance(together, Iterable) else [together]
    if bad := [entry for entry in entries if not isinstance(entry, Iterable) or not list(entry)]:
        raise BudgetError(
            f"together must be lists of branches, got {bad[0]!r}.\n"
            "Fix: together=[['+layer_0/attn/*', '+layer_0/mlp/*']]."
        )
    sets = [sorted(paths.require(list(e), known, what="together pattern")) for e in entries]
    of = {name: members for members in sets for name in members}
    if len(of) < sum(map(len, sets)):
        raise BudgetError("a branch is in several entries of together.\nFix: name each once.")
    first: dict[Any, int] = {}
    order: dict[tuple[Decision, ...], tuple[int, int, int]] = {}
    for place, (name, item) in enumerate(known.items()):
        members = of.get(name, [name])
        if len({known[other].steps for other in members}) > 1:
            raise BudgetError(
                f"branches {members} are to go together, and have other numbers of steps.\n"
                "Fix: join branches of one scan, or of none."
            )
        scan = next((op for op in reversed(item.op.around) if item.steps is not None), None)
        start = first.setdefault(scan or place, place)
        for step in range(item.steps or 1):
            unit = tuple((other, step) for other in members)
            order.setdefault(unit, (start, step, place))
    return sorted(order, key=lambda unit: order[unit])


def _greedy(
    graph: ChannelGraph,
    loss: Callable[[Any], Any],
    units: Sequence[tuple[Decision, ...]],
    free: Sequence[tuple[Decision, ...]],
    limits: _Limits,
) -> set[Decision]:
    """Takes units out until the limits hold; returns all that went."""
    places = gate_places(graph)

    def of_row(row: Any) -> Any:
        return loss({name: row[place] for name, place in places.items()})

    without = jax.jit(lambda rows: jax.lax.map(of_row, rows))
    row = np.ones(sum(map(np.size, places.values())), np.float32)
    left, removed, gone = list(free), 0, set()
    while not _holds(graph, gone, removed, limits):
        left = [unit for unit in left if not all(_is_gone(graph, d, gone) for d in unit)]
        if not left or len(units) - removed <= limits.least:
            raise BudgetError(
                f"{removed} of {len(units)} branches may go, and that is not enough: "
                f"{cost.macs(graph, _keep(graph, gone)):,} MACs and "
                f"{cost.params(graph, _keep(graph, gone)):,} parameters are left.\nFix: protect "
                "fewer, min_left smaller, or a larger bound; then cut channels."
            )
        rows = np.tile(row, (len(free), 1))  # as many in every round: one program
        for i, unit in enumerate(left):
            rows[i, [places[name].flat[step] for name, step in unit]] = 0
        losses = np.asarray(without(jnp.asarray(rows)))[: len(left)]
        best = left.pop(int(np.argmin(np.where(np.isnan(losses), np.inf, losses))))
        row[[places[name].flat[step] for name, step in best]] = 0
        gone |= set(best)
        removed += 1
    return gone


def _is_gone(graph: ChannelGraph, decision: Decision, gone: set[Decision]) -> bool:
    """True if a branch went, or one that it is a term of."""
    name, step = decision
    within = branches(graph)[name].within
    return decision in gone or (within is not None and _is_gone(graph, (within, step), gone))


def _keep(graph: ChannelGraph, gone: set[Decision]) -> dict[str, np.ndarray]:
    known = branches(graph)
    keep = {name: np.ones(known[name].shape, bool) for name, _ in gone}
    for name, step in gone:
        keep[name][step if keep[name].ndim else ()] = False
    return keep


def _holds(graph: ChannelGraph, gone: set[Decision], removed: int, limits: _Limits) -> bool:
    if limits.remove is not None and removed < limits.remove:
        return False
    for name, bound in limits.bounds.items():
        whole = _COSTS[name](graph)
        most = bound.value * whole if isinstance(bound, Share) else bound.value
        if _COSTS[name](graph, _keep(graph, gone)) > most:
            return False
    return True
