"""Reducers of the members of a group, for `reduce=`, that NumPy does not have.

`numpy.mean`, `numpy.max` and `numpy.prod` (or `jax.numpy`) are reducers as they are, the sum is the
default.
"""

from jaxprune.arguments.checks import kind_of
from jaxprune.arguments.numbers import is_integer
from jaxprune.errors import ScoreError
from jaxprune.groups.members import Array, here
from jaxprune.groups.scored import shape_of_numbers


def first(members: Array, *, axis: int) -> Array:
    """Returns the first member, in the order of the slots of a group, along an axis.

    Raises:
      ScoreError: the members are not an array of numbers with this axis.

    Source: the reduction `first` of Torch-Pruning.
    """
    return _member(members, 0, axis)


def last(members: Array, *, axis: int) -> Array:
    """Returns the last member, along an axis.

    Raises:
      ScoreError: as `first`.

    Source: the reduction `gate` of Torch-Pruning.
    """
    return _member(members, -1, axis)


def _member(members: Array, place: int, axis: int) -> Array:
    shape = shape_of_numbers(members)
    rank = len(shape or ())
    if not is_integer(axis) or not -rank <= axis < rank or 0 in (shape or ()):
        raise ScoreError(
            f"a reducer takes members f32[n, members] and an axis of them, got {kind_of(members)} "
            f"and axis={axis!r}.\nFix: reduce=jp.scores.first, in a score."
        )
    return here(members).take(place, axis=axis)
