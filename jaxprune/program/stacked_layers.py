"""Stacked layers: channel groups that every layer of a stack has for itself.

Where a `scan` steps over layers, their variables have a leading layer axis. A group that lives
wholly inside of a layer may keep other channels in every layer, as long as each keeps the same
number; a stream that is carried from layer to layer is one group for all of them. A group is
per-layer along a stack if every array that holds its channels is inside of the scan, or has the
layer axis and comes from operations that treat layers alike.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.program import reasons, stream_readers
from jaxprune.program import spaces as ax
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.program.reasons import Reason
from jaxprune.program.relate import Walk
from jaxprune.program.rules import contraction
from jaxprune.program.spaces import Atom, Space
from jaxprune.program.traits import Form, Trait


class Given(NamedTuple):
    """A stack that the user names: the variables whose paths match `place`."""

    place: str
    length: int


Stack = Op | Given
"""What makes a layer axis the same as another: the scan, or the name that was given."""


def stack(space: Space) -> Stack | None:
    """Returns the stack whose layers `space` counts, if it does."""
    root = ax.find(space)
    if type(root) is not Atom or root.reason is None or root.reason.why is not reasons.LAYERS:
        return None
    return root.reason.at if root.size == length(root.reason.at) else None


def length(stack: Stack) -> int:
    """Returns how many layers a stack has."""
    return stack.length if isinstance(stack, Given) else stack.params["length"]


def layer_axis(axes: Sequence[Space], space: Space) -> int | None:
    """Returns which of `axes` counts the layers for which `space` holds channels, if one does."""
    wanted = [atom.layers for atom in ax.atoms(space) if atom.layers is not None]
    places = (i for i, other in enumerate(axes) if wanted and stack(other) == wanted[0])
    return next(places, None)


def aligned(mask: Any, axes: Sequence[Space], axis: int) -> Any:
    """Returns the mask of one of `axes`, bool[n] or bool[layers, n], in the rank of the array."""
    layer = layer_axis(axes, axes[axis]) if mask.ndim == 2 else None
    return in_rank(mask, axis, layer, len(axes))


def in_rank(mask: Any, axis: int, layer: int | None, rank: int) -> Any:
    """Returns the mask of one axis, whose layers `layer` counts, in the rank of an array."""
    shape = [1] * rank
    shape[axis] = mask.shape[-1]
    if mask.ndim == 2:
        assert layer is not None
        shape[layer] = mask.shape[0]
        mask = mask if layer < axis else mask.T
    return mask.reshape(shape)


def mark(walk: Walk) -> None:
    """Sets `layers` of every named atom that is per-layer; those of marked streams are not."""
    if all(stack(space) is None for axes in walk.ins for space in axes):
        return
    read = (
        space for item in stream_readers.selecting(walk) for space in (item.stream, item.reader)
    )
    shared = {atom for space in read for atom in ax.atoms(space)}
    companions: dict[Atom, dict[Stack, int]] = {}
    for axes, known in _arrays(walk):
        for atom in {atom for space in axes for atom in ax.atoms(space)}:
            if atom.name is not None:
                before = companions.get(atom, known)
                companions[atom] = {key: before[key] for key in before if key in known}
    for atom, stacks in companions.items():
        if stacks and atom not in shared:
            atom.layers = max(stacks, key=lambda key: stacks[key])


def _arrays(walk: Walk) -> Iterator[tuple[Sequence[Space], dict[Stack, int]]]:
    """Yields the axes of every array, with the stacks of which it holds a layer or all layers."""
    for axes in (*walk.ins, *walk.outs):
        yield axes, _layers(axes)
    for op in every_op(walk):
        around: dict[Stack, int] = {scan: length(scan) for scan in op.scans}
        if Trait.COUNTS in op.traits and op.points[0] is None:
            yield [op.outs[0][op.params["dimension"]]], {}
        alike = Trait.APART in op.traits and _paired(op)
        for axes in (*op.ins, *op.outs):
            yield axes, {**around, **(_layers(axes) if alike else {})}
        inside = {**around, op: length(op)} if op.form is Form.SCAN else around
        for inner in op.inner:
            for axes in (*inner.ins, *inner.outs):
                yield axes, {**inside, **_layers(axes)}


def _layers(axes: Sequence[Space]) -> dict[Stack, int]:
    """The stacks that exactly one of the axes counts."""
    stacks = [(key, space.size) for space in axes if (key := stack(space)) is not None]
    keys = [key for key, _ in stacks]
    return {key: size for key, size in stacks if keys.count(key) == 1}


def _paired(op: Op) -> bool:
    """False for a contraction of two stacks that does not pair their layers."""
    if Trait.CONTRACTS not in op.traits:
        return True
    pairs = {*contraction.pairs(op), *contraction.batches(op)}
    left, right = ([stack(space) for space in axes] for axes in op.ins)
    shared = [key for key in left if key is not None and key in right]
    return all((left.index(key), right.index(key)) in pairs for key in shared)


def rows(mask: np.ndarray) -> np.ndarray:
    """int[k], the chosen positions of a mask bool[n]; int[layers, k] of a mask bool[layers, n]."""
    return np.nonzero(mask)[-1].reshape(*mask.shape[:-1], -1)


def give(space: Space, name: str) -> None:
    """Freezes an axis of a variable as the layer axis of the stack `name`."""
    ax.freeze(space, Reason(reasons.LAYERS, at=Given(name, space.size)))
