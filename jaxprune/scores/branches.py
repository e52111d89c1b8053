"""Scores of branches: how much a residual sum needs what it adds to its stream.

They are {branch: f32[]}, f32[steps] for the branches of a scan, higher means keep. They are not
comparable with scores of channels; `jp.select.depth` takes branches out by the loss itself.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_callable, check_mapping, kind_of
from jaxprune.errors import ScoreError
from jaxprune.gates.branch_gates import gate_places
from jaxprune.gates.stream_changes import branch_changes
from jaxprune.graph import ChannelGraph
from jaxprune.groups.members import Array
from jaxprune.groups.scored import shape_of_numbers
from jaxprune.inspecting.branches import branches


def block_influence(
    fn: Callable[..., Any], graph: ChannelGraph, variables: Any, *inputs: Any, **keywords: Any
) -> dict[str, Array]:
    """Returns {branch: 1 - mean cosine} of the stream before and after the branch is added.

    The cosine is along the last axis, the mean over all others; zeros count as a stream that
    does not change. Add the results up over batches.

    Args:
      fn: the function that was traced, or any variant that takes the same variables.
      graph: the channel graph.
      variables: the variables.
      *inputs: the inputs of `fn`, a batch of data.
      **keywords: its keyword arguments.

    Raises:
      ScoreError: the network has no branches.
      TreeError: the variables are not those of the graph.

    Source: Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You
    Expect", 2024, equation 1, there for whole layers, here for every residual sum.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> v = {"up": np.ones((2, 8)), "down": np.eye(8, 2), "head": np.ones((2, 1))}
      >>> fn = lambda v, x: (x + x @ v["up"] @ v["down"]) @ v["head"]
      >>> x = np.array([[1.0, 0.0]])
      >>> scores = jp.scores.block_influence(fn, jp.trace(fn, v, x), v, x)
      >>> {name: round(float(score), 3) for name, score in scores.items()}
      {'+down': 0.106}
    """
    _check_some(graph)
    noted = branch_changes(fn, graph, _turned)
    return noted(variables, *inputs, **keywords)[1]


def _turned(before: Any, after: Any) -> Any:
    """1 - the mean cosine along the last axis."""
    wide = jnp.promote_types(before.dtype, jnp.float32)
    a, b = before.astype(wide), after.astype(wide)
    size = jnp.sqrt(jnp.sum(a * a, axis=-1) * jnp.sum(b * b, axis=-1))
    cosine = jnp.where(size > 0, jnp.sum(a * b, axis=-1) / jnp.where(size > 0, size, 1), 1)
    return 1 - jnp.mean(cosine)


def taylor_branch(graph: ChannelGraph, gradients: Mapping[str, Any]) -> dict[str, Array]:
    """Returns {branch: |dL/dg|}: the first-order change of the loss if the branch were silent.

    Add the results up over batches. Near a minimum of the loss it orders branches badly, since what
    one example gains another loses: take the gradients of every example, and give their absolute
    values.

    Args:
      graph: the channel graph.
      gradients: {branch: f32[], or f32[steps]}, the gradients at `jp.gates.unit_branches(graph)`
        of the loss through `jp.gated`.

    Raises:
      ScoreError: a branch is unknown, its gradient has another shape, or there are none.

    Example:
      >>> import jax, numpy as np, jaxprune as jp
      >>> v = {"up": np.ones((4, 8)), "down": np.ones((8, 4)), "head": np.ones((4, 2))}
      >>> fn = lambda v, x: (x + x @ v["up"] @ v["down"]) @ v["head"]
      >>> graph = jp.trace(fn, v, np.ones((1, 4)))
      >>> loss = lambda gates: jp.gated(fn, graph)(v, gates, np.ones((1, 4))).sum()
      >>> slopes = jax.grad(loss)(jp.gates.unit_branches(graph))
      >>> {name: float(score) for name, score in jp.scores.taylor_branch(graph, slopes).items()}
      {'+down': 256.0}
    """
    known = branches(graph)
    given = check_mapping(gradients, "gradients", "{branch: f32[], or f32[steps]}", ScoreError)
    failures = []
    for name, gradient in given.items():
        shape = shape_of_numbers(gradient)
        if name not in known:
            failures.append(f"branch {name!r}: the graph has no such branch")
        elif shape is None or tuple(shape) != known[name].shape:
            got = kind_of(gradient) if shape is None else shape
            failures.append(f"branch {name!r}: expected {known[name].shape}, got {got}")
    if failures or not given:
        fix = "Fix: jax.grad of the loss by jp.gates.unit_branches(graph)."
        raise ScoreError("\n".join(["these are not gradients of branches.", *failures, fix]))
    return {name: jnp.abs(jnp.asarray(gradient)) for name, gradient in given.items()}


def removal_loss(graph: ChannelGraph, loss: Callable[[Any], Any]) -> dict[str, Array]:
    """Returns {branch: the loss without it}, each branch taken out alone, by one program.

    Args:
      graph: the channel graph.
      loss: gates of the branches, as `jp.gates.unit_branches` gives them, to a number: a loss of
        the network on data, or its divergence from the whole network.

    Raises:
      JaxpruneError: `loss` is not a function.
      ScoreError: the network has no branches.

    Example:
      >>> import jax, numpy as np, jaxprune as jp
      >>> v = {"up": np.ones((4, 8)), "down": np.ones((8, 4)), "head": np.ones((4, 2))}
      >>> fn = lambda v, x: (x + x @ v["up"] @ v["down"]) @ v["head"]
      >>> graph = jp.trace(fn, v, np.ones((1, 4)))
      >>> loss = lambda gates: jp.gated(fn, graph)(v, gates, np.ones((1, 4))).sum()
      >>> {name: float(score) for name, score in jp.scores.removal_loss(graph, loss).items()}
      {'+down': 8.0}
    """
    check_callable(loss, "loss", "loss=lambda gates: the loss of jp.gated(fn, graph).")
    _check_some(graph)
    places = gate_places(graph)
    count = sum(map(np.size, places.values()))

    def without(row: Any) -> Any:
        return loss({name: row[place] for name, place in places.items()})

    rows = 1 - jnp.eye(count, dtype=jnp.float32)
    losses = jax.jit(lambda rows: jax.lax.map(without, rows))(rows)
    return {name: losses[place] for name, place in places.items()}


def _check_some(graph: ChannelGraph) -> None:
    if not branches(graph):
        raise ScoreError(
            "the network has no branches.\nFix: jp.explain(graph, '+') says why a sum has none."
        )
