"""Where the axes and the entries of an operand are in the result, of what moves it."""

from collections.abc import Callable, Sequence

from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Op
from jaxprune.program.traits import Trait

AxisMap = Callable[[tuple[int, ...]], tuple[int, ...] | None]
"""From axes of an operand to those of the result, None where they are not there."""


def axis_map(op: Op) -> AxisMap | None:
    """Returns where an operation puts the axes of its operand, None if that is not known."""
    params, before = op.params, jaxpr.shape(op.eqn.invars[0])
    if "broadcast_dimensions" in params:
        to = params["broadcast_dimensions"]
        return lambda axes: tuple(int(to[axis]) for axis in axes)
    if "permutation" in params:
        order = [int(axis) for axis in params["permutation"]]
        return lambda axes: tuple(sorted(map(order.index, axes)))
    if op.name == "squeeze":
        left = [axis for axis in range(len(before)) if axis not in params["dimensions"]]
        return lambda axes: tuple(map(left.index, axes)) if set(axes) <= set(left) else None
    in_order = op.name == "reshape" and params.get("dimensions") is None
    return reshaped(before, op.out_shapes[0]) if in_order else None


def axes_left(op: Op) -> list[int] | None:
    """Returns which axes of the operand the result has, of what only moves or drops whole axes."""
    if "permutation" in op.params:
        return [int(axis) for axis in op.params["permutation"]]
    rank = len(jaxpr.shape(op.eqn.invars[0])) if op.eqn.invars else 0
    if op.name == "squeeze":
        return [axis for axis in range(rank) if axis not in op.params["dimensions"]]
    return None


def keeps_order(op: Op) -> bool:
    """Returns whether all entries stay, in the order that they have in memory, maybe repeated."""
    some = op.params.get("indices") is not None
    transposed = "new_sizes" in op.params and op.params.get("dimensions") is not None
    return Trait.ORDERED in op.traits and not some and not transposed


def reshaped(before: Sequence[int], after: Sequence[int]) -> AxisMap:
    """Returns where axes are after a reshape that leaves them whole."""

    def places(shape: Sequence[int]) -> dict[tuple[int, int], int]:
        axes, volume = {}, 1
        for axis, size in enumerate(shape):
            axes.setdefault((volume, size), axis)
            volume *= size
        return axes

    later = places(after)
    where = {axis: later.get(key) for key, axis in places(before).items()}

    def to(axes: tuple[int, ...]) -> tuple[int, ...] | None:
        moved = [there for axis in axes if (there := where.get(axis)) is not None]
        return tuple(moved) if len(moved) == len(axes) else None

    return to
