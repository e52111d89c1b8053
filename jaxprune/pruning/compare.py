"""What pruning changes, of a graph, a keep and a resized network."""

from collections.abc import Mapping
from typing import Any

from flax.nnx import Module

from jaxprune.arguments.checks import kind_of
from jaxprune.errors import JaxpruneError
from jaxprune.graph import ChannelGraph
from jaxprune.inspecting.comparison import Comparison, comparison
from jaxprune.nnx.resizing import compared_at


def compare(graph: ChannelGraph, keep: Mapping[str, Any], *, resized: Any = None) -> Comparison:
    """Returns the widths and costs before and after; `print` it for a table.

    Args:
      graph: what `jaxprune.trace` returned.
      keep: {group: bool[n]}; absent groups are whole. With branches as in `jp.slice`.
      resized: what `jp.linen.resize`, `jp.nnx.resize` or `jp.resize` gave for `keep`, of which the
        constants that follow a width are listed too.

    Raises:
      KeepError: `keep` does not fit the graph.

    Example:
      >>> import numpy as np, jaxprune as jp
      >>> fn = lambda v, x: x @ v["a"] @ v["b"]
      >>> v = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> keep = {"a": np.array([True, False, True, True])}
      >>> print(jp.compare(graph, keep))
      group             before  after    kept
      ---------------------------------------
      a                      4      3  75.0 %
      ---------------------------------------
      channels               4      3  75.0 %
      MACs                  20     15  75.0 %
      parameters            20     15  75.0 %
      activation bytes      28     24  85.7 %
    """
    return comparison(graph, keep, *_apart(graph, keep, resized))


def _apart(
    graph: ChannelGraph, keep: Mapping[str, Any], resized: Any
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """In what a resized network differs from the masked one."""
    if resized is None:
        return (), ()
    if isinstance(resized, Module):
        resized = compared_at(graph, keep)
    elif not (hasattr(resized, "follows") and hasattr(resized, "draws")):
        raise JaxpruneError(
            f"resized must be a resized network, got {kind_of(resized)}.\nFix: pass what "
            "jp.linen.resize, jp.nnx.resize or jp.resize returned."
        )
    return resized.follows, resized.draws
