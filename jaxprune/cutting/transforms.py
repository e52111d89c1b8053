"""Masking, slicing and scattering back: pure transforms of any tree that mirrors the variables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.arguments import paths
from jaxprune.arguments.checks import is_array, kind_of
from jaxprune.arguments.stored_arrays import in_memory
from jaxprune.cutting import absent, entries, shorter_state
from jaxprune.errors import KeepError, TreeError
from jaxprune.graph import ChannelGraph, Slot, Variable, check_graph
from jaxprune.inspecting import without_branches
from jaxprune.inspecting.last_weights import last_weights
from jaxprune.inspecting.without_branches import NOTHING, Lost, Without
from jaxprune.keep.check import Keep, Widths, check_keep
from jaxprune.keep.kept import Kept, touched
from jaxprune.program import spaces as ax
from jaxprune.program import stacked_layers

Arrays = Mapping[str, Variable]
"""{path: what the graph says of the array}."""


def mask(graph: ChannelGraph, variables: Any, keep: Keep, *, state: str | int | None = None) -> Any:
    """Returns `variables` at full shape with the pruned entries zero.

    The masks of `keep` may be traced, so one compiled program serves every width.

    Args:
      graph: the channel graph of the network.
      variables: the variables, or any tree that mirrors them or a part of them: gradients,
        an average.
      keep: {group: bool[n]}, or bool[layers, n] where every layer of a stack has its own
        (`Group.layers`); groups that are absent stay whole. {branch: False} makes the last weights
        of a branch zero (`jp.branches`), and what is added behind them: nothing is then added to
        its stream, while all of it is still computed. bool[steps] in a scan.
      state: the name of the state that is given in the place of variables; as in `jp.slice`.

    Raises:
      KeepError: a mask does not fit, or no zeros in the variables of a branch are the network
        without it: its last weights are read elsewhere too, or what comes behind them is not
        linear. TreeError. Both before anything is changed.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> keep = {"a": np.array([True, False, True, True])}
      >>> jp.mask(graph, v, keep)["a"].tolist()
      [[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]]
    """
    parts = without_branches.split(graph, keep, traced=True)
    keep = check_keep(graph, parts.channels, traced=True)
    silent = _silenced(graph, parts.branches) if state is None else {}
    known = arrays_of(graph, state)
    spared = {
        (slot.path, name) for name in keep for slot in graph.groups[name].slots if not slot.masked
    }

    def masks(variable: Variable) -> list[Any]:
        sparing = state is None
        zeroed = {n: v for n, v in keep.items() if not sparing or (variable.path, n) not in spared}
        return _masks(zeroed, variable)

    leaves, treedef = paths.flatten(variables)
    _check_arrays(known, leaves, {}, state)
    kept = {path: masks(known[path]) for path in leaves}
    filled = _filled(known, leaves, kept)
    for path in filled.keys() & silent.keys():
        for stays in silent[path]:
            filled[path] = _rows_where(stays, filled[path])
    return jax.tree.unflatten(treedef, filled.values())


def _silenced(graph: ChannelGraph, stay: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Returns {path of a last weight: what says whether it stays}, of branches that may go.

    Raises:
      KeepError: a branch has no last weights.
    """
    found: dict[str, list[Any]] = {}
    failures = []
    for name, mask in stay.items():
        if not isinstance(mask, Tracer) and np.all(mask):
            continue
        last = last_weights(graph)[name]
        if isinstance(last, str):
            failures.append(f"branch {name!r}: {last}")
            continue
        for path in last:
            found.setdefault(path, []).append(mask)
    if failures:
        raise KeepError(
            "no zeros in the variables are the network without these branches:\n"
            + "\n".join(failures)
            + "\nFix: jp.masked(fn, graph)(variables, keep, x) or jp.gated, which leave them out "
            "at the sum."
        )
    return found


def _rows_where(stays: Any, leaf: Any) -> Any:
    """Returns a leaf, or its rows, with zeros where it does not stay."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    rows = np.reshape if isinstance(stays, np.ndarray) else jnp.reshape
    where = rows(stays, np.shape(stays) + (1,) * (np.ndim(leaf) - np.ndim(stays)))
    if isinstance(leaf, np.ndarray) and isinstance(where, np.ndarray):
        return np.where(where, leaf, np.zeros((), leaf.dtype))
    return jnp.where(where, leaf, jnp.zeros((), leaf.dtype))


def masked_leaf(keep: Keep, leaf: Any, variable: Variable) -> Any:
    """Returns an array with the pruned entries zero."""
    masked = _filled({"": variable}, {"": leaf}, {"": _masks(keep, variable)})
    return masked[""]


def masked_slots(
    graph: ChannelGraph, leaves: Mapping[str, Any], keep: Keep, slots: Mapping[str, Sequence[Slot]]
) -> dict[str, Any]:
    """Returns {path: leaf} with zeros at the pruned channels of these slots, and of no others.

    Args:
      graph: the channel graph.
      leaves: {path in the graph: array}, each of the graph's shape.
      keep: {group: mask}, checked; it may be traced.
      slots: {group: the slots that become zero}; what is not among the leaves is left out.
    """
    named: dict[str, dict[int, dict[str, Any]]] = {}
    for name, mask in keep.items():
        for slot in slots.get(name, ()):
            if slot.path in leaves:
                named.setdefault(slot.path, {}).setdefault(slot.axis, {})[name] = mask
    kept = {path: [None] * len(graph.variables[path].axes) for path in leaves}
    for path, axes in named.items():
        for axis, masks in axes.items():
            kept[path][axis] = ax.select(graph.variables[path].axes[axis], masks)
    return _filled(graph.variables, leaves, kept)


def _masks(keep: Keep, variable: Variable) -> list[Any]:
    """Returns what every axis of a variable keeps; None where no group is named."""
    return [ax.select(space, keep) if touched(space, keep) else None for space in variable.axes]


def _filled(
    known: Arrays, leaves: Mapping[str, Any], kept: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """Returns the leaves with zeros where a mask says so."""
    touched = [path for path in leaves if any(mask is not None for mask in kept[path])]
    cuts = {
        path: entries.Cut.of([None] * len(kept[path]), known[path].axes, kept[path])
        for path in touched
    }
    filled = entries.take({path: leaves[path] for path in touched}, cuts)
    return {path: filled[path] if path in filled else in_memory(leaves[path]) for path in leaves}


def sliced(
    graph: ChannelGraph,
    variables: Any,
    keep: Keep,
    *,
    state: str | int | None = None,
    fit: bool = False,
) -> Any:
    """Returns what `slice` does, without a word on variables that the traced call does not read."""
    parts = without_branches.split(graph, keep)
    kept, known = Kept(check_keep(graph, parts.channels)), arrays_of(graph, state)
    leaves, treedef = paths.flatten(variables)
    _check_arrays(known, leaves, {}, state)
    small = jax.tree.unflatten(treedef, _taken(known, leaves, kept.indices, fit=fit).values())
    if all(map(np.all, parts.branches.values())):
        return small
    gone = without_branches.without(graph, parts.branches)
    return without(small, gone if state is None else gone.state.get(str(state), NOTHING))


def without(small: Any, gone: Without | Lost) -> Any:
    """Returns a tree without the variables, and the rows of stacked ones, that go with branches."""
    leaves, treedef = paths.flatten(small)
    rows = {
        path: kept
        for path, kept in gone.rows.items()
        if path in leaves and np.shape(leaves[path])[:1] == kept.shape
    }
    cuts = {path: entries.Cut.rows(kept, np.ndim(leaves[path])) for path, kept in rows.items()}
    fewer = entries.take({path: leaves[path] for path in rows}, cuts)
    return absent.without_leaves(
        jax.tree.unflatten(treedef, (leaves | fewer).values()), gone.variables
    )


def arrays_of(graph: ChannelGraph, state: str | int | None) -> Arrays:
    """Returns {path: Variable} of the variables, or of the state of that name.

    Raises:
      TreeError: the graph has no such state.
    """
    check_graph(graph)
    if state is None:
        return graph.variables
    if str(state) not in graph.state:
        raise TreeError(
            f"the graph has no state {state!r}; it has {list(graph.state)}.\n"
            f"Fix: trace(..., state={state!r}), where the call gives that input back."
        )
    return graph.state[str(state)].variables


def _taken(
    known: Arrays,
    leaves: Mapping[str, Any],
    find: Callable[[ax.Space], Any],
    kept: Callable[[ax.Space], Any] | None = None,
    *,
    into: Mapping[str, Any] | None = None,
    fit: bool = False,
) -> dict[str, Any]:
    """Returns the leaves with the entries that `find(space)` chooses along every axis.

    Of these `kept(space)` stay; in the place of others stands `into`, or zero.
    """
    cuts = {}
    for path in leaves:
        axes = known[path].axes
        indices = [find(space) for space in axes]
        if any(index is not None for index in indices):
            cuts[path] = entries.Cut.of(indices, axes, map(kept, axes) if kept else ())
    cut = entries.take({path: leaves[path] for path in cuts}, cuts, into=into, fit=fit)
    return {path: cut[path] if path in cut else in_memory(leaves[path]) for path in leaves}


def unslice(
    graph: ChannelGraph,
    small: Any,
    keep: Keep,
    into: Any = None,
    *,
    state: str | int | None = None,
) -> Any:
    """Returns the full tree with the entries of `small` in their places.

    Args:
      graph: the channel graph of the network.
      small: what `slice` gave for `keep`, or a tree that mirrors it.
      keep: {group: bool[n]}, concrete; with branches as in `jp.slice`.
      into: a full tree that supplies the pruned entries; zeros where it is None.
      state: the name of the state that is given in the place of variables; as in `jp.slice`.

    Raises:
      KeepError, TreeError: before anything is changed.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> keep = {"a": np.array([True, False, True, True])}
      >>> jp.unslice(graph, jp.slice(graph, v, keep), keep)["a"].tolist()
      [[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]]
    """
    parts = without_branches.split(graph, keep)
    kept, known = Kept(check_keep(graph, parts.channels)), arrays_of(graph, state)
    full = None if into is None else paths.flatten(into)[0]
    if full is not None:
        _check_arrays(known, full, {}, state)
        full = {path: in_memory(leaf) for path, leaf in full.items()}

    def widened(small: Any) -> Any:
        leaves, treedef = paths.flatten(small)
        _check_arrays(known, leaves, kept.counts, state)
        wide = _taken(known, leaves, kept.places, kept.mask, into=full)
        return jax.tree.unflatten(treedef, wide.values())

    if all(map(np.all, parts.branches.values())):
        return widened(small)
    gone = without_branches.without(graph, parts.branches)
    part = gone if state is None else gone.state.get(str(state), NOTHING)

    def empty(leaves: Mapping[str, Any]) -> Any:
        if state is not None:
            return shorter_state.empty(graph, str(state), leaves)
        zeros = [np.zeros(v.shape, v.dtype) for v in graph.variables.values()]
        return jax.tree.unflatten(graph.treedef, zeros)

    return absent.with_leaves(known, small, part, full, into, widened, empty)


def check_tree(graph: ChannelGraph, leaves: Mapping[str, Any], counts: Widths) -> None:
    """Raises TreeError unless every leaf is a variable of the graph in its shape at `counts`."""
    check_graph(graph)
    _check_arrays(graph.variables, leaves, counts)


def _check_arrays(
    known: Arrays, leaves: Mapping[str, Any], counts: Widths, state: str | int | None = None
) -> None:
    """Raises TreeError unless every leaf is one of the known arrays in its shape at `counts`.

    State may have other sizes where nothing is pruned, such as its batch and its length.
    """
    failures = []
    for path, leaf in leaves.items():
        variable = known.get(path)
        if variable is None:
            what = "a variable of the graph" if state is None else f"of state {state!r}"
            failures.append(f"{path!r} is not {what}")
            continue
        shape = tuple(ax.count(space, counts) for space in variable.axes)
        if state is not None and is_array(leaf) and np.ndim(leaf) == len(shape):
            shape = at_call(variable, np.shape(leaf), shape)
        if not is_array(leaf):
            failures.append(f"{path!r} is {kind_of(leaf)}, the graph has an array of shape {shape}")
        elif np.shape(leaf) != shape:
            failures.append(f"{path!r} has shape {np.shape(leaf)}, the graph has {shape}")
    if failures:
        more = f"\n... and {len(failures) - 8} more" if len(failures) > 8 else ""
        which = "variables" if state is None else f"state {state!r}"
        fix = "Fix: pass the state as the call takes it."
        if state is None:
            fix = (
                "Fix: pass the variables that were traced, whole ({'params': ...}, not the params "
                "alone), or trace again."
            )
        raise TreeError(
            f"the tree does not mirror the {which} of the graph:\n"
            + "\n".join(failures[:8])
            + f"{more}\n{fix}"
        )


def at_call(state: Variable, shape: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of state in a call: `sizes` where it is pruned, else that of the call."""
    pairs = zip(state.axes, sizes, shape, strict=True)
    return tuple(
        size if stacked_layers.stack(space) or any(a.name for a in ax.atoms(space)) else here
        for space, size, here in pairs
    )
