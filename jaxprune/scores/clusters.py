"""Clusters of filters by k-means, of which each keeps one channel."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import check_mapping
from jaxprune.arguments.reduction import reduced
from jaxprune.errors import KeepError, ScoreError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.members import Array, not_empty, owned
from jaxprune.keep.check import widths as check_widths
from jaxprune.scores.filters import Distances, kernels_of
from jaxprune.scores.similarity import NO_FILTERS

_ROUNDS = 100


def kmeans(graph: ChannelGraph, variables: Any, widths: Mapping[str, int]) -> dict[str, Array]:
    """Returns {group: f32[n]}: 1 for the channel that stands for its cluster, less for others.

    The filters that make the channels of a group (all kernels as one) are divided into as many
    clusters as channels shall stay, such that the sum of squares to the means of the clusters is at
    a minimum that no step of k-means improves. The filter nearest to its mean stands for the
    cluster; another one has half of its distance to that filter, over the greatest of the group.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables that it was traced from.
      widths: {group: how many clusters}; groups that are absent have no scores. So
        `jp.select.per_group` at these counts keeps one channel of each cluster.

    Returns:
      Scores, higher means keep; groups that no kernel makes are absent. Equal filters are one
      cluster, so that fewer filters than `widths` asks for may have 1; a repeated one has 0.

    Raises:
      KeepError: a group is unknown, or a count is none from 1 to its size.
      ScoreError: no group of `widths` has a kernel that makes it, or variables are traced.
      TreeError: `variables` do not mirror the graph.

    Source: Lloyd, "Least Squares Quantization in PCM", 1982; the first means are those of Gonzalez,
    "Clustering to Minimize the Maximum Intercluster Distance", 1985: the longest filter, then each
    time the one that is farthest from all so far. So nothing is drawn.

    >>> import jaxprune as jp
    >>> v = {"a": np.array([[1.0, 1.1, 0.9, -5.0, -5.2]]), "b": np.ones((5, 1))}
    >>> graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], v, np.ones((1, 1)))
    >>> kmeans(graph, v, {"a": 2})["a"].round(2).tolist()
    [1.0, 0.25, 0.25, 1.0, 0.5]
    """
    makers = kernels_of(graph, variables)
    given = check_mapping(widths, "widths", "{group: count}", KeepError)
    counts = check_widths(graph, given)
    scores = {}
    for name in (name for name in makers if name in given):
        kernels = makers[name]
        if any(isinstance(kernel.leaf, Tracer) for kernel in kernels):
            raise ScoreError("filters are traced.\nFix: call it outside of jax.jit.")
        distances = [Distances(kernel.place, 2.0, summed=False) for kernel in kernels]
        pairs = zip(distances, kernels, strict=True)
        away = np.stack([reduced(run, [kernel.leaf]) for run, kernel in pairs])
        sizes = [owned(kernel.leaf, kernel.slot, _square) for kernel in kernels]
        squares = (away.astype(np.float64) ** 2).sum(axis=0)
        longest = np.sum(sizes, axis=0).argmax(axis=-1).reshape(-1)
        stacked = squares.reshape(-1, *squares.shape[-2:])
        ranked = [_scored(*layer, counts[name]) for layer in zip(stacked, longest, strict=True)]
        scores[name] = np.reshape(ranked, squares.shape[:-1]).astype(away.dtype)
    return not_empty(
        scores, by=NO_FILTERS, fix="widths={group: count} of groups that a layer makes."
    )


def _scored(squares: np.ndarray, longest: int, count: int) -> np.ndarray:
    """The scores of filters, f64[n, n] between which are the squares of the distances."""
    clusters, shares = clustered(squares, longest, count)
    away = to_means(squares, shares)[np.arange(len(squares)), clusters]
    first = {int(c): int(np.where(clusters == c, away, np.inf).argmin()) for c in clusters}
    nearest = np.array([first[int(c)] for c in clusters])
    distance = squares[np.arange(len(squares)), nearest] ** 0.5
    scores = distance / (2 * (distance.max() or 1.0))
    scores[list(first.values())] = 1
    return scores


def clustered(squares: np.ndarray, longest: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns int[n], the cluster of each filter, and f64[count, n], what share each has in a mean.

    Args:
      squares: f64[n, n], of the distances between the filters, of which all else is made.
      longest: the first mean.
      count: how many clusters.
    """
    chosen = [int(longest)]
    while len(chosen) < count:
        chosen.append(int(squares[:, chosen].min(1).argmax()))
    shares, clusters = np.eye(len(squares))[chosen], np.full(len(squares), -1)
    for _ in range(_ROUNDS):
        before, clusters = clusters, to_means(squares, shares).argmin(1)
        if (before == clusters).all():
            break
        inside = (clusters == np.arange(count)[:, None]).astype(np.float64)
        some = inside.any(1, keepdims=True)
        shares = np.where(some, inside / (inside.sum(1, keepdims=True) + ~some), shares)
    return clusters, shares


def to_means(squares: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Returns f64[n, means], the squares of the distances of filters to means of them.

    |F_i - Σ_j s_j F_j|^2 = Σ_j s_j D_ij - 1/2 Σ_jk s_j s_k D_jk, where Σ s = 1 and D are squares.
    """
    mixed = squares @ shares.T
    return mixed - (shares.T * mixed).sum(0)[None] / 2


def _square(values: Array) -> Array:
    return abs(values) ** 2
