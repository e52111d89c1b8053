"""Masking, slicing and scattering back: pure transforms of any tree that mirrors the variables."""

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments import paths
from jaxprune.arguments.checks import is_array, kind_of
from jaxprune.cutting import entries
from jaxprune.errors import TreeError
from jaxprune.graph import ChannelGraph, Variable, check_graph
from jaxprune.keep.check import Keep, Widths, check_keep
from jaxprune.keep.kept import Kept, touched
from jaxprune.program import spaces as ax
from jaxprune.program import stacked_layers


def mask(graph: ChannelGraph, variables: Any, keep: Keep) -> Any:
    """Returns `variables` at full shape with the pruned entries zero.

    The masks of `keep` may be traced, so one compiled program serves every width.

    Args:
      graph: the channel graph of the network.
      variables: the variables, or any tree that mirrors them or a part of them: gradients,
        an average.
      keep: {group: bool[n]}, or bool[layers, n] where every layer of a stack has its own
        (`Group.layers`); groups that are absent stay whole.

    Raises:
      KeepError, TreeError: before anything is changed.
    """
    keep = check_keep(graph, keep, traced=True)
    spared = {
        (slot.path, name) for name in keep for slot in graph.groups[name].slots if not slot.masked
    }

    def apply(leaf: Any, variable: Variable) -> Any:
        zeroed = {name: v for name, v in keep.items() if (variable.path, name) not in spared}
        masks = [
            ax.select(space, zeroed) if touched(space, zeroed) else None for space in variable.axes
        ]
        return _where(masks, leaf, variable)

    return _map(graph, variables, {}, apply)


def sliced(graph: ChannelGraph, variables: Any, keep: Keep) -> Any:
    """Returns what `slice` does, without a word on variables that the traced call does not read."""
    return _take(graph, variables, {}, Kept(check_keep(graph, keep)).indices)


def _where(masks: Sequence[Any], leaf: Any, variable: Variable, base: Any = None) -> Any:
    """Returns `leaf` where all masks of its axes hold, elsewhere `base` or zero."""
    found = [
        stacked_layers.aligned(mask, variable.axes, axis)
        for axis, mask in enumerate(masks)
        if mask is not None
    ]
    if not found or isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    kept = reduce(operator.and_, found)
    host = isinstance(leaf, np.ndarray) and isinstance(kept, np.ndarray)
    xp = np if host else jnp
    if base is None:
        weak = getattr(leaf, "weak_type", False)
        return xp.where(kept, leaf, 0 if weak else xp.zeros((), leaf.dtype))
    base = xp.asarray(base)
    return xp.where(kept, leaf if leaf.dtype == base.dtype else leaf.astype(base.dtype), base)


def _take(graph: ChannelGraph, tree: Any, counts: Widths, find: Callable[[ax.Space], Any]) -> Any:
    """Returns the tree with the entries that `find(space)` chooses along every axis."""
    leaves, treedef = paths.flatten(tree)
    check_tree(graph, leaves, counts)
    found = {path: [find(space) for space in graph.variables[path].axes] for path in leaves}
    touched = [path for path in found if any(index is not None for index in found[path])]
    cuts = {path: entries.Cut.of(found[path], graph.variables[path].axes) for path in touched}
    cut = entries.take({path: leaves[path] for path in touched}, cuts)
    return jax.tree.unflatten(treedef, [cut.get(path, leaf) for path, leaf in leaves.items()])


def unslice(graph: ChannelGraph, small: Any, keep: Keep, into: Any = None) -> Any:
    """Returns the full tree with the entries of `small` in their places.

    Args:
      graph: the channel graph of the network.
      small: what `slice` gave for `keep`, or a tree that mirrors it.
      keep: {group: bool[n]}, concrete.
      into: a full tree that supplies the pruned entries; zeros where it is None.

    Raises:
      KeepError, TreeError: before anything is changed.
    """
    kept = Kept(check_keep(graph, keep))
    full = None if into is None else paths.flatten(into)[0]
    if full is not None:
        check_tree(graph, full, {})

    def fill(leaf: Any, variable: Variable) -> Any:
        base = None if full is None else full[variable.path]
        return _where([kept.mask(space) for space in variable.axes], leaf, variable, base)

    return _map(graph, _take(graph, small, kept.counts, kept.places), {}, fill)


def _map(graph: ChannelGraph, tree: Any, counts: Widths, fn: Callable[[Any, Variable], Any]) -> Any:
    """Applies `fn(leaf, variable)` to every leaf that is a variable of the graph."""
    leaves, treedef = paths.flatten(tree)
    check_tree(graph, leaves, counts)
    return jax.tree.unflatten(
        treedef, [fn(leaf, graph.variables[path]) for path, leaf in leaves.items()]
    )


def check_tree(graph: ChannelGraph, leaves: Mapping[str, Any], counts: Widths) -> None:
    """Raises TreeError unless every leaf is a variable of the graph in its shape at `counts`."""
    check_graph(graph)
    failures = []
    for path, leaf in leaves.items():
        variable = graph.variables.get(path)
        if variable is None:
            failures.append(f"{path!r} is not a variable of the graph")
            continue
        shape = tuple(ax.count(space, counts) for space in variable.axes)
        if not is_array(leaf):
            failures.append(f"{path!r} is {kind_of(leaf)}, the graph has an array of shape {shape}")
        elif np.shape(leaf) != shape:
            failures.append(f"{path!r} has shape {np.shape(leaf)}, the graph has {shape}")
    if failures:
        more = f"\n... and {len(failures) - 8} more" if len(failures) > 8 else ""
        raise TreeError(
            "the tree does not mirror the variables of the graph:\n"
            + "\n".join(failures[:8])
            + f"{more}\nFix: pass the variables that were traced, whole ({{'params': ...}}, not "
            "the params alone), or trace again."
        )
