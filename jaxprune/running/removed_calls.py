"""Which calls of modules nothing needs any more, once branches are taken out of their sums."""

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import without_branches
from jaxprune.program.interpret import every_op
from jaxprune.running import evaluator
from jaxprune.running.kept_depth import KeptDepth

_MARK = "jaxprune/"


def marked(outputs: Any, path: str) -> Any:
    """Returns what a module gives, marked with its path."""
    return jax.tree.map(
        lambda x: checkpoint_name(x, _MARK + path) if isinstance(x, jax.Array) else x, outputs
    )


def of(graph: ChannelGraph, kept: KeptDepth, fn: Callable[..., Any]) -> list[str]:
    """Returns the paths of the outermost modules of which nothing needs what they give.

    Args:
      graph: the channel graph.
      kept: what stays.
      fn: its function, with what modules give `marked`.
    """
    here = evaluator.retracer(fn, graph)(graph.abstract, graph.inputs, graph.keywords)
    live = without_branches.without(here, kept.branches).live
    needed: dict[str, bool] = {}
    for op in every_op(here.walk):
        label = str(op.params.get("name", ""))
        if label.startswith(_MARK):
            path = label.removeprefix(_MARK)
            needed[path] = needed.get(path, False) or op in live.sometimes
    idle = [path for path, used in needed.items() if not used]
    return sorted(p for p in idle if not any(p != q and is_part(p, q) for q in idle))


def is_part(path: str, module: str) -> bool:
    """Returns whether a path is that of a module, or of what it holds."""
    return not module or path == module or path.startswith(f"{module}/")
