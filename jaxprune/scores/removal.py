"""Scores by what the outputs of the readers lose without a channel: ThiNet, LASSO, OBS."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.core import Tracer

from jaxprune.errors import ScoreError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.members import Array
from jaxprune.scores.given import given, of_pairs

_FIX = 'found["added"] of jp.stats.contributions().'


def thinet(graph: ChannelGraph, contributions: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {group: f32[n]}: the place of a channel in ThiNet's order of removal, in (0, 1].

    From nothing removed, each step removes the channel c that adds least to the squared error of
    what the readers write, Σ (Σ_T z)^2 over the removed T: G_cc + 2 Σ_T G_ct, with G_ij = Σ z_i z_j
    of `jp.stats.contributions`. The first that goes has 1 / n, the last 1; so it is a ranking
    inside of a group (`jp.select.per_group`), in float64 on the host, O(n^2).

    Args:
      graph: what `jaxprune.trace` returned.
      contributions: {group: f32[n, n]} of `jp.stats.contributions()`.

    Raises:
      ScoreError: a group is unknown, or its contributions are not [n, n], or traced.

    Source: Luo et al., "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression",
    ICCV 2017, algorithm 1 and equation 6. The paper draws one output of each sampled position, here
    all outputs of a position count; a group with several readers has their sum.
    """
    return _by_group(graph, contributions, _thinet)


def lasso(graph: ChannelGraph, contributions: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {group: f32[n]}: the strength of the penalty at which a channel comes in, in [0, 1].

    Of min_b 1/2 |Y - Σ_c b_c z_c|^2 + lambda |b|_1, where Y = Σ_c z_c is what the readers write,
    the largest lambda at which b_c is not zero, over the least at which all are. The path of the
    solutions is followed exactly, from lambda_max downward. A channel that never comes in (one that
    repeats those that are in, or adds nothing) has 0.

    Args:
      graph: what `jaxprune.trace` returned.
      contributions: {group: f32[n, n]} of `jp.stats.contributions()`.

    Raises:
      ScoreError: a group is unknown, or its contributions are not [n, n], or traced.

    Source: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017,
    equation 2, whose code bisects lambda until as many channels are left as are asked for;
    the path by Efron et al., "Least Angle Regression", 2004, section 3.1. Deviations: Y is of the
    network that was measured, and channels that leave the path again keep their score.
    """
    return _by_group(graph, contributions, _lasso)


def obs(graph: ChannelGraph, costs: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {group: f64[n]}: what the readers lose without a channel, refitted; as it is given.

    Args:
      graph: what `jaxprune.trace` returned.
      costs: `jp.stats.removal_costs()`, whose docstring has the formula.

    Raises:
      ScoreError: a group is unknown, or its costs have another shape.

    Source: Hassibi and Stork, "Optimal Brain Surgeon", NeurIPS 1992, equation 5, for the block of
    the weights that read a channel. It tells what each channel costs alone; `jp.recover.obs` takes
    into account what is gone already, and updates the weights that are left.
    """
    return given(graph, costs, "costs", 'found["costs"] of jp.stats.removal_costs().')


def _by_group(
    graph: ChannelGraph, contributions: Any, order: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Array]:
    ours = given(graph, contributions, "contributions", _FIX, of_pairs)
    if any(isinstance(values, Tracer) for values in ours.values()):
        raise ScoreError("contributions are traced.\nFix: call it outside of jax.jit.")
    scores = {}
    for name, values in ours.items():
        stacked = values.reshape(-1, *values.shape[-2:]).astype(np.float64)
        ordered = np.stack([order((layer + layer.T) / 2) for layer in stacked])
        scores[name] = ordered.reshape(values.shape[:-1]).astype(values.dtype)
    return scores


def _thinet(gram: np.ndarray) -> np.ndarray:
    n = len(gram)
    cost, left, scores = np.diagonal(gram).copy(), np.ones(n, bool), np.empty(n)
    for place in range(1, n + 1):
        channel = int(np.where(left, cost, np.inf).argmin())
        scores[channel], left[channel] = place / n, False
        cost += 2 * gram[channel]
    return scores


def _lasso(gram: np.ndarray) -> np.ndarray:
    """The homotopy: between two events the solution is linear in the penalty."""
    n = len(gram)
    beta, slope = np.zeros(n), gram.sum(axis=1)
    top = penalty = abs(slope).max(initial=0)
    scores, active, barred = np.zeros(n), [], np.zeros(n, bool)
    tiny = 1e-9 * max(np.diagonal(gram).max(initial=0), 1e-300)
    barred |= np.diagonal(gram) <= tiny
    just_left = -1
    while penalty > 1e-12 * top and top > 0:
        waiting = [c for c in range(n) if c not in active and not barred[c] and c != just_left]
        for c in waiting:
            if abs(slope[c]) >= penalty * (1 - 1e-8):
                if _repeats(gram, active, c, tiny):
                    barred[c] = True
                else:
                    active.append(c)
                    scores[c] = max(scores[c], penalty / top)
        if not active:
            break
        signs = np.sign(slope[active])
        step = np.linalg.solve(gram[np.ix_(active, active)], signs)
        change = gram[:, active] @ step
        length, leaves = _next_event(slope, change, penalty, beta, step, active, barred)
        beta[active] += length * step
        slope = slope - length * change
        penalty -= length
        just_left = -1
        if leaves is not None:
            just_left = active.pop(leaves)
            beta[just_left] = 0
    return scores


def _repeats(gram: np.ndarray, active: list[int], channel: int, tiny: float) -> bool:
    """True if what a channel adds is a combination of what the active ones add."""
    if not active:
        return False
    across = gram[active, channel]
    rest = gram[channel, channel] - across @ np.linalg.solve(gram[np.ix_(active, active)], across)
    return bool(rest <= tiny)


def _next_event(
    slope: np.ndarray,
    change: np.ndarray,
    penalty: float,
    beta: np.ndarray,
    step: np.ndarray,
    active: list[int],
    barred: np.ndarray,
) -> tuple[float, int | None]:
    """How far the penalty falls until a channel comes in or leaves, and which `active` leaves."""
    length, leaves = penalty, None
    for c in range(len(slope)):
        if c in active or barred[c]:
            continue
        for room, speed in (
            (penalty - slope[c], 1 - change[c]),
            (penalty + slope[c], 1 + change[c]),
        ):
            if speed > 1e-12 and room > 1e-8 * penalty and room / speed < length:
                length, leaves = room / speed, None
    for place, c in enumerate(active):
        if step[place] and 0 < (to_zero := -beta[c] / step[place]) < length:
            length, leaves = to_zero, place
    return length, leaves
