"""Which experts stay: those without which the mixture changes least."""

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import combinations
from math import comb
from typing import Any

import jax
import numpy as np

from jaxprune.arguments.checks import check_callable, check_examples, check_names
from jaxprune.arguments.dtypes import wide
from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.functions import check_function
from jaxprune.arguments.numbers import check_count
from jaxprune.errors import BudgetError, GateError, JaxpruneError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.inspecting.mixtures import Mixture, mixtures
from jaxprune.keep.kept import Kept
from jaxprune.program.jaxpr import Op
from jaxprune.running import evaluator
from jaxprune.running.evaluator import Noted
from jaxprune.running.narrow import Evaluator
from jaxprune.stats.batch_calls import Call, call_of
from jaxprune.stats.experts import checked_calls, mixed_groups, traced_at

Errors = Callable[[np.ndarray], np.ndarray]
"""`errors(bool[rows, n]) -> f64[*layers, rows]`, what the mixture changes by under each keep."""


def experts(
    graph: ChannelGraph,
    variables: Any,
    batches: Iterable[Any],
    *,
    keep_count: int,
    groups: Collection[str] | None = None,
    exhaustive: int = 1000,
    inputs: Callable[[Any], Any] | None = None,
    fn: Callable[..., Any] | None = None,
) -> dict[str, np.ndarray]:
    """Returns {group: bool[n]}: the subset of experts whose mixture is nearest to that of all.

    Nearest is the least Σ |y - y_C|^2 over all tokens, y_C the mixture where only the experts C can
    be chosen: the others have -inf for a logit, so that tokens go to others and weights are
    normalized anew, as they are once the experts are cut. Every group is looked at alone, all
    others whole. If there are at most `exhaustive` subsets, all are tried; else experts are taken
    out one after the other, each time that without which the error is least.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables that it was traced from.
      batches: any number of batches, as for `jp.stats.collect`. They are held, and run once for
        every subset, or for every step of the greedy search, a forward pass for each of its rows.
      keep_count: how many experts stay of every group, at least as many as a token is sent to.
      groups: whose experts; by default all that are chosen from.
      exhaustive: the most subsets of one group that are all tried.
      inputs: `inputs(batch)` gives the inputs of the call, where they are not the first of it.
      fn: the function that runs, if not the traced one: a variant that takes the same variables.

    Returns:
      bool[n], or bool[layers, n] of stacked layers, of which each is looked at alone.

    Raises:
      BudgetError: `keep_count` is less than a token is sent to, or more than there are.
      JaxpruneError: no data, or numbers that are not finite.
      GateError: a group is not chosen from, or its experts' outputs cannot be read; says where.
      TreeError, ResizeError: the variables or the function are not those of the graph.

    Source: Lu et al., "Not All Experts are Equal: Efficient Expert Pruning and Skipping for
    Mixture-of-Experts Large Language Models", ACL 2024, section 3.2, all subsets of each layer on
    the activations of the whole network. Deviations: squared errors, which do not depend on how
    tokens are divided into batches; the greedy search, for counts at which it cannot be done.

    >>> import jax, numpy as np, jaxprune as jp
    >>> v = {"router": np.eye(3), "table": np.array([[1.0], [1.1], [5.0]])}
    >>> def fn(v, x):
    ...     sent = jax.nn.one_hot((x @ v["router"]).argmax(-1), v["router"].shape[1])
    ...     return sent @ v["table"]
    >>> x = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [1.0, 0.0, 2.0]])
    >>> graph = jp.trace(fn, v, x)
    >>> {n: k.tolist() for n, k in jp.select.experts(graph, v, [x], keep_count=2).items()}
    {'router': [True, False, True]}
    """
    check_graph(graph)
    check_callable(inputs, "inputs", "inputs=lambda batch: (batch['image'],)", optional=True)
    check_count(exhaustive, "exhaustive", "exhaustive=1000.", BudgetError, least=0)
    check_count(keep_count, "keep_count", "keep_count=4.", BudgetError)
    wanted = None if groups is None else check_names(groups, "groups", GateError)
    names = mixed_groups(graph, wanted)
    _check_room(graph, names, keep_count)
    run = graph.fn if fn is None else fn
    check_function(run)
    retraced = evaluator.retracer(run, graph)
    given = map(call_of(graph, inputs), check_examples(batches, "select.experts"))
    calls = [*checked_calls(graph, retraced, names, variables, given)]
    if not calls:
        raise JaxpruneError("select.experts: no batches.\nFix: pass at least one batch of data.")
    chosen = {}
    for name in names:
        errors = _errors(graph, retraced, name, variables, calls)
        n = graph.groups[name].size
        few = comb(n, keep_count) <= exhaustive
        chosen[name] = (_nearest if few else _greedy)(errors, n, keep_count)
    return chosen


def _check_room(graph: ChannelGraph, names: Iterable[str], keep_count: int) -> None:
    failures = [
        f"group {name!r} has {group.size} experts, of which at least {group.least} stay"
        for name in names
        if not (group := graph.groups[name]).least <= keep_count <= group.size
    ]
    if failures:
        raise BudgetError(
            "\n".join([f"keep_count={keep_count} does not fit.", *failures])
            + "\nFix: a keep_count between these, or groups=."
        )


def _nearest(errors: Errors, n: int, keep_count: int) -> np.ndarray:
    """The best of all subsets; of equal ones the first, of the first experts."""
    chosen = np.array(list(combinations(range(n), keep_count)))
    rows = np.zeros((len(chosen), n), bool)
    np.put_along_axis(rows, chosen, True, axis=1)
    return rows[errors(rows).argmin(-1)]


def _greedy(errors: Errors, n: int, keep_count: int) -> np.ndarray:
    """One expert less in every round, in every layer by itself."""
    kept = np.ones(n, bool)
    for _ in range(n - keep_count):
        lead = kept.shape[:-1]
        rows = np.broadcast_to(kept[..., None, :], (*lead, n, n)) & ~np.eye(n, dtype=bool)
        found = np.where(kept, errors(rows), np.inf)
        best = found.argmin(-1)
        kept = np.broadcast_to(kept, found.shape).copy()
        np.put_along_axis(kept, best[..., None], False, axis=-1)
    return kept


def _errors(
    graph: ChannelGraph,
    retraced: evaluator.Retraced,
    name: str,
    variables: Any,
    calls: Iterable[Call],
) -> Errors:
    """What gives the errors of a group under keeps."""
    layers = graph.groups[name].layers

    @jax.jit
    def of_batch(variables: Any, call: Call, masks: Any) -> Any:
        here = traced_at(graph, retraced, variables, call)
        item = mixtures(here)[name]
        assert isinstance(item, Mixture)
        args = evaluator.operands(variables, call[0], {**call[1], **graph.constants})
        whole = _mixed(here, name, item, args, None)

        def error(mask: Any) -> Any:
            apart = abs(wide(whole) - wide(_mixed(here, name, item, args, mask)))
            squares = apart * apart
            return squares.sum(tuple(range(int(layers is not None), squares.ndim)))

        return jax.lax.map(error, masks)

    def total(rows: np.ndarray) -> np.ndarray:
        masks = _one_layer_each(rows, layers)
        sums = sum(np.asarray(fetch(of_batch(variables, call, masks)), float) for call in calls)
        found = np.asarray(sums)
        if layers is not None:  # [layers * rows, layers]: of each the layer that it is of
            by_layer = found.reshape(layers, -1, layers)
            found = np.stack([by_layer[layer, :, layer] for layer in range(layers)])
        if not np.isfinite(found).all():
            raise JaxpruneError(
                f"the mixture of group {name!r} has numbers that are not finite.\n"
                "Fix: look for NaN or infinity in the batches and in the variables."
            )
        return found

    return total


def _one_layer_each(rows: np.ndarray, layers: int | None) -> np.ndarray:
    """Keeps [rows, n]; of stacked layers [layers * rows, layers, n], each of one layer alone."""
    if layers is None:
        return rows
    n = rows.shape[-1]
    each = np.broadcast_to(rows, (layers, *rows.shape[-2:]))
    here = np.eye(layers, dtype=bool)[:, None, :, None]
    return np.where(here, each[:, :, None, :], True).reshape(-1, layers, n)


def _mixed(here: ChannelGraph, name: str, item: Mixture, args: Any, mask: Any) -> Any:
    """The mixture of a group, where some of its experts cannot be chosen."""
    masks: Mapping[str, Any] = {} if mask is None else {name: mask}
    run = _Noting(here, Kept({}), masked=masks)
    run.place = item.op, item.result
    return run.noted(args)


class _Noting(Evaluator):
    """Evaluates a program, and notes one result."""

    place: tuple[Op, int]

    def noted(self, args: Any) -> Any:
        """Returns the result that is noted; of a scan that of every step."""
        return self._run(self.graph.walk, args)[1]["mixed"]

    def apply(self, op: Op, args: list[Any]) -> tuple[list[Any], Noted]:
        """Returns the results of one operation, and what is noted."""
        outs, noted = super().apply(op, args)
        return outs, noted | ({"mixed": outs[self.place[1]]} if op is self.place[0] else {})
