"""The gate of a branch multiplied into its last weights."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxprune.arguments import dtypes
from jaxprune.errors import GateError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.channels import located
from jaxprune.inspecting.last_weights import last_weights


def folded(
    graph: ChannelGraph, leaves: Mapping[str, Any], gates: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the leaves with the gates of branches multiplied into their last weights.

    Raises:
      GateError: the last weights of a branch do not stand for it alone, or are no factor of it.
    """
    weights = {name: last_weights(graph)[name] for name in gates}
    last = {name: some for name, some in weights.items() if not isinstance(some, str)}
    failures = [f"branch {name!r}: {why}" for name, why in weights.items() if name not in last]
    if failures:
        fix = "Fix: leave them out; jp.gated goes on to apply the gates of these."
        raise GateError("\n".join(["these branches cannot have a folded gate:", *failures, fix]))
    after = dict(leaves)
    places = located("fold", graph, [path for some in last.values() for path in some], leaves)
    for name, some in last.items():
        for place in (places[path] for path in some):
            leaf = jnp.asarray(after[place])
            gate = jnp.asarray(gates[name])
            factor = gate.reshape(gate.shape + (1,) * (leaf.ndim - gate.ndim))
            after[place] = (dtypes.wide(leaf) * factor).astype(leaf.dtype)
    return after
