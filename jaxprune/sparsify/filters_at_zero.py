"""Filters at zero, and nothing else: what reads them stays, so that they may grow again."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.core import Tracer

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_arrays, check_flag
from jaxprune.cutting.transforms import masked_slots
from jaxprune.errors import KeepError
from jaxprune.graph import ChannelGraph, Slot, check_graph
from jaxprune.groups.channels import located
from jaxprune.inspecting.batch_norms import batch_norms
from jaxprune.inspecting.makers import added, makers
from jaxprune.keep.check import Keep, check_keep

Slots = Mapping[str, Sequence[Slot]]


def soft_mask(
    graph: ChannelGraph,
    variables: Any,
    keep: Keep,
    *,
    biases: bool = False,
    spare: str | Sequence[str] = (),
) -> Any:
    """Returns the variables with the filters that make pruned channels at zero.

    `jp.mask` zeroes all that a channel owns, what reads it too, and then no gradient moves it any
    more. Here the readers, scales and variances stay, and what the filters of a pruned channel get
    from the loss lets it grow again. The derivative of the result is that of the variables
    themselves (straight through): in `loss(soft_mask(graph, params, keep))` what is at zero has the
    gradient that it has there, and the weights behind the zeros train on. A kernel that only passes
    channels on (of a depthwise convolution) stays too: behind a silent channel it has no say.

    Only filters are zero, as in the paper's code, and the channel goes on to emit its biases. With
    `biases=True` it is silent in eval mode: what is added to it (biases, running means) is gone,
    and `jp.slice` changes the outputs by rounding alone, wherever the activation of zero is zero.
    That is for the last step: the derivative of a ReLU at zero is zero, so that nothing behind a
    silent one grows. Where two filters are multiplied (the halves of a gated unit) and both are
    zero, neither has a gradient: spare one of them.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: the variables, or their `params` alone; running means are zeroed where they are.
      keep: {group: bool[n]}, or bool[layers, n], whose layers need not keep the same number; it
        may be traced. Absent groups are whole.
      biases: whether what is added to the channels becomes zero as well.
      spare: patterns of the kernels and biases that stay as they are; none by default.

    Raises:
      KeepError: the keep does not fit, or no kernel makes the channels of a group in it.
      PatternError: a pattern matches no kernel or bias.
      TreeError: the variables lack a kernel or a bias of these groups, or it has another shape.

    Source: He et al., "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks",
    IJCAI 2018, algorithm 1.

    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import jaxprune as jp
    >>> params = {"a": jnp.ones((1, 2)), "bias": jnp.ones(2), "b": jnp.ones((2, 1))}
    >>> fn = lambda p, x: (x @ p["a"] + p["bias"][None]) @ p["b"]
    >>> graph = jp.trace(fn, params, jnp.ones((1, 1)))
    >>> keep = {"a": np.array([True, False])}
    >>> small = jp.sparsify.soft_mask(graph, params, keep, biases=True)
    >>> small["a"].tolist(), small["bias"].tolist(), small["b"].ravel().tolist()
    ([[1.0, 0.0]], [1.0, 0.0], [1.0, 1.0])
    """
    keep = check_keep(graph, keep, traced=True, cuts=False)
    slots = zeroed_slots(graph, biases=biases, spare=spare)
    if without := [name for name in keep if name not in slots]:
        raise KeepError(
            f"soft_mask: no kernel makes the channels of groups {without[:5]}, or all are spared.\n"
            "Fix: leave them out of the keep; print(jp.explain(graph)) lists the slots."
        )
    check_arrays(variables, "soft_mask: the variables")
    leaves, treedef = paths.flatten(variables)
    places = placed("soft_mask", graph, slots, keep, leaves)
    dense = {path: leaves[place] for path, place in places.items()}
    zeroed = masked_slots(graph, dense, keep, slots)
    leaves |= {places[path]: _through(dense[path], leaf) for path, leaf in zeroed.items()}
    return jax.tree.unflatten(treedef, leaves.values())


def _through(dense: Any, zeroed: Any) -> Any:
    """Returns what is zeroed, with the derivative of what is dense."""
    return _straight(dense, zeroed) if isinstance(dense, Tracer) else zeroed


@jax.custom_jvp
def _straight(dense: jax.Array, zeroed: jax.Array) -> jax.Array:
    del dense
    return zeroed


_straight.defjvps(lambda moved, _out, _dense, _zeroed: moved, None)


def zeroed_slots(graph: ChannelGraph, *, biases: bool, spare: str | Sequence[str]) -> Slots:
    """Returns {group: slots that a pruned channel has at zero}, for the groups with a filter."""
    check_graph(graph)
    check_flag(biases, "biases")
    also = added(graph) if biases else {}
    every = {name: (*slots, *also.get(name, ())) for name, slots in makers(graph).items()}
    names = dict.fromkeys(slot.path for slots in every.values() for slot in slots)
    stay = paths.require(spare, names, what="spare pattern")
    left = {name: [s for s in slots if s.path not in stay] for name, slots in every.items()}
    return {n: slots for n, slots in left.items() if any(s.role == "out" for s in slots)}


def placed(
    name: str, graph: ChannelGraph, slots: Slots, groups: Any, leaves: Mapping[str, Any]
) -> dict[str, str]:
    """Returns {path in the graph: path in the tree} of what these groups have at zero.

    Statistics need not be there.

    Raises:
      TreeError: a kernel or a bias is absent, or has another shape.
    """
    means = {norm.mean for norm in batch_norms(graph).values()}
    wanted = [slot.path for group in groups for slot in slots[group]]
    needed = [path for path in wanted if path not in means or path in leaves]
    return located(name, graph, needed, leaves)
