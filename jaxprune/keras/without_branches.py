"""What of a Keras model goes with branches: layers of which nothing needs what they give.

In a graph of layers they are not made, and the addition that read them gives its other operands.
"""

from collections.abc import Mapping
from typing import Any

from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.keras.library import keras
from jaxprune.running import removed_calls
from jaxprune.running.kept_depth import KeptDepth
from jaxprune.running.removed_calls import is_part


class _Gone:
    """Stands where the output of a layer was."""


_GONE = _Gone()


def removed_of(graph: ChannelGraph, kept: KeptDepth, marked: Any) -> frozenset[str]:
    """Returns the paths of the layers and operations that go.

    Args:
      graph: the channel graph of the model.
      kept: what stays.
      marked: the function of the model at full size, in which what layers give is marked.

    Raises:
      ResizeError: variables would go of layers that stay.
    """
    gone = frozenset(removed_calls.of(graph, kept, marked))
    inside = [p for p in kept.without.variables if not any(is_part(p, path) for path in gone)]
    if inside:
        raise ResizeError(
            f"the variables {sorted(inside)[:5]} go with a branch that is added inside of a layer "
            "or model of a class of its own, whose code would still make them.\nFix: run "
            "jp.narrow(graph.fn, graph, keep), which needs no model, or write the sum in a "
            "functional model."
        )
    return gone


def outputs(removed: frozenset[str], path: str, old: Any, args: Any) -> tuple[Any, Any]:
    """Returns what stands for the outputs of a layer, None if it is to be called; the arguments.

    Args:
      removed: the paths that go.
      path: of the layer or the operation.
      old: it.
      args: what it is called on, where some of it went.

    Raises:
      ResizeError: it stays, and something that it reads goes.
    """
    tree = keras().tree
    if any(is_part(path, other) for other in removed):
        return tree.map_structure(lambda _: _GONE, old.output), args
    flat = tree.flatten(args)
    if not any(x is _GONE for x in flat):
        return None, args
    left = [x for x in flat if x is not _GONE]
    kind = type(old).__name__
    if not left or kind not in ("Add", "Subtract") or (kind == "Subtract" and flat[0] is _GONE):
        raise ResizeError(
            f"the layer {path!r} ({kind}) reads what goes with a branch, and is no addition.\nFix: "
            "run jp.narrow(graph.fn, graph, keep), which needs no model."
        )
    if len(left) == 1:
        return left[0], args
    return None, ([*left],) if isinstance(args[0], list | tuple) else tuple(left)


def marks(paths: Mapping[int, str], old: Any, outputs: Any) -> Any:
    """Returns what a layer or an operation gives, marked with its path."""
    path = paths[id(old)]
    return removed_calls.marked(outputs, path) if path else outputs
