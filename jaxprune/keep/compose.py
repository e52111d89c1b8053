"""One keep for a network that was pruned more than once."""

from collections.abc import Mapping

import numpy as np
from jax.core import Tracer

from jaxprune.arguments.checks import kind_of
from jaxprune.errors import KeepError
from jaxprune.keep.check import Keep, check_masks, is_branch


def compose(first: Keep, second: Keep) -> dict[str, np.ndarray]:
    """Returns the keep, in the original's indices, of pruning by `first` and then by `second`.

    Slicing by it equals slicing twice, so that a network pruned in many steps is
    `resize(module, graph, keep)` of the original module. Fold it over more than two keeps.

    A group keeps its name when the network is pruned, as long as two of its channels are left: an
    axis of size 1 is not a group any more. Where one axis carries several groups (`[axis.factor]`),
    the others are renamed with it.

    Args:
      first: {group: bool[n]} on the graph of the original.
      second: {group: bool[m]} on the graph of the pruned network; m channels are kept by `first`.
        A group that is absent from either is whole there, so one that only `second` names has
        the original's size; only `graph` knows whether it exists, and says so where it is used.

    Returns:
      {group: bool[n]} of every group that either names; bool[layers, n] where one of the two has
      a mask for each layer. Branches (`jp.branches`) that the first takes out stay out.

    Raises:
      KeepError: a mask is not a vector of bools, is empty, or is not as long as `first` keeps
        channels.

    Example:
      >>> first = {"Dense_0/kernel": np.array([True, False, True, True])}
      >>> second = {"Dense_0/kernel": np.array([False, True, True])}
      >>> compose(first, second)
      {'Dense_0/kernel': array([False, False,  True,  True])}
    """
    channels = [_of_channels(keep) for keep in (first, second)]
    keep, again = check_masks({"first keep": channels[0], "second keep": channels[1]})
    branches = _branches(first, second)
    keep = {name: kept.copy() for name, kept in keep.items()}
    failures = [
        f"second keep for group {name!r} has shape {again[name].shape}, the first keeps "
        f"{kept.sum(axis=-1).tolist()} of {kept.shape[-1]} channels. Fix: select on the graph of "
        "the pruned network, jp.trace(resized.apply, small, x)."
        for name, kept in keep.items()
        if name in again and not _follows(kept, again[name])
    ]
    if failures:
        raise KeepError("\n".join(failures))
    for name, kept in again.items():
        if name in keep:
            lead = np.broadcast_shapes(keep[name].shape[:-1], kept.shape[:-1])
            whole = np.broadcast_to(keep[name], (*lead, keep[name].shape[-1])).copy()
            whole[whole] = np.broadcast_to(kept, (*lead, kept.shape[-1])).reshape(-1)
            keep[name] = whole
        else:
            keep[name] = kept.copy()
    return keep | branches


def _of_channels(keep: Keep) -> Keep:
    """A keep without its branches; what is not a mapping as it is."""
    if not isinstance(keep, Mapping):
        return keep
    return {name: mask for name, mask in keep.items() if not is_branch(name)}


def _branches(first: Keep, second: Keep) -> dict[str, np.ndarray]:
    """Joins what two keeps say of branches.

    Raises:
      KeepError: the second names kernels of which the first took a branch out: they may have
        another number now.
    """
    before, after = ({n: v for n, v in keep.items() if is_branch(n)} for keep in (first, second))
    values = {**before, **after}
    failures = [
        f"keep for branch {name!r} is {kind_of(value)}, not bool or bool[steps]. Fix: False takes "
        "it out."
        for name, value in values.items()
        if isinstance(value, Tracer) or np.asarray(value).dtype != np.bool_ or np.ndim(value) > 1
    ]
    cut = {name.split("#")[0] for name, value in before.items() if not np.all(value)}
    failures += [
        f"second keep names branch {name!r}, of whose kernels the first keep took a branch out, so "
        "that it is not known which one is meant. Fix: choose both on the graph of the original."
        for name in after
        if name.split("#")[0] in cut
    ]
    if failures:
        raise KeepError("\n".join(failures))
    return {name: np.array(value, bool) for name, value in values.items()}


def _follows(first: np.ndarray, second: np.ndarray) -> bool:
    """True if `second` masks what every layer of `first` keeps."""
    layers = {first.shape[:-1], second.shape[:-1]} - {()}
    return len(layers) < 2 and bool(np.all(first.sum(axis=-1) == second.shape[-1]))
