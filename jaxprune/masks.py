"""Masking, slicing and scattering back: pure transforms of any tree that mirrors the variables."""

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import _cut, paths, stacks, untied
from jaxprune import axes as ax
from jaxprune._arguments import is_array, kind_of
from jaxprune.check_spec import check_spec
from jaxprune.description import describe, versions
from jaxprune.errors import JaxpruneError, KeepError, TreeError
from jaxprune.graph import ChannelGraph, Variable, check_graph
from jaxprune.keep import FORMAT, Keep, Widths, check_keep, count, spec_problems
from jaxprune.keep import widths as widths


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
            ax.select(space, zeroed) if _touched(space, zeroed) else None for space in variable.axes
        ]
        return _where(masks, leaf, variable)

    return _map(graph, variables, {}, apply)


def slice(
    graph: ChannelGraph,
    variables: Any,
    keep: Keep,
    *,
    rescale: bool | Callable[..., Any] = False,
) -> Any:
    """Returns `variables` without the pruned entries: a smaller tree of the same structure.

    Host arrays are cut on the host; arrays on devices by one jitted program for the whole tree,
    under their own shardings; `jax.ShapeDtypeStruct`s give `jax.ShapeDtypeStruct`s. Differentiable
    in `variables`.

    Args:
      graph: the channel graph of the network.
      variables: the variables, or any tree that mirrors them or a part of them.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole.
      rescale: multiply weights such that the resized network equals the masked one also where it
        divides by a width (the root of the head size, a mean over channels). Give the resized
        network `lambda v, x: model2.apply(v, x)` where True does not find it. Not for `narrow`,
        which keeps such constants whole; see `jaxprune.rescale.factors`.

    Raises:
      KeepError: a mask does not fit its group.
      TreeError: `variables` does not mirror the graph, or the mesh does not divide a kept width.
      ResizeError: no factors on the weights make the networks equal.

    Warns:
      UnreadWarning: the traced call does not read variables that might go with what is pruned.
    """
    resized = None if isinstance(rescale, bool) else rescale
    if not (resized is None or callable(resized)) or rescale is None:
        raise JaxpruneError(
            f"rescale must be True, False or the resized network, got {kind_of(rescale)}.\n"
            "Fix: rescale=lambda v, x: model2.apply(v, x)."
        )
    small = sliced(graph, variables, keep)
    if graph.unread:
        untied.warn(graph, keep, "jp.slice", paths.flatten(variables)[0])
    if rescale is False:
        return small
    from jaxprune import rescale as rescaling

    return rescaling.rescale(graph, small, keep, resized)


def sliced(graph: ChannelGraph, variables: Any, keep: Keep) -> Any:
    """Returns what `slice` does, without a word on variables that the traced call does not read."""
    return _take(graph, variables, {}, Kept(check_keep(graph, keep)).indices)


class Kept:
    """What every space keeps under one keep, each mask computed once."""

    def __init__(self, keep: Keep):
        self.keep = {name: np.asarray(value) for name, value in keep.items()}
        self.counts = {name: count(value) for name, value in self.keep.items()}
        self._found: dict[int, np.ndarray | None] = {}
        self._spaces: list[ax.Space] = []  # holds the ids in use

    def mask(self, space: ax.Space) -> np.ndarray | None:
        """bool[n] or bool[layers, n], which positions stay; None if all do."""
        if id(space) not in self._found:
            chosen = ax.select(space, self.keep) if _touched(space, self.keep) else None
            self._found[id(space)] = None if chosen is None or chosen.all() else chosen
            self._spaces.append(space)
        return self._found[id(space)]

    def indices(self, space: ax.Space) -> np.ndarray | None:
        """int[k] or int[layers, k], the kept positions along an axis; None if it stays whole."""
        mask = self.mask(space)
        return None if mask is None else stacks.rows(mask)

    def places(self, space: ax.Space) -> np.ndarray | None:
        """int[n] or int[layers, n], of every position the place of the nearest kept one."""
        mask = self.mask(space)
        return None if mask is None else np.maximum(np.cumsum(mask, axis=-1) - 1, 0)

    def size(self, space: ax.Space) -> int:
        """The kept size of an axis."""
        return ax.count(space, self.counts)

    def shape(self, variable: Variable) -> tuple[int, ...]:
        """The kept shape of a variable."""
        return tuple(map(self.size, variable.axes))


def _touched(space: ax.Space, keep: Keep) -> bool:
    return any(atom.name in keep for atom in ax.atoms(space))


def _where(masks: Sequence[Any], leaf: Any, variable: Variable, base: Any = None) -> Any:
    """Returns `leaf` where all masks of its axes hold, elsewhere `base` or zero."""
    found = [
        stacks.aligned(mask, variable.axes, axis)
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
    cuts = {path: _cut.Cut.of(found[path], graph.variables[path].axes) for path in touched}
    cut = _cut.take({path: leaves[path] for path in touched}, cuts)
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


def spec(graph: ChannelGraph, keep: Keep) -> dict[str, Any]:
    """Returns the JSON value that says what was cut of which network; see `check_spec`.

    It travels with every checkpoint.
    """
    return kept_to_json(graph, keep) | {"description": describe(graph)}


def kept_to_json(graph: ChannelGraph, keep: Keep) -> dict[str, Any]:
    """Returns the JSON value that says what was cut, without a description of the network."""
    check_keep(graph, keep)
    groups = {
        name: {
            "size": group.size,
            "kept": stacks.rows(np.asarray(keep.get(name, np.ones(group.size, bool)))).tolist(),
        }
        for name, group in graph.groups.items()
    }
    return {"format": FORMAT, "groups": groups, "versions": versions()}


def keep_from_spec(
    spec: Mapping[str, Any], graph: ChannelGraph | None = None
) -> dict[str, np.ndarray]:
    """Returns {group: bool[n]} of a spec, bool[layers, n] where layers keep their own.

    Args:
      spec: what `jaxprune.spec` gave.
      graph: that of the network before it was pruned, which must be the one of the spec.

    Raises:
      KeepError: this is not what `jp.spec` gave.
      SpecError: the network of the graph is another one; see `check_spec`.

    Warns:
      SpecWarning: the call or the version is another one, and the program differs.
    """
    if problems := spec_problems(spec):
        fix = "Fix: pass the value of jp.spec(graph, keep), or restored.spec of a checkpoint."
        raise KeepError("\n".join([*problems[:8], fix]))
    if graph is not None:
        check_spec(graph, spec, stacklevel=3)
    keep = {}
    for name, group in spec["groups"].items():
        kept = np.asarray(group["kept"])
        keep[name] = np.zeros((*kept.shape[:-1], group["size"]), bool)
        np.put_along_axis(keep[name], kept, True, axis=-1)
    return keep
