"""Scores read from normalization layers."""

from typing import Any

from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.members import Array, Reduce, collect, not_empty, total
from jaxprune.inspecting.batch_norms import batch_norms

NO_SCALE = "no BatchNorm with a scale is behind a group"
WITHOUT_SCALE = "scores.l2 or scores.taylor, or trace with the running statistics as variables."


def bn_scale(graph: ChannelGraph, variables: Any, *, reduce: Reduce = total) -> dict[str, Array]:
    """Returns {group: f32[n]}: |gamma| of the BatchNorm that scales each channel.

    A BatchNorm is found by what it computes, under any names: see `jp.batch_norms`.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables that it was traced from, running statistics included.
      reduce: combines the scales of a group with several BatchNorms (a residual stream), called as
        `reduce(f32[n, members], axis=1)`; the sum by default, `jnp.mean` and `jnp.max` fit too.

    Returns:
      Scores, higher means keep; groups without a BatchNorm scale are absent.

    Raises:
      ScoreError: no BatchNorm scales a group.
      TreeError: `variables` do not mirror the graph.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
    ICCV 2017, section 3. The paper scores each BatchNorm by itself; the sum over coupled ones is
    that of You et al., "Gate Decorator", NeurIPS 2019, section 3.3.

    Example:
      >>> import jax, numpy as np, jaxprune as jp
      >>> norm = {"scale": np.array([2.0, -1.0, 0.5]), "bias": np.zeros(3)}
      >>> v = {"params": {"a": np.ones((2, 3)), "norm": norm, "b": np.ones((3, 1))}}
      >>> v["batch_stats"] = {"norm": {"mean": np.zeros(3), "var": np.ones(3)}}
      >>> def fn(v, x):
      ...     p, past = v["params"], v["batch_stats"]["norm"]
      ...     x = (x @ p["a"] - past["mean"]) * jax.lax.rsqrt(past["var"] + 1e-5)
      ...     return (x * p["norm"]["scale"] + p["norm"]["bias"]) @ p["b"]
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> jp.scores.bn_scale(graph, v)["a"].tolist()
      [2.0, 1.0, 0.5]
    """
    check_graph(graph)
    scales = {norm.scale for norm in batch_norms(graph).values()}
    scores = collect(
        graph, variables, wanted=lambda slot: slot.path in scales, entry=abs, reduce=reduce
    )
    return not_empty(scores, by=NO_SCALE, fix=WITHOUT_SCALE)
