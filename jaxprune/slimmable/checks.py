"""What the functions of this package take: widths by name, and what draws."""

from typing import Any

import numpy as np

from jaxprune.arguments.checks import check_mapping, kind_of
from jaxprune.errors import JaxpruneError, KeepError
from jaxprune.graph import ChannelGraph
from jaxprune.keep.check import check_keep, check_masks


def check_generator(rng: Any) -> None:
    """Raises JaxpruneError unless `rng` is a generator of NumPy."""
    if not isinstance(rng, np.random.Generator):
        raise JaxpruneError(
            f"rng must be a np.random.Generator, got {kind_of(rng)}.\n"
            "Fix: rng=np.random.default_rng(0)."
        )


def named_keeps(
    widths: Any, graph: ChannelGraph | None = None, *, traced: bool = False
) -> dict[Any, dict[str, Any]]:
    """Returns {name of a width: keep} with masks on the host, fitted to the graph if it is given.

    Raises:
      KeepError: this is not such a mapping, or a keep does not fit.
    """
    given = check_mapping(widths, "widths", "{name of a width: keep}", KeepError)
    if graph is None:
        masks = check_masks({f"width {name!r}: keep": keep for name, keep in given.items()})
        return dict(zip(given, masks, strict=True))
    return {name: check_keep(graph, keep, traced=traced) for name, keep in given.items()}
