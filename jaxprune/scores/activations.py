"""Scores of what channels hold when data pass: no labels, no gradients."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import check_mapping
from jaxprune.arguments.numbers import is_number
from jaxprune.errors import ScoreError
from jaxprune.graph import ChannelGraph, Group
from jaxprune.groups.members import Array
from jaxprune.scores.given import given


def apoz(
    graph: ChannelGraph, zeros: Mapping[str, Any], *, deviations: float | None = None
) -> dict[str, Array]:
    """Returns {group: f32[n]}: 1 - APoZ, the share of activations that are not zero.

    Args:
      graph: what `jaxprune.trace` returned.
      zeros: `jp.stats.zero_share()`: the average share of zeros, APoZ, behind the activation.
      deviations: None, or k: then the score is mean + k std - APoZ, with mean and deviation of the
        group (over all n), so that `jp.select.threshold(graph, scores, threshold=-1e-6)` removes
        the channels whose APoZ is above; the paper's k is 1. Constant channels all stay.

    Raises:
      ScoreError: a group is unknown, or its shares have another shape; `deviations` is not a
        number.

    Source: Hu et al., "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient
    Deep Architectures", 2016, equation 1 and section 3.2. It needs an activation that gives zeros.
    """
    shares = given(graph, zeros, "shares of zeros", 'found["zeros"] of jp.stats.zero_share().')
    if deviations is not None and not (is_number(deviations) and np.isfinite(deviations)):
        raise ScoreError(f"deviations must be a number, got {deviations!r}.\nFix: deviations=1.0.")
    if deviations is None:
        return {name: 1 - share for name, share in shares.items()}
    return {
        name: share.mean(-1, keepdims=True) + deviations * _deviation(share) - share
        for name, share in shares.items()
    }


def entropy(graph: ChannelGraph, histograms: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {group: f32[n]}: -Σ p log p in nats, p the shares of the bins of each channel.

    Args:
      graph: what `jaxprune.trace` returned.
      histograms: `jp.stats.histogram(...)`, or {group: f32[n, bins]} of counts.

    Raises:
      ScoreError: a group is unknown, or its counts are not [n, bins].

    Source: Luo and Wu, "An Entropy-based Pruning Method for CNN Compression", 2017, equation 3. The
    paper takes the histogram of each channel's global average over images, between its least and
    its greatest: that is what a contraction reads behind the pooling, with `range=` of
    `jp.stats.extremes()`; elsewhere positions count as images.
    """
    of = check_mapping(histograms, "histograms", "{group: f32[n, bins]}", ScoreError)
    counts = {name: getattr(item, "counts", item) for name, item in of.items()}
    fix = 'found["histogram"] of jp.stats.histogram(bins=100, range=...).'
    by_group = given(graph, counts, "counts", fix, _bins)
    scores = {}
    for name, values in by_group.items():
        total = values.sum(-1, keepdims=True)
        share = values / (total + (total == 0))
        scores[name] = -(share * _log(share)).sum(-1)
    return scores


def mean_activation(graph: ChannelGraph, means: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {group: f32[n]}: the mean activation of each channel, as it is given.

    Args:
      graph: what `jaxprune.trace` returned.
      means: `jp.stats.mean(at=jp.stats.At.AFTER)`, or `mean_size`, where activations have signs.

    Raises:
      ScoreError: a group is unknown, or its means have another shape.

    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", ICLR 2017, section 2.2, "activation"; `ActivationMeanRankFilterPruner` of NNI.
    """
    return given(graph, means, "means", 'found["mean"] of jp.stats.mean(at=jp.stats.At.AFTER).')


def activation_norm(graph: ChannelGraph, norms: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {group: f32[n]}: the norm of the activations of each channel, as it is given.

    Args:
      graph: what `jaxprune.trace` returned.
      norms: `jp.stats.activation_norm()`, whose docstring says in which order it aggregates.

    Raises:
      ScoreError: a group is unknown, or its norms have another shape.

    Source: Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation"
    (Minitron), 2024, section 2.2: of the hidden layer of an MLP, of heads (over the dimensions of a
    head), and of the width of the stream (summed over the layers that read it).
    """
    return given(graph, norms, "norms", 'found["norm"] of jp.stats.activation_norm().')


def wanda(graph: ChannelGraph, norms: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {group: f32[n]}: Σ_out |w| * sqrt(mean a^2), as it is given.

    Args:
      graph: what `jaxprune.trace` returned.
      norms: `jp.stats.weighted_norm()`; or `jp.stats.weighted_variance()`, which is WIFV of FLAP.

    Raises:
      ScoreError: a group is unknown, or its norms have another shape.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR
    2024, equation 1, summed over the weights that read a channel.
    """
    return given(graph, norms, "weighted norms", 'found["norm"] of jp.stats.weighted_norm().')


def _bins(group: Group) -> tuple[int | str, ...]:
    return (*group.shape, "bins")


def _deviation(values: Array) -> Array:
    away = values - values.mean(-1, keepdims=True)
    return (away * away).mean(-1, keepdims=True) ** 0.5


def _log(share: Array) -> Array:
    xp: Any = jnp if isinstance(share, Tracer) else np
    return xp.log(share + (share == 0))
