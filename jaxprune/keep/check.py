"""Keeps and widths: which channels stay, and how many; checked here and nowhere else.

A keep is {group: bool[n]}, or bool[layers, n] for a group whose stacked layers have their own
channels (`Group.layers`). A mask may be an array of NumPy or JAX or a list of bools.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import check_mapping, kind_of
from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.numbers import is_integer, plain
from jaxprune.arguments.paths import near
from jaxprune.errors import KeepError
from jaxprune.graph import ChannelGraph, Group, check_graph
from jaxprune.program import spaces as ax

Keep = Mapping[str, Any]
BRANCH = "+"
"""What the name of every branch (`jp.branches`) starts with, unlike that of a group."""
Widths = Mapping[str, int]
_KEEP = "{group: bool[n]}, a bool for each channel that says whether it stays"
_SELECT = "Fix: select with jp.select, or compare the scores with a threshold."


def is_branch(name: Any) -> bool:
    """True of the name of a branch."""
    return isinstance(name, str) and name.startswith(BRANCH)


def check_keep(
    graph: ChannelGraph, keep: Keep, *, traced: bool = False, cuts: bool = True
) -> dict[str, Any]:
    """Returns the masks of `keep` as host arrays, traced ones as they are.

    Args:
      graph: the channel graph.
      keep: what is checked.
      traced: whether masks may be traced.
      cuts: whether stacked layers must keep the same number, as they must to be cut.

    Raises:
      KeepError: a mask names no group, has the wrong length or type, is empty, or is traced where
        it may not be; every failure is listed.
    """
    check_graph(graph)
    masks = host_masks(keep)
    failures = []
    for name, mask in masks.items():
        group = graph.groups.get(name) if isinstance(name, str) else None
        if group is not None and _is_plain(mask, group):
            continue
        if group is None:
            failures.append(_unknown(graph, name, "keep names"))
        elif why := _problem(f"keep for group {name!r}", keep[name], mask, group, traced, cuts):
            failures.append(why)
    failures = failures or list(_without_input(graph, masks))
    if failures:
        raise KeepError("\n".join(failures))
    return masks


def host_masks(keep: Any, what: str = "keep") -> dict[Any, Any]:
    """Returns {group: host array}; a traced mask as it is, what is not an array as None."""
    given = dict(check_mapping(keep, what, _KEEP, KeepError))
    other = {name: value for name, value in given.items() if type(value) is not np.ndarray}
    concrete = {n: v for n, v in other.items() if isinstance(v, jax.Array) and not _is_traced(v)}
    return given | {name: _host(value) for name, value in (other | _fetched(concrete)).items()}


def check_masks(keeps: Mapping[str, Any]) -> list[dict[Any, np.ndarray]]:
    """Returns the masks of keeps whose graph is not known, given as {what it is: keep}.

    Raises:
      KeepError: a mask is not a vector of bools, nor one for each layer, or is empty; all such are
        listed.
    """
    on_host = {what: host_masks(keep, what) for what, keep in keeps.items()}
    failures = [
        why
        for what, masks in on_host.items()
        for name, mask in masks.items()
        if (why := _problem(f"{what} for group {name!r}", keeps[what][name], mask))
    ]
    if failures:
        raise KeepError("\n".join(failures))
    return list(on_host.values())


def widths(graph: ChannelGraph, keep: Keep | Widths | None = None) -> dict[str, int]:
    """Returns {group: kept count} for every group; `keep` may hold masks or counts.

    The count of a group in stacked layers is that of one layer.

    Args:
      graph: the channel graph.
      keep: {group: bool[n]} or {group: count}; absent groups are whole. None is the dense network.

    Raises:
      KeepError: a mask does not fit its group, or a count is none from 1 to its size.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> keep = {"a": np.array([True, False, True, True])}
      >>> jp.widths(graph, keep)
      {'a': 3}
    """
    check_graph(graph)
    counts = {name: group.size for name, group in graph.groups.items()}
    if keep is None:
        return counts
    masks, failures = {}, []
    given = check_mapping(keep, "widths", _KEEP + ", or {group: count}", KeepError)
    for name, value in given.items():
        size = counts.get(name) if isinstance(name, str) else None
        if size is None:
            failures.append(_unknown(graph, name, "widths name"))
        elif type(value) is int or is_integer(value):
            counts[name] = plain(value)
            failures += [] if 1 <= counts[name] <= size else [_no_count(name, value, size)]
            if 1 <= counts[name] < (group := graph.groups[name]).least:
                failures.append(f"width of group {name!r} is {value}. {_chosen(group)}")
        elif isinstance(value, list | tuple) or np.ndim(value):
            masks[name] = value
        else:
            failures.append(_no_count(name, value, size))
    if failures:
        raise KeepError("\n".join(failures))
    return counts | {name: count(mask) for name, mask in check_keep(graph, masks).items()}


def _no_count(name: str, value: Any, size: int) -> str:
    return (
        f"width of group {name!r} is {kind_of(value)}, neither a keep, bool[{size}], nor a count "
        f"from 1 to {size}, the number of its channels. Fix: leave out what stays whole."
    )


def count(mask: np.ndarray) -> int:
    """Returns how many channels a mask keeps, in each layer if it has several."""
    return int(np.count_nonzero(mask if mask.ndim == 1 else mask[0]))


def _fetched(masks: dict[Any, Any]) -> dict[Any, Any]:
    """Copies the masks from their devices, all at once."""
    try:
        return fetch(masks)
    except (TypeError, ValueError, RuntimeError):  # keys, deleted arrays
        return dict.fromkeys(masks)


def _host(value: Any) -> Any:
    if _is_traced(value):
        return value
    try:
        return np.asarray(value)
    except (TypeError, ValueError):  # ragged lists, lists of traced values
        return None


def _is_plain(mask: Any, group: Group) -> bool:
    """True for what nearly all masks are: a vector of bools on the host, of which some are True."""
    vector = type(mask) is np.ndarray and mask.shape == (group.size,)
    return vector and mask.dtype == np.bool_ and int(np.count_nonzero(mask)) >= group.least


def _is_traced(value: Any) -> bool:
    return isinstance(value, Tracer)


def _problem(
    what: str,
    given: Any,
    mask: Any,
    group: Group | None = None,
    traced: bool = False,
    cuts: bool = True,
) -> str | None:
    """Says what is wrong with a mask, of a group if it is known."""
    if mask is None or mask.dtype != np.bool_:
        way_out = _way_to_a_mask(mask, group)
        return f"{what} is {kind_of(given)}, not bool: a keep is {_KEEP}. {way_out}"
    shape = np.shape(mask)
    if group is None and mask.ndim not in (1, 2):
        return (
            f"{what} is bool{list(shape)}, not a vector of bools or one for each layer. {_SELECT}"
        )
    if group is not None and shape not in {(group.size,), group.shape}:
        layers = f" in each of {group.layers} layers" if group.layers else ""
        return (
            f"{what} has shape {shape}, the group has {group.size} channels{layers}. "
            f"{_together(group, shape)}"
        )
    if _is_traced(mask):
        way_out = "Fix: slice outside of jax.jit, or jp.mask, whose masks may be traced."
        return None if traced else f"{what} is traced, but it decides shapes. {way_out}"
    if not mask.any(axis=-1).all():
        return (
            f"{what} keeps none of {shape[-1]} channels. Fix: keep at least one (min_channels=1 in "
            "jp.select)."
        )
    if group is not None and mask.sum(axis=-1).min() < group.least:
        return f"{what} keeps {mask.sum(axis=-1).min()} of {group.size} channels. {_chosen(group)}"
    if cuts and np.ptp(counts := mask.sum(axis=-1)):
        return (
            f"{what} keeps {counts.min()} to {counts.max()} channels, but its {len(counts)} layers "
            "are stacked and must keep the same number. Fix: select with jp.select, or take the "
            "best k of every layer."
        )
    return None


def _chosen(group: Group) -> str:
    return (
        f"The network chooses {group.least} of them (top_k). Fix: keep at least {group.least}, or "
        "lower the number that it chooses, and trace again."
    )


def _way_to_a_mask(given: Any, group: Group | None) -> str:
    """The way out for who gave a count, indices, or zeros and ones."""
    name, size = ("the group", "n") if group is None else (group.name, group.size)
    below = math.inf if group is None else group.size
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "iu" or not given.size:
        return _SELECT
    if given.ndim == 0 and 1 <= given <= below:
        share = f"prune_ratio={{{name!r}: 1 - {given} / {size}}}"
        return (
            f"Fix: for the {given} channels of the highest scores, jp.select.per_group(graph, "
            f"scores, {share})."
        )
    if given.ndim == 1 and given.size == size and given.min() >= 0 and given.max() <= 1:
        return "Fix: for zeros and ones, np.asarray(mask, bool)."
    if given.ndim == 1 and given.min() >= 0 and given.max() < below:
        indices = given.tolist() if given.size <= 8 else "indices"
        return f"Fix: for the channels at these indices, np.isin(np.arange({size}), {indices})."
    return _SELECT


def _together(group: Group, shape: tuple[int, ...]) -> str:
    """The way out of a mask of the wrong shape, such as one that would break rotated pairs."""
    for slot in sorted(group.slots, key=lambda slot: slot.role != "out"):
        if slot.space.size == math.prod(shape) != group.size:
            return (
                f"One channel is {slot.positions.shape[1]} positions of {slot.path} axis "
                f"{slot.axis}, which go together. Fix: one entry for each channel; jp.select."
            )
    return "Fix: recompute the scores on the variables that this graph was traced from."


def _without_input(graph: ChannelGraph, masks: Mapping[str, Any]) -> Iterator[str]:
    """Says which readers keep channels that their stream has lost."""
    if any(map(_is_traced, masks.values())):
        return
    for reading in graph.readings:
        missing = reading.missing(masks)
        if missing.size:
            stream = sorted({atom.name for atom in ax.atoms(reading.stream) if atom.name})
            yield (
                f"{reading.name} reads {missing.size} channels that its stream (groups {stream}) "
                f"does not keep: {missing[:5].tolist()}... Fix: take them from keep for "
                f"{reading.name!r} too, or protect the stream in jp.select."
            )


def _unknown(graph: ChannelGraph, name: Any, what: str) -> str:
    if is_branch(name):
        return (
            f"{what} branch {name!r}, and branches are not pruned here. Fix: jp.slice, jp.unslice, "
            "jp.slice_opt_state, jp.mask, jp.masked, jp.narrow, every resize, jp.verify, jp.spec, "
            "jp.compare, jp.compose and the costs take a keep with branches, and jp.gated a gate; "
            "for the rest of the library trace the network without them, "
            "jp.trace(jp.narrow(fn, graph, keep), small, x)."
        )
    return (
        f"{what} group {name!r}, which the graph does not have; near: "
        f"{near(name, graph.groups) or list(graph.groups)[:5]}. Fix: list the groups with "
        "print(graph)."
    )
