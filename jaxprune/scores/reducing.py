"""Reducers of the members of a group, for `reduce=`, that NumPy does not have.

`numpy.mean`, `numpy.max` and `numpy.prod` (or `jax.numpy`) are reducers as they are, the sum is the
default.
"""

from jaxprune.groups.members import Array


def first(members: Array, /, *, axis: int) -> Array:
    """Returns the first member, in the order of the slots of a group.

    Source: the reduction `first` of Torch-Pruning.
    """
    return members.take(0, axis=axis)


def last(members: Array, /, *, axis: int) -> Array:
    """Returns the last member.

    Source: the reduction `gate` of Torch-Pruning.
    """
    return members.take(-1, axis=axis)
