"""One keep of channels from two, told by the names of their groups."""

import numpy as np

from jaxprune.errors import KeepError
from jaxprune.keep.check import Keep, check_masks


def by_names(first: Keep, second: Keep) -> dict[str, np.ndarray]:
    """Returns the keep of channels of pruning by `first` and then by `second`, whose names agree.

    Raises:
      KeepError: a mask is not a vector of bools, is empty, or is not as long as `first` keeps
        channels.
    """
    keep, again = check_masks({"first keep": first, "second keep": second})
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
        keep[name] = joined(keep[name], kept) if name in keep else kept.copy()
    return keep


def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns what stays of what `first` keeps, by `second`; each for all layers, or one for each.

    `second` has an entry for each that `first` keeps.
    """
    lead = np.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    whole = np.broadcast_to(first, (*lead, first.shape[-1])).copy()
    whole[whole] = np.broadcast_to(second, (*lead, second.shape[-1])).reshape(-1)
    return whole


def _follows(first: np.ndarray, second: np.ndarray) -> bool:
    """True if `second` masks what every layer of `first` keeps."""
    layers = {first.shape[:-1], second.shape[:-1]} - {()}
    return len(layers) < 2 and bool(np.all(first.sum(axis=-1) == second.shape[-1]))
