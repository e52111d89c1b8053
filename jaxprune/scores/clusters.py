"""Clusters of filters by k-means, of which each keeps one channel."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import check_mapping
from jaxprune.errors import KeepError, ScoreError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.members import Array, not_empty
from jaxprune.keep.check import widths as check_widths
from jaxprune.scores.similarity import NO_FILTERS, filters_of

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
    members = filters_of(graph, variables)
    given = check_mapping(widths, "widths", "{group: count}", KeepError)
    counts = check_widths(graph, given)
    scores = {}
    for name in (name for name in members if name in given):
        if any(isinstance(member, Tracer) for member in members[name]):
            raise ScoreError("filters are traced.\nFix: call it outside of jax.jit.")
        filters: Any = np.concatenate(members[name], axis=-1)
        parts = (filters.real, filters.imag) if np.iscomplexobj(filters) else (filters,)
        rows = np.concatenate(parts, axis=-1)
        stacked = rows.reshape(-1, *rows.shape[-2:]).astype(np.float64)
        ranked = np.stack([_scored(layer, counts[name]) for layer in stacked])
        scores[name] = ranked.reshape(rows.shape[:-1]).astype(rows.dtype)
    return not_empty(
        scores, by=NO_FILTERS, fix="widths={group: count} of groups that a layer makes."
    )


def _scored(filters: np.ndarray, count: int) -> np.ndarray:
    """The scores of f64[n, K]."""
    clusters, means = clustered(filters, count)
    away = ((filters - means[clusters]) ** 2).sum(1)
    first = {int(c): int(np.where(clusters == c, away, np.inf).argmin()) for c in clusters}
    nearest = np.array([first[int(c)] for c in clusters])
    distance = ((filters - filters[nearest]) ** 2).sum(1) ** 0.5
    scores = distance / (2 * (distance.max() or 1.0))
    scores[list(first.values())] = 1
    return scores


def clustered(filters: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns int[n], the cluster of each of f64[n, K], and f64[count, K], their means."""
    chosen = [int((filters**2).sum(1).argmax())]
    while len(chosen) < count:
        chosen.append(int(_squares(filters, filters[chosen]).min(1).argmax()))
    means, clusters = filters[chosen], np.full(len(filters), -1)
    for _ in range(_ROUNDS):
        before, clusters = clusters, _squares(filters, means).argmin(1)
        if (before == clusters).all():
            break
        means = np.stack(
            [
                filters[clusters == c].mean(0) if (clusters == c).any() else means[c]
                for c in range(count)
            ]
        )
    return clusters, means


def _squares(filters: np.ndarray, means: np.ndarray) -> np.ndarray:
    """f64[n, means]: the squared distances."""
    return np.stack([((filters - mean) ** 2).sum(1) for mean in means], axis=1)
