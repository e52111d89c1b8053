"""Smaller BatchNorm scales in front of larger readers: the same network."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.arguments import paths
from jaxprune.arguments.dtypes import wide
from jaxprune.arguments.functions import check_inputs
from jaxprune.arguments.numbers import check_positive
from jaxprune.cutting.transforms import check_tree
from jaxprune.errors import GateError, PatternError
from jaxprune.gates.sites import read_once
from jaxprune.gates.unit_gates import fold
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.groups.channels import spread
from jaxprune.groups.constraints import Groups, few, scope
from jaxprune.inspecting.batch_norms import batch_norms

_TOLERANCE = 1e-3


def rescale_scales(
    graph: ChannelGraph,
    variables: Any,
    factor: float,
    *inputs: Any,
    only: Groups | None = None,
    protect: Groups = (),
) -> Any:
    """Returns the variables with scales and biases of BatchNorms times a factor, readers over it.

      scale <- factor * scale,   bias <- factor * bias,   w of the readers <- w / factor

    With an activation f for which f(factor * x) = factor * f(x) in between (ReLU, none) it is the
    same network, and the gradients of the scales are larger by 1 / factor beside their size: with a
    factor below 1 a soft threshold makes them zero sooner. The network is run on `inputs` with each
    group rescaled and with each at zero, and what changes by more than rounding beside what the
    group adds is refused.

    Args:
      graph: what `jaxprune.trace` returned.
      variables: all variables.
      factor: above 0; the paper takes 1e-3 to 1.
      *inputs: of the call, such as a few images.
      only: names, patterns or kinds of the only groups whose scales change; by default all that a
        BatchNorm scales and single weights read.
      protect: names, patterns or kinds of groups that stay as they are.

    Raises:
      JaxpruneError: `factor` is not above 0 and finite.
      PatternError: a pattern matches nothing, or no group is left.
      GateError: the outputs change, by an activation that is not homogeneous or by layers without
        BatchNorm that make the same channels; the groups are named.
      TreeError: the variables do not mirror the graph.

    Source: Ye et al., "Rethinking the Smaller-Norm-Less-Informative Assumption in Channel Pruning
    of Convolution Layers", ICLR 2018, section 4.

    >>> import jaxprune as jp
    >>> v = {"scale": jnp.array([1.0, 0.5]), "a": jnp.ones((1, 2)), "b": jnp.ones((2, 1))}
    >>> v |= {"mean": jnp.zeros(2), "var": jnp.ones(2)}
    >>> def fn(v, x):
    ...     x = (x @ v["a"] - v["mean"][None]) * jax.lax.rsqrt(v["var"] + 1e-5)[None]
    ...     return jax.nn.relu(x * v["scale"][None]) @ v["b"]
    >>> x = jnp.ones((1, 1))
    >>> after = rescale_scales(jp.trace(fn, v, x), v, 0.5, x)
    >>> after["scale"].tolist(), after["b"].ravel().tolist()
    ([0.5, 0.25], [2.0, 2.0])
    """
    check_graph(graph)
    factor = check_positive(factor, "rescale_scales: factor", "factor=0.01.")
    check_inputs(inputs, {})
    check_tree(graph, paths.flatten(variables)[0], {})
    norms = batch_norms(graph).values()
    scaled = {norm.scale for norm in norms} - {None}
    read = {slot.path for slot in read_once(graph)}
    named = [
        name
        for name, group in graph.groups.items()
        if any(slot.path in scaled for slot in group.slots)
        and any(slot.role == "in" and slot.path in read for slot in group.slots)
    ]
    if not named:
        raise PatternError(
            "rescale_scales: no group has a BatchNorm scale and single weights that read it.\n"
            "Fix: print(graph) shows the groups."
        )
    groups = scope(graph, named, only=only, protect=protect, purpose="that a BatchNorm scales")
    shapes = {name: group.shape for name, group in graph.groups.items()}

    def run(tree: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return graph.fn(tree, *inputs)

    def rescaled(names: list[str]) -> Any:
        leaves, treedef = paths.flatten(variables)
        moved = scaled | {norm.bias for norm in norms}
        for name, slot in ((n, slot) for n in names for slot in graph.groups[n].slots):
            if slot.path in moved:
                leaf = jnp.asarray(leaves[slot.path])
                values = jnp.full(shapes[name], factor, leaf.real.dtype)
                leaves[slot.path] = leaf * spread(values, slot, leaf)
        gates = {name: jnp.full(shapes[name], 1 / factor) for name in names}
        return fold(graph, jax.tree.unflatten(treedef, leaves.values()), gates)

    before = run(variables)

    def stays(name: str) -> bool:
        without = run(fold(graph, variables, {name: jnp.zeros(shapes[name])}))
        return _alike(before, run(rescaled([name])), without)

    alone = [name for name in groups if not stays(name)]
    after = rescaled(groups)
    if alone or not _alike(before, run(after), jax.tree.map(jnp.zeros_like, before)):
        raise GateError(
            f"rescale_scales: the outputs change by {few(alone or groups)}: not all of their "
            "channels are scaled by BatchNorms and f(factor * x) = factor * f(x).\n"
            f"Fix: protect={alone or groups}."
        )
    return after


def _alike(before: Any, after: Any, without: Any) -> bool:
    """True if outputs differ by rounding beside what they differ by from those without a group."""
    trees = map(jax.tree.leaves, (before, after, without))
    return all(_close(*map(jnp.asarray, leaves)) for leaves in zip(*trees, strict=True))


def _close(before: jax.Array, after: jax.Array, without: jax.Array) -> bool:
    if not jnp.issubdtype(before.dtype, jnp.inexact):
        return bool(jnp.array_equal(before, after))
    eps = float(jnp.finfo(before.dtype).eps)
    before, after, without = map(wide, (before, after, without))

    def most(values: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(values), initial=0)

    limit = max(_TOLERANCE, 8 * eps) * most(before - without) + 16 * eps * most(before)
    return bool(most(before - after) <= limit)
