"""Scores of experts behind a router: how often they are chosen, and what they add.

All are made of `jp.stats.expert_use`, read from the traced program. An expert that no token reached
has 0 in each of them, the least that any has: it goes first, and says so in `use[group].sent`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxprune.arguments.checks import check_mapping, kind_of
from jaxprune.errors import ScoreError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.members import Array
from jaxprune.scores.given import given
from jaxprune.stats.experts import ExpertUse

_FIX = "jp.stats.expert_use(graph, variables, batches)."


def expert_frequency(graph: ChannelGraph, use: Mapping[str, ExpertUse]) -> dict[str, Array]:
    """Returns {group: f32[n]}: the share of an expert in all that tokens are sent to.

    Args:
      graph: what `jaxprune.trace` returned.
      use: `jp.stats.expert_use(graph, variables, batches)`.

    Raises:
      ScoreError: a group is unknown, or its numbers have another shape.

    Source: the baseline of Lasby et al., "REAP the Experts", 2025, and of Lu et al., ACL 2024.
    """
    sent = _given(graph, use, "sent")
    return {name: _over(item, item.sum(-1, keepdims=True)) for name, item in sent.items()}


def expert_gates(graph: ChannelGraph, use: Mapping[str, ExpertUse]) -> dict[str, Array]:
    """Returns {group: f32[n]}: soft counts, the share of an expert in the sum of all weights.

    The weight of a token is what the network multiplies the output of the expert by.

    Args:
      graph: what `jaxprune.trace` returned.
      use: `jp.stats.expert_use(graph, variables, batches)`.

    Raises:
      ScoreError: a group is unknown, its numbers have another shape, or its router weighs what goes
        into the experts, whose outputs then have no weight.

    Source: Muzio et al., "SEER-MoE: Sparse Expert Efficiency through Regularization for
    Mixture-of-Experts", 2024, section 3.1, soft counting.
    """
    gates = _given(graph, use, "gates")
    return {name: _over(item, item.sum(-1, keepdims=True)) for name, item in gates.items()}


def reap(graph: ChannelGraph, use: Mapping[str, ExpertUse]) -> dict[str, Array]:
    """Returns {group: f32[n]}: the mean of weight times norm of the output, over routed tokens.

    S_e = (1 / |T_e|) Σ_{t in T_e} g_e(t) |E_e(t)|_2, T_e the tokens that reach expert e. Of an
    expert with none, whose mean is of nothing, it is 0.

    Args:
      graph: what `jaxprune.trace` returned.
      use: `jp.stats.expert_use(graph, variables, batches)`.

    Raises:
      ScoreError: a group is unknown, or its numbers have another shape.

    Source: Lasby et al., "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression",
    2025, equation 9. The weights are those that the network applies, so renormalized over the
    chosen experts where it does that.
    """
    sent, added = _given(graph, use, "sent"), _given(graph, use, "added")
    return {name: _over(added[name], sent[name]) for name in sent}


def _over(a: Array, b: Array) -> Array:
    return np.asarray(a / (b + (b == 0)))


def _given(graph: ChannelGraph, use: Any, field: str) -> dict[str, Array]:
    every = check_mapping(use, "use", "{group: jp.stats.ExpertUse}", ScoreError)
    bad = {name: kind_of(item) for name, item in every.items() if not isinstance(item, ExpertUse)}
    if bad:
        raise ScoreError(f"use must hold jp.stats.ExpertUse, got {bad}.\nFix: {_FIX}")
    missing = [name for name, item in every.items() if getattr(item, field) is None]
    if missing:
        raise ScoreError(
            f"groups {missing}: the router weighs what goes into the experts, so that their "
            "outputs have no weight.\nFix: jp.scores.reap, or expert_frequency."
        )
    return given(graph, {n: getattr(item, field) for n, item in every.items()}, field, _FIX)
