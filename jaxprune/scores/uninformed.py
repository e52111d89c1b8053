"""The control of every experiment: scores that know nothing."""

import math

import jax
import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import check_key
from jaxprune.errors import ScoreError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.members import Array, not_empty


def random(graph: ChannelGraph, key: jax.Array) -> dict[str, Array]:
    """Returns {group: f32[n]} of independent uniform numbers in [0, 1), for every group.

    Args:
      graph: what `jaxprune.trace` returned.
      key: a PRNG key; equal keys give equal scores.

    Raises:
      ScoreError: `key` is not a key, or the graph has no group.
    """
    check_graph(graph)
    check_key(key, ScoreError)
    not_empty(
        dict(graph.groups), by="the graph has no group", fix="print(graph) says what is frozen."
    )
    ends = np.cumsum([math.prod(group.shape) for group in graph.groups.values()]).tolist()
    draw = jax.random.uniform(key, (ends[-1],))
    if not isinstance(draw, Tracer):
        draw = np.asarray(draw)
    return {
        name: draw[end - math.prod(group.shape) : end].reshape(group.shape)
        for (name, group), end in zip(graph.groups.items(), ends, strict=True)
    }
