"""What a network is called with on a batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxprune.arguments.checks import kind_of
from jaxprune.errors import JaxpruneError
from jaxprune.graph import ChannelGraph

Call = tuple[Sequence[Any], dict[str, Any]]
"""The inputs by position and by keyword."""
Calling = Callable[[Any], Call]
"""From a batch."""


def call_of(graph: ChannelGraph, inputs: Callable[[Any], Any] | None) -> Calling:
    """Returns what takes the inputs of the call from a batch.

    Args:
      graph: of the network.
      inputs: from a batch to a tuple, or to a mapping of keywords; by default what stands in the
        front of the batch.
    """
    take = inputs or _first_inputs(graph)

    def call(batch: Any) -> Call:
        given = take(batch)
        if isinstance(given, Mapping):
            return (), dict(given)
        if isinstance(given, tuple | list):
            return given, {}
        raise JaxpruneError(
            f"inputs gave {kind_of(given)}, not a tuple of the inputs of the call.\n"
            "Fix: inputs=lambda batch: (batch['image'],), or a mapping of keywords."
        )

    return call


def _first_inputs(graph: ChannelGraph) -> Callable[[Any], Any]:
    """Returns what takes the inputs of the traced call from the front of a batch."""
    several, keywords = len(graph.inputs), list(graph.keywords)

    def inputs(batch: Any) -> Any:
        whole = several == 1 and jax.tree.structure(batch) == jax.tree.structure(graph.inputs[0])
        if whole and not keywords:
            return (batch,)
        if isinstance(batch, tuple | list) and len(batch) >= several and not keywords:
            return tuple(batch[:several])
        raise JaxpruneError(
            f"a batch must hold the {several} inputs of the call first"
            + (f" and its keywords {keywords}" if keywords else "")
            + f", got {jax.tree.structure(batch)}.\n"
            "Fix: inputs=lambda batch: (batch['image'],), or a mapping of keywords."
        )

    return inputs
