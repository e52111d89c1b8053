"""The filters that make the channels of a group, compared where they are: by NumPy or on devices.

The filters of a group in one variable are f[*layers, n, ...], one for each channel. Their axes are
not joined, so that devices that divide one of them need not exchange what they hold.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.arguments.dtypes import wide
from jaxprune.arguments.reduction import freely
from jaxprune.graph import ChannelGraph, Slot, check_graph
from jaxprune.groups.members import leaves_at, members_of, paths_of

Array = Any


class Place(NamedTuple):
    """Where a variable holds the filters of a group; equal ones share their programs.

    The n channels stand on `axis` as `split` says, (outer, n, inner), or at `positions` [n, m].
    """

    axis: int
    layer: int | None
    split: tuple[int, int, int] | None
    positions: tuple[tuple[int, ...], ...] = ()

    @property
    def front(self) -> int:
        """How many axes are before those of one filter."""
        return 1 if self.layer is None else 2

    def filters(self, leaf: Array) -> Array:
        """Returns f32[*layers, n, ...] or wider."""
        first = [axis for axis in (self.layer, self.axis) if axis is not None]
        rest = [axis for axis in range(leaf.ndim) if axis not in first]
        moved, at = wide(leaf).transpose([*first, *rest]), len(first) - 1
        if self.split is None:
            return moved.take(np.array(self.positions), axis=at)
        split = moved.reshape(*moved.shape[:at], *self.split, *moved.shape[at + 1 :])
        order = [*range(at), at + 1, at, *range(at + 2, split.ndim)]
        return split.transpose(order)


class Distances(NamedTuple):
    """f[*layers, n, n], |F_i - F_j|_p of all filters of a variable; or their sums over j."""

    place: Place
    order: float
    summed: bool

    def __call__(self, leaf: Array) -> Array:
        """Returns them, of one filter to all others after the other."""
        if not isinstance(leaf, np.ndarray):
            return freely(self._traced, leaf)
        filters, at = self.place.filters(leaf), self.place.front - 1
        ones = (filters.take([i], axis=at) for i in range(filters.shape[at]))
        away = (self._sizes(abs(filters - one)) for one in ones)
        return sum(away) if self.summed else np.stack(list(away), axis=-1)

    def _traced(self, leaf: Array) -> Array:
        filters, at = self.place.filters(leaf), self.place.front - 1
        shape = filters.shape[: at + 1]
        number = np.arange(shape[-1]).reshape(-1, *(1,) * (filters.ndim - at - 1))
        number = number.reshape((1,) * at + number.shape)

        def step(total: Array, i: Array) -> tuple[Array, Array | None]:
            one = jnp.where(number == i, filters, 0).sum(at, keepdims=True)  # no gather of all
            away = self._sizes(abs(filters - one))
            return total + away, None if self.summed else away

        total, rows = lax.scan(step, jnp.zeros(shape, filters.real.dtype), np.arange(shape[-1]))
        return total if rows is None else jnp.moveaxis(rows, 0, -1)

    def _sizes(self, away: Array) -> Array:
        axes = tuple(range(self.place.front, away.ndim))
        if self.order == math.inf:
            return away.max(axes)
        return (away**self.order).sum(axes) ** (1 / self.order)


class Products(NamedTuple):
    """f[*layers, n, n]: Σ (F_i - mean_i) (F_j - mean_j)*, of the filters of a variable."""

    place: Place

    def __call__(self, leaf: Array, *mean: Array) -> Array:
        """Returns them, for means f[*layers, n], or zero."""
        if not isinstance(leaf, np.ndarray):
            return freely(self._traced, leaf, *mean)
        away = self._away(leaf, *mean)
        rows = away.reshape(*away.shape[: self.place.front], -1)
        return rows @ rows.conj().swapaxes(-1, -2)

    def _traced(self, leaf: Array, *mean: Array) -> Array:
        away = self._away(leaf, *mean)
        layers, rest = [*range(self.place.front - 1)], [*range(self.place.front, away.ndim)]
        dims = ((rest, rest), (layers, layers))
        return lax.dot_general(away, away.conj(), dims, precision=lax.Precision.HIGHEST)

    def _away(self, leaf: Array, mean: Array | None = None) -> Array:
        filters = self.place.filters(leaf)
        if mean is None:
            return filters
        return filters - mean.reshape(*mean.shape, *(1,) * (filters.ndim - mean.ndim))


class Kernel(NamedTuple):
    """A variable that makes the channels of a group."""

    leaf: Array
    slot: Slot

    @property
    def place(self) -> Place:
        """Where its filters stand."""
        positions, size = self.slot.positions, self.leaf.shape[self.slot.axis]
        for split in _splits(*positions.shape):
            if positions.size == size and (positions == _positions(split)).all():
                return Place(self.slot.axis, self.slot.layer, split)
        return Place(self.slot.axis, self.slot.layer, None, tuple(map(tuple, positions.tolist())))

    @property
    def length(self) -> int:
        """How many entries a filter has."""
        layers = 1 if self.slot.layer is None else self.leaf.shape[self.slot.layer]
        per_index = self.leaf.size // self.leaf.shape[self.slot.axis] // layers
        return per_index * self.slot.positions.shape[1]


def _splits(n: int, m: int) -> Iterator[tuple[int, int, int]]:
    """The ways to divide an axis of n * m so that its middle is n."""
    return ((m // inner, n, inner) for inner in range(1, m + 1) if m % inner == 0)


def _positions(split: tuple[int, int, int]) -> np.ndarray:
    """int[n, outer * inner]: where the channels stand."""
    return np.arange(math.prod(split)).reshape(split).swapaxes(0, 1).reshape(split[1], -1)


def kernels_of(graph: ChannelGraph, variables: Any) -> dict[str, list[Kernel]]:
    """Returns {group: the variables that make it}, of groups that have some."""
    check_graph(graph)
    members = members_of(graph, lambda slot: slot.role == "out")
    leaves = leaves_at(graph, variables, paths_of(members))
    return {
        name: [Kernel(leaves[slot.path], slot) for slot in slots] for name, slots in members.items()
    }
