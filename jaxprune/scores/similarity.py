"""Scores of how alike channels are to the others of their group: what is redundant goes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import check_callable, check_flag
from jaxprune.arguments.numbers import is_number, plain
from jaxprune.arguments.reduction import reduced
from jaxprune.errors import ScoreError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.members import Array, Reduce, as_they_are, not_empty, numpy_of, owned, total
from jaxprune.scores.filters import Distances, Kernel, Products, kernels_of
from jaxprune.scores.given import given, of_pairs

NO_FILTERS = "no group is made by a kernel"
_FIX = "scores.l2(roles=('in',)), or scores.random."


def fpgm(
    graph: ChannelGraph,
    variables: Any,
    *,
    order: float = 2.0,
    reduce: Reduce = total,
) -> dict[str, Array]:
    """Returns {group: f32[n]}: Σ_j |F_i - F_j|, of the filters that make each channel.

    The filter with the least sum is nearest to the geometric median of its layer: the others can
    stand in for it.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables that it was traced from.
      order: p of the norm |.|_p of the distances: 2, 1, `math.inf`, or any number from 1 on.
      reduce: combines the sums of a group with several kernels, as in `l1`.

    Returns:
      Scores, higher means keep; groups that no kernel makes are absent. `quotas` mixes them with
      norms as the paper does.

    Raises:
      ScoreError: `order` is below 1, or no group has a kernel that makes it.
      TreeError: `variables` do not mirror the graph.

    Source: He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration", CVPR 2019, equation 6 (its code's option `cos` is never used there). The paper
    scores each layer by itself; of coupled ones the sums are combined.
    """
    if not is_number(order) or not plain(order) >= 1:
        raise ScoreError(f"order must be a number from 1 on, got {order!r}.\nFix: order=2.0.")
    check_callable(reduce, "reduce", "reduce=jnp.sum, called with axis=1.", ScoreError)
    scores = {}
    for name, kernels in kernels_of(graph, variables).items():
        columns = [
            reduced(Distances(kernel.place, float(plain(order)), summed=True), [kernel.leaf])
            for kernel in kernels
        ]
        scores[name] = reduce(numpy_of(columns).stack(columns, axis=-1), axis=-1)
    return not_empty(scores, by=NO_FILTERS, fix=_FIX)


def filter_similarity(
    graph: ChannelGraph, variables: Any, *, centered: bool = False
) -> dict[str, Array]:
    """Returns {group: f32[n, n]}: the cosines between the filters of a group, all kernels as one.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables that it was traced from.
      centered: each filter less its own mean first: the correlation of their weights.

    Raises:
      ScoreError: no group has a kernel that makes it.
      TreeError: `variables` do not mirror the graph.
    """
    check_flag(centered, "centered")
    result = {}
    for name, kernels in kernels_of(graph, variables).items():
        mean = [_mean(kernels)] if centered else []
        products = sum(reduced(Products(k.place), [k.leaf, *mean]) for k in kernels)
        xp: Any = numpy_of([products])
        size = xp.diagonal(products, axis1=-2, axis2=-1).real ** 0.5
        size = size + (size == 0)
        result[name] = products.real / size[..., None] / size[..., None, :]
    return not_empty(result, by=NO_FILTERS, fix=_FIX)


def _mean(kernels: list[Kernel]) -> Array:
    """The mean of the entries of each filter, in all kernels."""
    sums = sum(owned(kernel.leaf, kernel.slot, as_they_are) for kernel in kernels)
    return sums / np.float32(sum(kernel.length for kernel in kernels))


def redundancy(graph: ChannelGraph, similarities: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {group: f32[n]}: 1 - the similarity at which a channel becomes redundant.

    Of the two channels of a group that are most alike, by |similarity|, the one goes that is more
    alike to all others that are left; then again, among those left. What goes has the score 1 - its
    similarity to the one that stays, so that of a cluster of equal channels all but one have 0. The
    last channel has 1.

    Args:
      graph: what `jaxprune.trace` returned.
      similarities: {group: f32[n, n]} in [-1, 1], symmetric: `filter_similarity`, or of activations
        `{name: c.correlation for name, c in found["c"].items()}` of `jp.stats.covariance()`.

    Raises:
      ScoreError: a group is unknown, or its similarities are not [n, n], or traced.

    Source: clustering of filters as in Ayinde and Zurada, "Building Efficient ConvNets using
    Redundant Feature Pruning", 2018, whose agglomerative clusters this has for every threshold:
    `jp.select.threshold(graph, scores, threshold=1 - tau)` keeps one channel of each.
    """
    ours = given(graph, similarities, "similarities", "jp.scores.filter_similarity.", of_pairs)
    if any(isinstance(values, Tracer) for values in ours.values()):
        raise ScoreError("similarities are traced.\nFix: call it outside of jax.jit.")
    scores = {}
    for name, values in ours.items():
        stacked = values.reshape(-1, *values.shape[-2:])
        scores[name] = np.stack([_greedy(layer) for layer in stacked]).reshape(values.shape[:-1])
    return scores


def _greedy(similarity: np.ndarray) -> np.ndarray:
    alike = abs(similarity).astype(np.float64)
    np.fill_diagonal(alike, -1)  # as is all that is gone
    scores = np.ones(len(alike), similarity.dtype)
    for _ in range(len(alike) - 1):
        left, right = np.unravel_index(alike.argmax(), alike.shape)
        first, second = np.maximum(alike[[left, right]], 0).sum(axis=1)
        gone = left if first > second else right
        scores[gone] = 1 - alike[left, right]
        alike[gone], alike[:, gone] = -1, -1
    return scores
