"""The weights of each channel: the kernel entries that make it and those that read it."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_roles, is_array, kind_of
from jaxprune.arguments.fetching import replicated
from jaxprune.errors import JaxpruneError, TreeError
from jaxprune.graph import ChannelGraph, Slot, check_graph
from jaxprune.groups.constraints import Groups, scope

Members = Mapping[str, Sequence[Slot]]

_ROLES = ("out", "in")


def members(
    graph: ChannelGraph,
    roles: Collection[str],
    *,
    only: Groups | None = None,
    protect: Groups = (),
) -> Members:
    """Returns {group: its slots of these roles} for the groups in scope.

    Raises:
      JaxpruneError: an unknown role.
      PatternError: a pattern matches nothing, or nothing is left in scope.
    """
    check_graph(graph)
    check_roles(roles, _ROLES, JaxpruneError)
    by_group = {
        name: slots
        for name, group in graph.groups.items()
        if (slots := [slot for slot in group.slots if slot.role in roles])
    }
    chosen = scope(graph, list(by_group), only=only, protect=protect, purpose="to penalize")
    return {name: by_group[name] for name in chosen}


def norms(slots: Sequence[Slot], kernels: Mapping[str, jax.Array]) -> jax.Array:
    """Returns f[*layers, n]: the norm of each channel's weights; its gradient is 0 at 0."""
    energy = sum((_owned(kernels[slot.path], slot) for slot in slots), jnp.zeros(()))
    positive = energy > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, energy, 1)), 0)


def spread(values: jax.Array, slot: Slot, kernel: jax.Array) -> jax.Array:
    """Returns f[*shape of the kernel]: each channel's value at the entries that it owns, else 1."""
    back = jax.linear_transpose(lambda w: slot.owned(replicated(slot.along(w))), kernel.real)
    return back(values)[0] + (1 - back(jnp.ones_like(values))[0])


def size(graph: ChannelGraph, slots: Sequence[Slot]) -> int:
    """Returns how many weights one channel has."""
    return sum(_entries(graph, slot) * slot.positions.shape[1] for slot in slots)


def _entries(graph: ChannelGraph, slot: Slot) -> int:
    """How many entries of the variable stand at one position of the axis, in one layer."""
    shape = enumerate(graph.variables[slot.path].shape)
    return math.prod(n for axis, n in shape if axis not in (slot.axis, slot.layer))


def located(
    name: str, graph: ChannelGraph, wanted: Iterable[str], params: Mapping[str, jax.Array]
) -> dict[str, str]:
    """Returns {path in the graph: path in the parameters}, with or without `params/`.

    Raises:
      TreeError: a wanted leaf is absent or has another shape.
    """
    places, failures = {}, []
    for path in dict.fromkeys(wanted):
        place = path if path in params else path.removeprefix("params/")
        leaf = params.get(place, "no such leaf")
        shape = np.shape(leaf) if is_array(leaf) else leaf if place not in params else kind_of(leaf)
        if shape == graph.variables[path].shape:
            places[path] = place
        else:
            expected = graph.variables[path].shape
            failures.append(f"{path}: the graph has shape {expected}, the parameters have {shape}")
    if failures:
        more = f"\n... and {len(failures) - 8} more" if len(failures) > 8 else ""
        raise TreeError(
            f"{name}: the parameters do not mirror the graph.\n"
            + "\n".join(failures[:8])
            + f"{more}\nFix: pass the parameters of the variables that were traced; after slicing, "
            "trace the small network and build the optimizer anew."
        )
    return places


def _owned(kernel: jax.Array, slot: Slot) -> jax.Array:
    """Returns f[*layers, n]: the sum of squares of the entries that each channel owns."""
    squares = (kernel * kernel.conj()).real if jnp.iscomplexobj(kernel) else jnp.square(kernel)
    return slot.owned(replicated(slot.along(squares)))
