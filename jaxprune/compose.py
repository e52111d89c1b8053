"""One keep for a network that was pruned more than once."""

import numpy as np

from jaxprune.errors import KeepError
from jaxprune.masks import Keep


def compose(first: Keep, second: Keep) -> dict[str, np.ndarray]:
    """Returns the keep, in the original's indices, of pruning by `first` and then by `second`.

    Slicing by it equals slicing twice, so that a network pruned in many steps is
    `resize(module, graph, keep)` of the original module. Fold it over more than two keeps.

    A group keeps its name when the network is pruned, as long as two of its channels are left: an
    axis of size 1 is no group any more. Where one axis carries several groups (`[axis.factor]`),
    the others are renamed with it.

    Args:
      first: {group: bool[n]} on the graph of the original.
      second: {group: bool[m]} on the graph of the pruned network; m channels are kept by `first`.
        A group that is absent from either is whole there, so one that only `second` names has
        the original's size; only `graph` knows whether it exists, and says so where it is used.

    Returns:
      {group: bool[n]} of every group that either names.

    Raises:
      KeepError: a mask is no vector of bools, or is not as long as `first` keeps channels.

    Example:
      >>> first = {"Dense_0/kernel": np.array([True, False, True, True])}
      >>> second = {"Dense_0/kernel": np.array([False, True, True])}
      >>> compose(first, second)
      {'Dense_0/kernel': array([False, False,  True,  True])}
    """
    keep = {name: np.array(kept) for name, kept in first.items()}
    again = {name: np.array(kept) for name, kept in second.items()}
    failures = [
        f"{which} keep for group {name!r} is {kept.dtype}{list(kept.shape)}, not a vector of "
        "bools. Fix: select with jp.select, or compare the scores with a threshold."
        for which, masks in (("first", keep), ("second", again))
        for name, kept in masks.items()
        if kept.dtype != np.bool_ or kept.ndim != 1
    ]
    failures += [
        f"second keep for group {name!r} has {len(again[name])} entries, the first keeps "
        f"{kept.sum()} of {kept.size} channels. Fix: select on the graph of the pruned network, "
        "jp.trace(resized.apply, small, x)."
        for name, kept in keep.items()
        if name in again and again[name].shape != (kept.sum(),)
    ]
    if failures:
        raise KeepError("\n".join(failures))
    for name, kept in again.items():
        if name in keep:
            keep[name][keep[name]] = kept
        else:
            keep[name] = kept
    return keep
