"""Constant absorption: what pruned channels still add moves into the next bias or running mean.

A channel whose BatchNorm scale is zero is not silent. It emits the BatchNorm's bias, the same at
every place of every example; an activation makes another constant of it, and the next convolution
adds that constant, times its kernel, to each of its own channels. Slicing takes the channel away,
and the constant with it.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.arguments.reduction import is_near
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.batch_norms import batch_norms
from jaxprune.keep.check import Keep, check_keep
from jaxprune.recover.leaves import concrete, plus
from jaxprune.recover.partial import zero
from jaxprune.recover.shifts import Outcome as Outcome
from jaxprune.recover.shifts import Shifts, pruned_entries


class Absorbed(NamedTuple):
    """The variables with the constants in their new places, and what became of each constant."""

    variables: Any
    outcomes: tuple[Outcome, ...]


def absorb_constants(graph: ChannelGraph, variables: Any, keep: Keep) -> Absorbed:
    """Returns full variables to slice, such that pruned channels take no constant with them.

    The scale of every BatchNorm counts as zero at pruned channels. Where every outcome is exact,
    `narrow` on `slice(graph, absorbed.variables, keep)` gives what the whole network gives with
    these scales at zero. An outcome is approximate where zero padding makes the constant another
    one at the borders; its mean over the places, the least-squares fit, is absorbed then. It is
    impossible, and the constant dropped as by plain slicing, where the channels are not constant
    (no BatchNorm, or a shortcut without one), where a nonlinear function comes before any bias or
    running mean, and where an operation is not followed (`while`, `cond`, `gather`, a `scan` over
    anything but stacked layers).

    Args:
      graph: the channel graph, traced in evaluation mode; cheapest at batch 1. Outcomes hold for
        inputs of the traced size, in any batch.
      variables: all variables, concrete.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole.

    Returns:
      The variables, of which only biases and running means differ, and the outcome for every
      pruned group at every operation that reads it: `print(*absorbed.outcomes, sep=chr(10))`.

    Raises:
      KeepError, TreeError: before anything is computed.

    Source: Ye et al., "Rethinking the Smaller-Norm-Less-Informative Assumption in Channel Pruning
    of Convolution Layers", ICLR 2018. Deviation: under zero padding the mean over the places, not
    the value away from the borders.

    Example:
      >>> import jax, numpy as np, jaxprune as jp
      >>> norm = {"scale": np.array([2.0, -1.0, 0.5]), "bias": np.ones(3)}
      >>> v = {"params": {"a": np.ones((2, 3)), "norm": norm, "b": np.ones((3, 1))}}
      >>> v["params"]["add"] = np.zeros(1)
      >>> v["batch_stats"] = {"norm": {"mean": np.zeros(3), "var": np.ones(3)}}
      >>> def fn(v, x):
      ...     p, past = v["params"], v["batch_stats"]["norm"]
      ...     x = (x @ p["a"] - past["mean"]) * jax.lax.rsqrt(past["var"] + 1e-5)
      ...     return (x * p["norm"]["scale"] + p["norm"]["bias"]) @ p["b"] + p["add"]
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> absorbed = jp.recover.absorb_constants(graph, v, {"a": np.array([True, True, False])})
      >>> absorbed.variables["params"]["add"].tolist()
      [1.0]
    """
    check_keep(graph, keep)
    leaves = concrete(graph, variables)
    pruned = {name: np.asarray(kept) for name, kept in keep.items() if not np.all(kept)}
    run = Shifts(graph, pruned)
    with _beside_accelerators(leaves):
        run.start(_silenced(graph, leaves, pruned))
    for path, delta in run.finish().items():
        leaves[path] = plus(leaves[path], delta)
    tree = jax.tree.structure(variables).unflatten(leaves.values())
    return Absorbed(tree, tuple(dict.fromkeys(run.outcomes)))


def _beside_accelerators(leaves: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """Variables stay where they are; what is computed of anything else is on the host."""
    if all(map(is_near, leaves.values())):
        return nullcontext()
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX was told to use accelerators alone
        return nullcontext()


def _silenced(graph: ChannelGraph, leaves: Mapping[str, Any], pruned: Keep) -> dict[str, Any]:
    """The leaves in the order of the graph, scales of BatchNorms zero at pruned channels."""
    scales = {norm.scale for norm in batch_norms(graph).values()}
    return {
        path: zero(leaves[path], pruned_entries(variable.axes, pruned))
        if path in scales
        else leaves[path]
        for path, variable in graph.variables.items()
    }
