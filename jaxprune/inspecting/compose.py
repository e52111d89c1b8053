"""One keep for a network that was pruned more than once."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import check_mapping, kind_of
from jaxprune.errors import KeepError
from jaxprune.graph import ChannelGraph, Variable, check_graph
from jaxprune.inspecting import branches_left, without_branches
from jaxprune.inspecting.without_branches import Kept as Parts
from jaxprune.inspecting.without_branches import Without
from jaxprune.keep.check import Keep, check_keep, host_masks, is_branch
from jaxprune.keep.compose import by_names, joined
from jaxprune.keep.kept import Kept
from jaxprune.program import spaces as ax

_GRAPHS = "Fix: graphs=(graph of the original, graph of the pruned network)"
_FACTOR = re.compile(r"\[\d+\.\d+\]$")
"""The end of the name of one of several groups of an axis."""


def compose(
    first: Keep, second: Keep, *, graphs: tuple[ChannelGraph, ChannelGraph] | None = None
) -> dict[str, np.ndarray]:
    """Returns the keep, in the original's indices, of pruning by `first` and then by `second`.

    Slicing by it equals slicing twice, so that a network pruned in many steps is
    `resize(module, graph, keep)` of the original module. Fold it over more than two keeps.

    A group goes by its first kernel. It has another name in the pruned network where that kernel
    went with a branch (`jp.branches`), or where one axis carries several groups (`[axis.factor]`)
    of which one was left with a single channel. With `graphs` groups and branches are the same if
    their variables are, whatever their names; without, names must not have changed.

    Args:
      first: {group: bool[n]} on the graph of the original, with branches as in `jp.slice`.
      second: {group: bool[m]} on the graph of the pruned network; m channels are kept by `first`.
        A group that is absent from either is whole there.
      graphs: the graph of the original and that of the pruned network, for which `first` and
        `second` were chosen.

    Returns:
      {group: bool[n]} of every group that either names; bool[layers, n] where one of the two has
      a mask for each layer. Branches that the first takes out stay out.

    Raises:
      KeepError: a mask is not a vector of bools, is empty, or is not as long as `first` keeps
        channels; names may have changed and there are no `graphs`, or the second is not of what
        the first leaves of the first; channels that are one group of the original are several of
        the pruned network, which do not lose the same.

    Example:
      >>> first = {"Dense_0/kernel": np.array([True, False, True, True])}
      >>> second = {"Dense_0/kernel": np.array([False, True, True])}
      >>> compose(first, second)
      {'Dense_0/kernel': array([False, False,  True,  True])}
    """
    if graphs is not None:
        return _by_variables(*_checked(graphs), first, second)
    parts = _parts(first, "first keep"), _parts(second, "second keep")
    composed = by_names(*(channels for channels, _ in parts))
    stay = [_stay(*item) for _, branches in parts for item in branches.items()]
    if renamed := _renamed(first) if second else None:
        raise KeepError(
            f"the first keep {renamed}, and then names of the pruned network may be others.\n"
            f"{_GRAPHS}, which tell groups by their variables."
        )
    return composed | dict(stay)


def _parts(keep: Keep, what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what a keep says of channels and of branches."""
    given = check_mapping(keep, what, "{group: bool[n], branch: bool}", KeepError)
    branches = {name: value for name, value in given.items() if is_branch(name)}
    return {name: value for name, value in given.items() if name not in branches}, branches


def _stay(name: str, value: Any) -> tuple[str, np.ndarray]:
    mask = None if isinstance(value, Tracer) else host_masks({name: value})[name]
    if mask is None or mask.dtype != np.bool_ or mask.ndim > 1:
        raise KeepError(
            f"keep for branch {name!r} is {kind_of(value)}, not bool or bool[steps].\n"
            "Fix: False takes it out."
        )
    return name, np.array(mask)


def _renamed(first: Keep) -> str | None:
    """Says what of a keep can give groups other names."""
    for name, value in first.items():
        if is_branch(name) and not np.all(value):
            return f"takes out branch {name!r}"
        if _FACTOR.search(name) and np.count_nonzero(value) == np.asarray(value)[..., 0].size:
            return f"leaves a single channel of {name!r}"
    return None


def _checked(graphs: Any) -> tuple[ChannelGraph, ChannelGraph]:
    if not isinstance(graphs, tuple | list) or len(graphs) != 2:
        raise KeepError(f"graphs must be two channel graphs, got {kind_of(graphs)}.\n{_GRAPHS}.")
    for graph in graphs:
        check_graph(graph)
    return graphs[0], graphs[1]


def _by_variables(
    graph: ChannelGraph, pruned: ChannelGraph, first: Keep, second: Keep
) -> dict[str, np.ndarray]:
    """Returns the keep of both cuts, whose groups and branches are told by their variables."""
    before, after = without_branches.split(graph, first), without_branches.split(pruned, second)
    kept = Kept(check_keep(graph, before.channels))
    again = Kept(check_keep(pruned, after.channels))
    gone = without_branches.without(graph, before.branches)
    if failures := list(_others(graph, pruned, kept, gone)):
        raise KeepError(
            "the second graph is not of what the first keep leaves of the network of the first:\n"
            + "\n".join(failures[:8])
            + f"\n{_GRAPHS}, on which the two keeps were chosen."
        )
    left = {
        (path, axis): mask
        for path, variable in pruned.variables.items()
        for axis, space in enumerate(graph.variables[path].axes)
        if (mask := _left(kept.mask(space), again.mask(variable.axes[axis]), gone.rows.get(path)))
        is not None
    }
    composed = {**kept.keep, **_of_groups(graph, left)}
    if failures := list(_torn(graph, pruned, Kept(composed), left, gone)):
        raise KeepError(
            "no keep of the original is both cuts:\n"
            + "\n".join(failures[:8])
            + "\nFix: cut alike what is one group of the original, or slice and resize by one keep "
            "after the other."
        )
    return check_keep(graph, composed) | _of_branches(graph, pruned, Parts(*before), after, gone)


def _others(graph: ChannelGraph, pruned: ChannelGraph, kept: Kept, gone: Without) -> Iterator[str]:
    """Says which variables are not what a keep leaves."""

    def shape(variable: Variable) -> tuple[int, ...]:
        rows = gone.rows.get(variable.path)
        small = kept.shape(variable)
        return small if rows is None else (int(np.count_nonzero(rows)), *small[1:])

    wanted = {p: shape(v) for p, v in graph.variables.items() if p not in gone.variables}
    found = {path: variable.shape for path, variable in pruned.variables.items()}
    for path in [*wanted, *(found.keys() - wanted.keys())]:
        if wanted.get(path) != found.get(path):
            yield (
                f"{path!r} has shape {found.get(path, 'none')}, the first keep leaves "
                f"{wanted.get(path, 'none of it')}"
            )


def _left(
    first: np.ndarray | None, second: np.ndarray | None, rows: np.ndarray | None
) -> np.ndarray | None:
    """What two keeps leave of the axis of a variable, of whose rows the first keeps some.

    None if all; bool[layers, n] if layers keep their own, and of layers that went as many.
    """
    if second is None:
        return first
    if rows is None or (second.ndim == 1 and (first is None or first.ndim == 1)):
        size = second.shape[-1]
        return joined(np.ones(size, bool) if first is None else first, second)
    size = second.shape[-1] if first is None else first.shape[-1]
    whole = np.broadcast_to(np.True_ if first is None else first, (rows.size, size)).copy()
    whole[rows] = joined(whole[rows], second)
    count = np.count_nonzero(second if second.ndim == 1 else second[0])
    whole[~rows] &= np.cumsum(whole[~rows], axis=-1) <= count
    return whole


def _of_groups(
    graph: ChannelGraph, left: Mapping[tuple[str, int], np.ndarray]
) -> dict[str, np.ndarray]:
    """{group: mask} where channels stay whose positions all do; masks of axes are given."""
    found: dict[str, Any] = {}
    for name, group in graph.groups.items():
        for slot in group.slots:
            if (mask := left.get((slot.path, slot.axis))) is not None:
                stay = mask[..., slot.positions].all(axis=-1)
                found[name] = found[name] & stay if name in found else stay
    return found


def _torn(
    graph: ChannelGraph,
    pruned: ChannelGraph,
    composed: Kept,
    left: Mapping[tuple[str, int], np.ndarray],
    gone: Without,
) -> Iterator[str]:
    """Says which axes would not keep what two keeps leave."""
    for path, variable in pruned.variables.items():
        rows = gone.rows.get(path, slice(None))
        for axis, space in enumerate(graph.variables[path].axes):
            masks = composed.mask(space), left.get((path, axis))
            ours, both = (np.True_ if m is None else m[rows] if m.ndim == 2 else m for m in masks)
            if np.any(ours != both):
                yield (
                    f"axis {axis} of {path!r} is {_named(variable.axes[axis])} in the pruned "
                    f"network, {_named(space)} in the original"
                )


def _named(space: ax.Space) -> str:
    words = {
        f"group {atom.name!r}" if atom.reason is None else f"whole ({atom.reason.text})"
        for atom in ax.atoms(space)
    }
    return ", ".join(sorted(words)) or "whole"


def _of_branches(
    graph: ChannelGraph, pruned: ChannelGraph, before: Parts, after: Parts, gone: Without
) -> dict[str, np.ndarray]:
    """{branch: which of its steps stay} of the original."""
    names = branches_left.names(graph, pruned, gone)
    composed: dict[str, Any] = {name: np.array(mask) for name, mask in before.branches.items()}
    failures = []
    for name, mask in after.branches.items():
        if np.all(mask):
            continue
        if name not in names:
            failures.append(f"branch {name!r}")
            continue
        place = names[name]
        composed.setdefault(place.name, np.ones(place.shape, bool))[place.steps] &= mask
    if failures:
        raise KeepError(
            f"it is not known which branches of the original are {', '.join(failures)} of the "
            "pruned network.\nFix: choose both on the graph of the original, or slice and resize "
            "by one keep after the other."
        )
    return composed
