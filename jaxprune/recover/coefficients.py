"""LASSO over channels: which stay and by what factor, from what each adds to its readers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxprune.arguments.checks import check_mapping, is_array
from jaxprune.errors import JaxpruneError
from jaxprune.gates import fold
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.recover.leaves import checked_counts, concrete

Array = np.ndarray
_SWEEPS, _HALVINGS = 1000, 60


class Shrunk(NamedTuple):
    """Which channels stay, and the full variables with their factors in the kernels.

    keep: {group: bool[n]}. coefficients: {group: f64[n]}, zero at what goes. penalties: {group:
    lambda}, at which they solve the LASSO. All have a leading axis of layers, each solved by
    itself, where every layer of a stack has channels of its own.
    """

    keep: dict[str, Array]
    variables: Any
    coefficients: dict[str, Array]
    penalties: dict[str, Any]


def lasso(
    graph: ChannelGraph,
    variables: Any,
    widths: Mapping[str, int],
    contributions: Mapping[str, Any],
) -> Shrunk:
    """Returns which channels stay at these widths, and variables with their coefficients folded in.

    With z_c what channel c adds to its readers, b minimizes 1/2 |Σ_c z_c - Σ_c b_c z_c|^2 + lambda
    |b|_1, where lambda is doubled from next to nothing, then bisected, until as many b_c
    are not zero as are asked for. Where no lambda gives that number, those with the largest
    |b_c| |z_c| of the next larger number stay. b multiplies the kernels that read the group; it is
    shrunk by lambda, so `least_squares` on `variables` as they were and `keep` is to follow, as in
    the paper. Exact: a solution of the LASSO to 1e-9 of its largest slope, in float64.

    Args:
      graph: the channel graph.
      variables: all variables.
      widths: {group: how many channels stay}; groups that are absent stay whole.
      contributions: {group: f32[n, n]} of `jp.stats.contributions()`, f32[layers, n, n] where every
        layer of a stack has channels of its own.

    Raises:
      KeepError: a count is none from 1 to the size of its group.
      JaxpruneError: contributions are missing, have another shape or are not finite, or fewer
        channels than asked for add anything that the others do not.
      GateError: no single weight reads the channels of a group, so no factor can be folded.

    Source: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017,
    equation 2. Deviations: the count is exact, where their code accepts up to 1.1 of it; Y is of
    the network that was measured, all of its outputs.

    >>> import jaxprune as jp, numpy as np
    >>> fn = lambda v, x: x @ v["a"] @ v["b"]
    >>> v = {"a": np.eye(2, dtype=np.float32), "b": np.array([[1.0], [3.0]], np.float32)}
    >>> graph, x = jp.trace(fn, v, np.eye(2, dtype=np.float32)), np.eye(2, dtype=np.float32)
    >>> added = jp.stats.collect(graph, v, [x], {"z": jp.stats.contributions()})["z"]
    >>> jp.recover.lasso(graph, v, {"a": 1}, added).keep["a"].tolist()
    [False, True]
    """
    check_graph(graph)
    counts = checked_counts(graph, widths)
    concrete(graph, variables)
    check_mapping(contributions, "contributions", "{group: f32[n, n]}", JaxpruneError)
    keep, coefficients, penalties = {}, {}, {}
    for name, count in counts.items():
        shape, grams = graph.groups[name].shape, _grams(graph, name, contributions)
        solved = [_at_count(name, gram, count) for gram in grams]
        shrunk, strengths = zip(*solved, strict=True)
        coefficients[name] = np.reshape(shrunk, shape)
        keep[name] = coefficients[name] != 0
        penalties[name] = np.array(strengths) if len(shape) > 1 else strengths[0]
    return Shrunk(keep, fold(graph, variables, coefficients), coefficients, penalties)


def solve_lasso(gram: Array, target: Array, penalty: float, start: Array) -> Array:
    """Returns b that minimizes 1/2 b^T G b - t^T b + penalty |b|_1, by coordinate descent."""
    squares, limit = np.diagonal(gram), 1e-9 * abs(target).max(initial=0)
    b = np.where(squares > 0, start, 0.0)
    slope = target - gram @ b
    for _ in range(_SWEEPS):
        moved = 0.0
        for c in np.flatnonzero(squares > 0):
            pull = slope[c] + squares[c] * b[c]
            new = np.sign(pull) * max(abs(pull) - penalty, 0) / squares[c]
            if new != b[c]:
                moved = max(moved, abs(new - b[c]) * squares[c])
                slope -= gram[c] * (new - b[c])
                b[c] = new
        if moved <= limit:
            break
    return b


def _at_count(name: str, gram: Array, count: int) -> tuple[Array, float]:
    """The solution with `count` channels, and its penalty."""
    target = gram.sum(1)
    if count == len(gram):
        return np.ones(count), 0.0
    top = float(abs(target).max())
    low, high = 0.0, 1e-6 * top
    b = fewer = solve_lasso(gram, target, 0.0, np.ones(len(gram)))
    while np.count_nonzero(fewer := solve_lasso(gram, target, high, fewer)) > count:
        b, low, high = fewer, high, 2 * high
    for _ in range(_HALVINGS):
        if np.count_nonzero(fewer) == count:
            return fewer, high
        middle = (low + high) / 2
        tried = solve_lasso(gram, target, middle, b)
        if np.count_nonzero(tried) > count:
            b, low = tried, middle
        else:
            fewer, high = tried, middle
    if np.count_nonzero(b) < count:
        raise JaxpruneError(
            f"group {name!r}: {np.count_nonzero(b)} of its channels add all that there is, fewer "
            f"than the {count} asked for.\nFix: a smaller width."
        )
    size = abs(b) * np.sqrt(np.diagonal(gram))
    b[np.argsort(-size, kind="stable")[count:]] = 0
    return b, low


def _grams(graph: ChannelGraph, name: str, contributions: Mapping[str, Any]) -> Array:
    """f64[layers, n, n], of one layer where a group has none."""
    group = graph.groups[name]
    shape = (*group.shape, group.size)
    given = contributions.get(name)
    numbers = is_array(given) and np.asarray(given).dtype.kind in "fiu"
    gram = np.asarray(given if numbers else 0, np.float64)
    if gram.shape != shape or not np.isfinite(gram).all():
        raise JaxpruneError(
            f"contributions of group {name!r} must be finite numbers {list(shape)}, got "
            f"{list(gram.shape)}.\nFix: jp.stats.collect(graph, variables, batches, "
            "{'z': jp.stats.contributions()})['z']."
        )
    gram = gram.reshape(-1, group.size, group.size)
    return (gram + gram.swapaxes(1, 2)) / 2
