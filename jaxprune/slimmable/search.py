"""AutoSlim: which widths a trained supernet wastes least with, found without training again.

A search asks one question over and over: the error of the supernet at some widths. `evaluator`
answers it by mask, with one compiled program for all widths, so that every search here is a plain
loop on the host.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_arrays, check_callable, check_mapping, kind_of
from jaxprune.arguments.numbers import check_count, check_share, is_count, is_number, plain
from jaxprune.arguments.paths import flatten
from jaxprune.cutting import transforms
from jaxprune.cutting.transforms import check_tree
from jaxprune.errors import BudgetError, KeepError, PatternError, ScoreError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.constraints import Groups
from jaxprune.groups.scored import real
from jaxprune.inspecting import cost as costs
from jaxprune.keep import check
from jaxprune.keep.check import Widths
from jaxprune.slimmable.training import NETWORK, Network, check_exact
from jaxprune.slimmable.widths import make_divisible, scope

Space = Mapping[str, tuple[int, ...]]
"""{group: the counts it may keep, descending}; groups that are absent stay whole."""
Evaluate = Callable[[Sequence[Widths]], np.ndarray]
"""Widths to their errors, f64[n]; lower is better."""
Cost = Callable[[ChannelGraph, Mapping[str, Any] | None], float]
"""What is limited: one of `jp.cost`, `measured(...)`, or any function that falls with widths."""


class Found(NamedTuple):
    """Widths that a search found: `jp.slimmable.prefix(graph, found.widths)` is their keep."""

    widths: dict[str, int]
    error: float
    cost: float
    target: float


def space(
    graph: ChannelGraph,
    *,
    parts: int = 12,
    divisor: int = 8,
    min_keep_ratio: float = 0.0,
    protect: Groups = (),
) -> dict[str, tuple[int, ...]]:
    """Returns {group: counts}, from the full size down in equal steps to the last one above 0.

    A step is a `parts`-th of the group, rounded to the divisor, and the divisor at least. Layers
    that the network ties are one group and move together; `prefix` says which factor of a grouped
    axis slims.

    Args:
      graph: what `jaxprune.trace` returned, of the supernet.
      parts: steps of a group.
      divisor: what steps are multiples of.
      min_keep_ratio: no count is below this share of the group; in [0, 1].
      protect: names, patterns or kinds of groups that stay whole.

    Raises:
      KeepError: an argument is out of range.
      PatternError: a pattern matches nothing, or no group can slim.

    Source: Yu and Huang, "AutoSlim", 2019, the authors' configurations ("dynamic 12").
    """
    parts = check_count(parts, "space: parts", "parts=12.", KeepError)
    divisor = check_count(divisor, "space: divisor", "divisor=8.", KeepError)
    min_keep_ratio = check_share(min_keep_ratio, "space: min_keep_ratio", "0.0.", KeepError)
    by_group = {}
    for name in scope(graph, protect):
        size = graph.groups[name].size
        step = make_divisible(size / parts, divisor, divisor)
        floor = max(graph.groups[name].least, -int(-size * min_keep_ratio // 1))
        counts = tuple(range(size, floor - 1, -step))
        if len(counts) > 1:
            by_group[name] = counts
    if not by_group:
        raise PatternError(
            f"space: no group can slim in steps of {divisor}; protect={protect!r}.\nFix: a "
            "smaller divisor, or less protection; print(graph) lists the groups."
        )
    return by_group


def evaluator(
    network: Network,
    graph: ChannelGraph,
    variables: Any,
    inputs: Any,
    targets: Any,
    error: Callable[[Any, Any], Any],
    *,
    at_once: int = 1,
) -> Evaluate:
    """Returns `evaluate(candidates) -> errors` of one large batch, by mask and compiled once.

    Args:
      network: as in `gradients`. In train mode BatchNorm uses the statistics of the batch, as the
        method needs: no width has running ones.
      graph: what `jaxprune.trace` returned, of the supernet.
      variables: the trained variables of the whole supernet.
      inputs: one batch, held out from training; large, for its statistics and for fine errors.
      targets: its labels.
      error: `(outputs, targets) -> scalar`, such as the share of wrong classes.
      at_once: candidates that are evaluated side by side with `jax.vmap`, as many as memory holds;
        a remainder is filled up. On a CPU 1 is best.

    Raises:
      JaxpruneError: `at_once` is not a count.
      KeepError: when called, a count is out of range, or below the size of an inexact group, which
        by mask would be another network.
      ScoreError: when called, an error is not finite.
    """
    at_once = check_count(at_once, "at_once", "at_once=1.")
    check_graph(graph)
    check_callable(network, "network", NETWORK)
    check_callable(error, "error", "lambda outputs, targets: a scalar.")
    check_tree(graph, flatten(variables)[0], {})
    check_arrays(inputs, "inputs")
    check_arrays(targets, "targets")
    run = network({})
    sizes = {name: group.size for name, group in graph.groups.items()}

    @jax.jit
    def program(variables: Any, inputs: Any, targets: Any, counts: Any) -> Any:
        def error_at(count: Any) -> Any:
            keep = {
                name: jnp.arange(size) < count[i] for i, (name, size) in enumerate(sizes.items())
            }
            outputs, _ = run(transforms.mask(graph, variables, keep), inputs)
            return error(outputs, targets)

        return jax.vmap(error_at)(counts) if at_once > 1 else jnp.stack([error_at(counts[0])])

    def evaluate(candidates: Sequence[Widths]) -> np.ndarray:
        rows = [check.widths(graph, widths) for widths in _listed(candidates)]
        for row in rows:
            cut = [name for name, n in row.items() if n != sizes[name]]
            check_exact(graph, cut, "Fix: space(..., protect=[...])")
        rows = np.array([[*row.values()] for row in rows])
        errors = []
        for start in range(0, len(rows), at_once):
            chunk = rows[start : start + at_once]
            filled = np.concatenate([chunk, chunk[-1:].repeat(at_once - len(chunk), axis=0)])
            errors.append(program(variables, inputs, targets, filled)[: len(chunk)])
        return checked(np.concatenate([np.zeros(0), *jax.device_get(errors)]), candidates)

    return evaluate


def checked(errors: Any, candidates: Sequence[Widths]) -> np.ndarray:
    """Returns the errors of the candidates, f64[n].

    Raises:
      ScoreError: they are not as many, or not finite.
    """
    numbers = real(errors)
    if numbers is None or numbers.shape != (len(candidates),):
        raise ScoreError(
            f"the errors of {len(candidates)} candidates are {kind_of(errors)}.\nFix: evaluate "
            "returns f64[n], one for each."
        )
    if bad := int((~np.isfinite(numbers)).sum()):
        raise ScoreError(
            f"the error of {bad} of {len(numbers)} candidates is not finite.\nFix: look for NaN in "
            "the supernet and in the batch."
        )
    return numbers


def _listed(candidates: Any) -> list[Any]:
    """Returns the candidates as a list."""
    mappings = isinstance(candidates, Sequence) and all(isinstance(c, Mapping) for c in candidates)
    if not mappings:
        raise KeepError(
            f"candidates must be widths, [{{group: count}}, ...], got {kind_of(candidates)}.\n"
            "Fix: [{name: 8}], with groups that are absent whole."
        )
    return list(candidates)


def greedy(
    evaluate: Evaluate,
    graph: ChannelGraph,
    space: Space,
    targets: Sequence[float],
    *,
    cost: Cost = costs.macs,
) -> list[Found]:
    """Returns the widths at which each target is first met, in one pass from the largest on.

    Every round shrinks the group whose next step costs the least error, until the cost is at or
    below the last target; of equal errors the first group in the order of `space` goes. The error
    is not divided by what the step saves.

    Args:
      evaluate: errors of candidates; one call for each round.
      graph: what `jaxprune.trace` returned, of the supernet.
      space: {group: counts, descending}, such as `space(graph)`.
      targets: in units of `cost`: `0.5 * jp.cost.macs(graph)`.
      cost: a cost of the widths: `jp.cost.macs`, `params`, `activation_bytes`, or `measured(...)`.

    Returns:
      One `Found` for every target, the largest target first.

    Raises:
      BudgetError: a target is out of reach; the message names the smallest cost.
      KeepError: the space does not fit the graph.
      ScoreError: the errors are not finite, or not one for each candidate.

    Source: Yu and Huang, "AutoSlim: Towards One-Shot Architecture Search for Channel Numbers",
    2019, and the authors' code.
    """
    check_callable(evaluate, "evaluate", "evaluate=evaluator(...).")
    check_targets(graph, space, targets, cost)
    wanted = sorted(map(plain, targets), reverse=True)
    path = greedy_path(evaluate, space)
    widths, error = next(path)
    results = []
    for target in wanted:
        while (price := cost(graph, widths)) > target:
            widths, error = next(path)
        results.append(Found(dict(widths), error, price, target))
    return results


def greedy_path(evaluate: Evaluate, space: Space) -> Iterator[tuple[dict[str, int], float]]:
    """Yields (widths, error) from the whole network down, each one greedy step below the last."""
    check_callable(evaluate, "evaluate", "evaluate=evaluator(...).")
    _check_space(space)
    widths = {name: counts[0] for name, counts in space.items()}
    yield widths, float(checked(evaluate([widths]), [widths])[0])
    places = dict.fromkeys(space, 0)
    while open_ := [name for name, place in places.items() if place + 1 < len(space[name])]:
        candidates = [{**widths, name: space[name][places[name] + 1]} for name in open_]
        errors = checked(evaluate(candidates), candidates)
        best = int(np.argmin(errors))
        places[open_[best]] += 1
        widths = candidates[best]
        yield widths, float(errors[best])


def measured(
    network: Network, graph: ChannelGraph, variables: Any, inputs: Any, *, repeats: int = 30
) -> Cost:
    """Returns the cost that is the median latency of the resized network, in seconds.

    It is measured on this device, once for all equal widths; a new width is resized and compiled.
    A clock is not monotone: near a target the result may be one step off.

    Args:
      network: `keep -> run(variables, inputs)`, in eval mode.
      graph: what `jaxprune.trace` returned.
      variables: the variables of the whole network.
      inputs: inputs of the size that will be served.
      repeats: timed calls.
    """
    check_callable(network, "network", "lambda keep: jp.linen.resize(model, graph, keep).apply.")
    repeats = check_count(repeats, "repeats", "repeats=30.")
    check_graph(graph)
    check_tree(graph, flatten(variables)[0], {})
    check_arrays(inputs, "inputs")
    known: dict[tuple[int, ...], float] = {}

    def latency(_: ChannelGraph, widths: Mapping[str, Any] | None = None) -> float:
        counts = check.widths(graph, widths)
        key = tuple(counts.values())
        if key not in known:
            keep = {n: np.arange(graph.groups[n].size) < count for n, count in counts.items()}
            small = transforms.sliced(graph, variables, keep)
            known[key] = costs.latency(network(keep), small, inputs, repeats=repeats).median
        return known[key]

    return latency


def check_targets(graph: ChannelGraph, space: Space, targets: Sequence[float], cost: Cost) -> None:
    """Raises unless the space fits the graph and the cost of its narrowest widths every target."""
    check_graph(graph)
    check_callable(cost, "cost", "cost=jp.cost.macs.")
    _check_space(space, graph)
    listed = isinstance(targets, Sequence | np.ndarray | jax.Array) and np.ndim(targets) == 1
    if not listed or not len(targets) or not all(map(is_number, targets)):
        raise BudgetError(
            f"targets={targets!r} is not a list of numbers.\nFix: [0.5 * jp.cost.macs(graph)]."
        )
    least = cost(graph, {name: counts[-1] for name, counts in space.items()})
    if missed := [target for target in map(plain, targets) if not target >= least]:
        raise BudgetError(
            f"targets {missed} are out of reach: the narrowest network of the space costs "
            f"{least:,}, the whole one {cost(graph, None):,}.\nFix: higher targets, or a space "
            "that goes further down (parts=, divisor=, min_keep_ratio=, protect=)."
        )


def _check_space(space: Any, graph: ChannelGraph | None = None) -> None:
    """Raises KeepError unless this is a space, of the graph if it is given."""
    given = check_mapping(space, "space", "{group: counts, descending}", KeepError)
    bad = [
        f"group {name!r} may keep {counts!r}"
        for name, counts in given.items()
        if not _descend(counts)
        or (graph and (name not in graph.groups or counts[0] > graph.groups[name].size))
    ]
    if bad or (graph and not given):
        raise KeepError(
            "\n".join(["the space does not fit the graph:", *bad])
            + "\nFix: slimmable.space(graph), or {group: counts} from at most its size down to 1."
        )


def _descend(counts: Any) -> bool:
    """True for counts that fall."""
    whole = isinstance(counts, Sequence) and len(counts) > 0 and all(map(is_count, counts))
    return whole and all(a > b for a, b in pairwise(counts))
