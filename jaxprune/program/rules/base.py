"""What a rule is: how a primitive relates axes, where zeros survive it, how its sizes shrink."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.pointers import Of
from jaxprune.program.reasons import Reason, Why
from jaxprune.program.spaces import Atom, Space
from jaxprune.program.traits import NOTHING, Form, Trait

Axes = list[Space]
Size = Callable[[Space], int]


class Known(NamedTuple):
    """What is known of an array whose pruned parameters are zero.

    `zeros[i]`: the groups at whose pruned indices along axis i every entry is zero.
    `value`: the one value of all entries, if it is known.
    `ones[i]`: of truths, the groups at whose pruned indices every entry is true; () if none is.
    """

    zeros: tuple[frozenset[Atom], ...]
    value: Any = None
    ones: tuple[frozenset[Atom], ...] = ()


class Exactness(Protocol):
    """The pass that decides which groups can be masked exactly.

    may: where an array is one of several, zeros are those of any of them, not of all.
    """

    may: bool

    def groups(self, space: Space) -> frozenset[Atom]:
        """The groups that appear in a space."""
        ...

    def inexact(self, groups: frozenset[Atom], op: Op, why: Why, *of: Any) -> None:
        """Marks groups for which masking and slicing may differ."""
        ...

    def undefined(self, groups: frozenset[Atom], op: Op, operand: int, why: Why) -> None:
        """Marks groups at whose pruned indices the zeros of an operand have no finite result."""
        ...

    def steep(self, groups: frozenset[Atom], op: Op, operand: int) -> None:
        """Marks groups at whose pruned indices there is no finite derivative."""
        ...

    def run(self, walk: Any, known: list[Known]) -> list[Known]:
        """Propagates through an inner program; reports what it finds there."""
        ...

    def sums(self, groups: frozenset[Atom]) -> None:
        """Notes groups whose channels are summed, not met by the zeros of a reader."""
        ...

    def derived(self, op: Op, known: list[Known]) -> list[Known]:
        """Propagates through a function and the derivative that it brings."""
        ...

    def peek(self, walk: Any, known: list[Known]) -> list[Known]:
        """As `run`, without reporting."""
        ...


def nothing(op: Op, known: list[Known], exact: Exactness) -> list[Known]:
    """No zero survives."""
    return [unknown(shape) for shape in op.out_shapes]


def unknown(shape: Sequence[int]) -> Known:
    """Nothing is known of an array of `shape`."""
    return Known((frozenset(),) * len(shape))


def spread(item: Known, shape: Sequence[int]) -> Known:
    """What is known of a scalar beside an array of `shape`; of an array as it is."""
    return item if len(item.zeros) == len(shape) else unknown(shape)._replace(value=item.value)


def same(op: Op, size: Size) -> dict[str, Any]:
    """No parameter depends on a size."""
    return {}


def all_operands(op: Op, size: Size) -> dict[int, Any]:
    """No operand depends on a size."""
    return {}


def no_power(op: Op) -> float | None:
    """It is not a power."""
    return None


def none_summed(op: Op) -> tuple[int, Sequence[int]]:
    """No axis ends."""
    return 0, ()


class Rule(NamedTuple):
    """All that the library knows of one primitive.

    axes: `(op) -> [axes of each result]`; may unify, split, factor and freeze operand axes.
    zeros: `(op, known, exact) -> [Known of each result]`; reports inexact groups.
    params: `(op, size) -> {parameter: value}`, the parameters that follow the axis sizes.
    operands: `(op, size) -> {operand: value}`, the constant operands that follow them: where a
      window starts.
    traits: what it does with values. form: how it runs the programs that it holds.
    values: the operands of whose values the results are made; others say which, or where.
    weights: of a weighted sum of the operands, entry by entry; empty for all else.
    power: `(op) -> y` of the first operand to the power of y, entry by entry; None if not known.
    summed: `(op) -> (operand, its axes that end in a sum or a maximum)`.
    points: `(op) -> [what each result points into]`; None, or a result that is None, freezes what
      the operands point into.

    What `axes` is built from is `jp.spaces`: here an axis of 6 + 4 of which the first part is two
    rows of three, and a half of the second is frozen.

    >>> import numpy as np
    >>> from jaxprune import spaces
    >>> first, second = spaces.fresh(6), spaces.fresh(4)
    >>> axis = spaces.concat([first, second])
    >>> rows, columns = spaces.factor(first, 3)
    >>> spaces.unify(first, spaces.product([spaces.fresh(2), columns]))
    >>> left, right = spaces.split(second, 2)
    >>> spaces.freeze(right, "a reason")
    >>> [(a.size, a.reason) for a in spaces.atoms(spaces.resolve(axis))]
    [(2, None), (3, None), (2, None), (2, 'a reason')]
    >>> spaces.frozen(2, "a reason").reason
    'a reason'

    At a keep of the columns, which are then a group:

    >>> columns = spaces.find(columns)
    >>> columns.name = "columns"
    >>> spaces.positions(axis, columns).tolist()
    [[0, 3], [1, 4], [2, 5]]
    >>> spaces.count(axis, {"columns": 2})
    8
    >>> keep = np.array([True, False, True])
    >>> spaces.select(axis, {"columns": keep}).astype(int).tolist()
    [1, 0, 1, 1, 0, 1, 1, 1, 1, 1]
    >>> both = spaces.outer([np.ones(2, bool), keep], np.ones(1, bool))
    >>> spaces.side_by_side([both, np.ones(4, bool)], np.ones(0, bool)).astype(int).tolist()
    [1, 0, 1, 1, 0, 1, 1, 1, 1, 1]
    """

    axes: Callable[[Op], list[Axes]]
    zeros: Callable[[Op, list[Known], Exactness], list[Known]] = nothing
    params: Callable[[Op, Size], dict[str, Any]] = same
    operands: Callable[[Op, Size], dict[int, Any]] = all_operands
    traits: Trait = NOTHING
    form: Form | None = None
    values: slice = slice(None)
    weights: tuple[int, ...] = ()
    power: Callable[[Op], float | None] = no_power
    summed: Callable[[Op], tuple[int, Sequence[int]]] = none_summed
    points: Callable[[Op], Sequence[Of] | None] | None = None


NONE = slice(0)
"""No operand."""


def described(
    rules: Mapping[str, Rule],
    traits: Mapping[str, Trait],
    fields: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    *,
    every: Trait = NOTHING,
) -> dict[str, Rule]:
    """Returns rules with {names: traits}, {names: other fields}, and the traits of every one."""
    result = {name: rule._replace(traits=rule.traits | every) for name, rule in rules.items()}
    for names, trait in traits.items():
        for name in names.split():
            result[name] = result[name]._replace(traits=result[name].traits | trait)
    for names, given in fields.items():
        result |= {name: result[name]._replace(**given) for name in names.split()}
    return result


def freeze(spaces: Sequence[Space], why: Why, op: Op, *of: Any) -> None:
    """Freezes every space with a reason at `op`."""
    for space in spaces:
        ax.freeze(space, Reason(why, of, op))


def frozen(shape: Sequence[int], why: Why, op: Op, *of: Any) -> Axes:
    """New frozen axes of `shape`."""
    return [frozen_axis(size, why, op, *of) for size in shape]


def frozen_axis(size: int, why: Why, op: Op, *of: Any) -> Space:
    """A new frozen axis."""
    return ax.frozen(size, Reason(why, of, op))


def unify(op: Op, a: Axes, b: Axes) -> None:
    """Ties two arrays of one shape axis by axis."""
    for x, y in zip(a, b, strict=True):
        if x is not y:
            ax.unify(x, y, op)


def meet(a: Known, b: Known) -> Known:
    """Zero where both are zero."""
    if is_zero(a):
        return Known(b.zeros)
    if is_zero(b):
        return Known(a.zeros)
    return Known(tuple(x if x is y else x & y for x, y in zip(a.zeros, b.zeros, strict=True)))


def join(a: Known, b: Known) -> Known:
    """Zero where either is zero."""
    if is_zero(a) or is_zero(b):
        return a if is_zero(a) else b
    return Known(tuple(x if x is y else x | y for x, y in zip(a.zeros, b.zeros, strict=True)))


def either(a: Known, b: Known, exact: Exactness) -> Known:
    """What is known of an array that is a or b, or in parts a and b."""
    zeros = meet(a, b).zeros
    if exact.may:
        zeros = tuple(x | y for x, y in zip(a.zeros, b.zeros, strict=True))
    return Known(zeros, a.value if a.value == b.value else None)


def is_zero(known: Known) -> bool:
    """True if every entry is zero."""
    return known.value is not None and known.value == 0


def zeros_along(item: Known, axis: int, axes: Axes, exact: Exactness) -> frozenset[Atom]:
    """The groups at whose pruned indices along an axis an array is zero, also if it is so whole."""
    return exact.groups(axes[axis]) if is_zero(item) else item.zeros[axis]


def regroup(op: Op, known: Known, exact: Exactness, blocks: Sequence[Sequence[int]]) -> Known:
    """Zeros of result axis i, made of the operand axes `blocks[i]`."""
    zeros = []
    for axis, block in enumerate(blocks):
        present = exact.groups(op.outs[0][axis])
        for source in block:
            here = exact.groups(op.ins[0][source])
            present = present & (known.zeros[source] | (present - here))
        seen = frozenset().union(*(exact.groups(op.ins[0][source]) for source in block))
        zeros.append(present & seen)
    return Known(tuple(zeros), known.value)
