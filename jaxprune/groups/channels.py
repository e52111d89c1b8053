"""The weights of each channel: the kernel entries that make it and those that read it."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_roles, is_array, kind_of
from jaxprune.arguments.fetching import replicated
from jaxprune.errors import JaxpruneError, TreeError
from jaxprune.graph import ChannelGraph, Slot, check_graph
from jaxprune.groups.constraints import Groups, scope
from jaxprune.groups.members import members_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a variable whose weights belong to sets of their own, which are not channels.

    `shape` is that of the variable. The sets are the indices of `axes`; with none, the whole
    variable belongs to one. Where `split` is (axis, parts), that axis is cut into so many equal
    parts, each with sets of its own.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] = ()
    split: tuple[int, int] | None = None

    def along(self, values: Any) -> Any:
        """Returns the sums over each set, [sets]."""
        axes = self.axes
        if self.split is not None:
            axis, parts = self.split
            shape = values.shape
            values = values.reshape(*shape[:axis], parts, -1, *shape[axis + 1 :])
            axes = (*(i if i < axis else i + 1 for i in axes), axis)
        others = tuple(i for i in range(values.ndim) if i not in axes)
        return values.sum(axis=others).reshape(-1)

    def owned(self, sums: Any) -> Any:
        """Returns them as they are."""
        return sums

    def entries(self, shape: tuple[int, ...]) -> int:
        """Returns how many weights of a variable of that shape are in one set."""
        sets = math.prod(shape[axis] for axis in self.axes)
        return math.prod(shape) // (sets * (self.split[1] if self.split else 1))


Members = Mapping[str, Sequence[Slot | Section]]
"""{group or set: where its weights are}."""

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
    by_group = members_of(graph, lambda slot: slot.role in roles)
    chosen = scope(graph, list(by_group), only=only, protect=protect, purpose="to penalize")
    return {name: by_group[name] for name in chosen}


def norms(slots: Sequence[Slot | Section], kernels: Mapping[str, jax.Array]) -> jax.Array:
    """Returns f[*layers, n]: the norm of each channel's weights; its gradient is 0 at 0."""
    energy = sum((_owned(kernels[slot.path], slot) for slot in slots), jnp.zeros(()))
    positive = energy > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, energy, 1)), 0)


def spread(values: jax.Array, slot: Slot | Section, kernel: jax.Array) -> jax.Array:
    """Returns f[*shape of the kernel]: each channel's value at the entries that it owns, else 1."""
    back = jax.linear_transpose(lambda w: slot.owned(replicated(slot.along(w))), kernel.real)
    return back(values)[0] + (1 - back(jnp.ones_like(values))[0])


def size(graph: ChannelGraph, slots: Sequence[Slot | Section]) -> int:
    """Returns how many weights one channel has."""
    return sum(_entries(slot, graph.variables[slot.path].shape) for slot in slots)


def _entries(slot: Slot | Section, shape: tuple[int, ...]) -> int:
    """How many entries of the variable one channel has there, in one layer."""
    if isinstance(slot, Section):
        return slot.entries(shape)
    rest = (n for axis, n in enumerate(shape) if axis not in (slot.axis, slot.layer))
    return math.prod(rest) * slot.positions.shape[1]


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


def as_traced(params: Any, places: Mapping[str, str]) -> Any:
    """Returns parameters as the graph has them: under `params` where they stand there alone."""
    return {"params": params} if any(path != own for path, own in places.items()) else params


def _owned(kernel: jax.Array, slot: Slot | Section) -> jax.Array:
    """Returns f[*layers, n]: the sum of squares of the entries that each channel owns."""
    squares = (kernel * kernel.conj()).real if jnp.iscomplexobj(kernel) else jnp.square(kernel)
    return slot.owned(replicated(slot.along(squares)))
