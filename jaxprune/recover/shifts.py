"""What pruned constant channels add to every array of a program, and which variable can take it.

No layer is known by name here. The traced program is evaluated once, operation by operation, on
the variables alone. Every array carries what is known of it without the inputs, and its shifts:
by how much it exceeds the same array of the network without the pruned channels. A shift is born
where a pruned axis is contracted: it is the contraction of the constants of the pruned channels.
It passes linear operations, and ends in the first variable that is added or subtracted: the bias
of the layer, or the running mean of its BatchNorm.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.keep.check import Keep
from jaxprune.program import spaces as ax
from jaxprune.program import stacked_layers
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.contraction import padded
from jaxprune.program.traits import Trait
from jaxprune.recover.layers import Layered, at_layer
from jaxprune.recover.partial import (
    Partial,
    evaluate,
    follows,
    known,
    only,
    read,
    rows_of,
    stack,
    unknown,
    zero,
)
from jaxprune.recover.views import Uses, View, count, moved, rearranges, whole


class Outcome(NamedTuple):
    """What became of the constant that the pruned channels of a group add at one place.

    `consumer`: the module path, or the file and line, of the operation that reads the channels.
    `into`: path of the variable that took the constant, None if none did.
    `why`: None if nothing is lost; else why it is approximate or, without `into`, impossible.
    """

    group: str
    consumer: str
    into: str | None = None
    why: str | None = None

    @property
    def exact(self) -> bool:
        """True if slicing loses nothing here."""
        return self.why is None

    def __str__(self) -> str:
        verdict = "exact" if self.exact else "approximate" if self.into else "impossible"
        into = f", into {self.into}" if self.into else ""
        why = f": {self.why}" if self.why else ""
        return f"{self.group} at {self.consumer}: {verdict}{into}{why}"


def _groups(axes: Iterable[ax.Space], pruned: Keep) -> list[str]:
    """The pruned groups that appear in `axes`, in order."""
    names = (atom.name for space in axes for atom in ax.atoms(space))
    return list(dict.fromkeys(name for name in names if name is not None and name in pruned))


def pruned_entries(axes: Sequence[ax.Space], pruned: Keep) -> np.ndarray:
    """bool, broadcasts to an array over `axes`: which entries belong to pruned channels."""
    gone = np.zeros((1,) * len(axes), bool)
    for i in range(len(axes)):
        gone = gone | pruned_along(axes, i, pruned)
    return gone


def pruned_along(axes: Sequence[ax.Space], axis: int, pruned: Keep) -> np.ndarray:
    """Returns `pruned_entries` of one of `axes` alone."""
    if not _groups([axes[axis]], pruned):
        return np.zeros((1,) * len(axes), bool)
    return ~stacked_layers.aligned(ax.select(axes[axis], pruned), axes, axis)


class Origin(NamedTuple):
    """Where a shift was born."""

    group: str
    place: str
    padded: bool


class _Array(NamedTuple):
    """An array of the program."""

    part: Partial
    shifts: Mapping[Origin, Any] = MappingProxyType({})
    view: View | None = None


class _Fold(NamedTuple):
    """A shift that met a variable: what to add to which entries, and how uneven the shift is."""

    origin: Origin
    path: str
    delta: np.ndarray
    entries: np.ndarray
    unevenness: float
    tolerance: float


class Shifts(Layered[_Array]):
    """One evaluation of a program, which collects folds and outcomes."""

    def __init__(self, graph: ChannelGraph, pruned: Keep):
        super().__init__()
        self.graph = graph
        self.pruned = pruned
        self.uses: Uses = {}
        self.dtypes: dict[str, Any] = {}
        self.folds: list[_Fold] = []
        self.outcomes: list[Outcome] = []

    def start(self, leaves: Mapping[str, Any]) -> None:
        """Evaluates the whole program."""
        arrays, walk = [], self.graph.walk
        self.dtypes = {path: leaf.dtype for path, leaf in leaves.items()}
        for path, leaf in leaves.items():
            arrays.append(_Array(known(leaf), view=whole(path, leaf.shape)))
        arrays += [_Array(unknown(var)) for var in walk.program.invars[len(arrays) :]]
        for out in self.run(walk, arrays):
            self.drop(out.shifts, "the output comes before any bias or running mean")

    def literal(self, value: Any, atom: Any, op: Op | None) -> _Array:
        """A number."""
        del op
        return _Array(known(np.asarray(value, atom.aval.dtype)))

    def constant(self, value: Any, var: Any, axes: Any) -> _Array:
        """A constant array."""
        del var, axes
        return _Array(known(value))

    def is_variable(self, item: _Array) -> bool:
        """True of a variable whose entries were only moved."""
        return item.view is not None

    def rows(self, item: _Array, length: int) -> list[_Array]:
        """Returns what is known of each row."""
        views = [None] * length if item.view is None else item.view.rows()
        return [
            _Array(part, {origin: shift[i] for origin, shift in item.shifts.items()}, views[i])
            for i, part in enumerate(rows_of(item.part))
        ]

    def stacked(self, rows: Sequence[_Array]) -> _Array:
        """Returns what is known of them together."""
        count(self.uses, [item.view for item in rows])
        none = [np.zeros(item.part.varies.shape, bool) for item in rows]
        origins = dict.fromkeys(origin for item in rows for origin in item.shifts)
        shifts = {
            origin: np.stack(
                [item.shifts.get(origin, z) for item, z in zip(rows, none, strict=True)]
            )
            for origin in origins
        }
        return _Array(stack([item.part for item in rows]), shifts)

    def layer(self, op: Op, layer: int, ins: list[_Array]) -> list[_Array]:
        """Returns the results of one step, of which other channels are pruned."""
        whole, self.pruned = self.pruned, at_layer(self.graph, self.pruned, op, layer)
        outs = super().layer(op, layer, ins)
        self.pruned = whole
        return outs

    def compute(self, op: Op, ins: list[_Array]) -> Sequence[_Array]:
        """Returns the results of one operation."""
        parts = evaluate(op, [item.part for item in ins])
        if rearranges(op) and ins[0].view is not None:
            return [_Array(parts[0], view=moved(op, ins[0].view))]
        count(self.uses, [item.view for item in ins])
        totals: list[dict[Origin, Any]] = [{} for _ in parts]
        for origin, shifts in (*self.born(op, ins), *self.carried(op, ins)):
            for total, shift, axes in zip(totals, shifts, op.outs, strict=True):
                shift = zero(shift, pruned_entries(axes, self.pruned))
                if np.any(shift):
                    total[origin] = total[origin] + shift if origin in total else shift
        return [_Array(part, total) for part, total in zip(parts, totals, strict=True)]

    def born(self, op: Op, ins: Sequence[_Array]) -> Iterator[tuple[Origin, list[Any]]]:
        """Yields what the pruned entries of a contracted axis add to the result."""
        if not follows(op):
            for group in _groups((space for axes in op.ins for space in axes), self.pruned):
                self.outcomes.append(Outcome(group, op.place, why=f"{op.name} is not followed"))
            return
        which, contracted = op.rule.summed(op)
        axes = [space if i in contracted else ax.ONE for i, space in enumerate(op.ins[which])]
        parts = [item.part for item in ins]
        rest = parts[which]
        for group in _groups(axes, self.pruned):
            gone = pruned_entries(axes, {group: self.pruned[group]})
            parts[which], rest = only(rest, gone), only(rest, ~gone)
            (added,) = evaluate(op, parts)
            kept = ~pruned_entries(op.outs[0], self.pruned)
            if Trait.MAXIMUM in op.traits or np.any(added.varies & kept):
                why = "the pruned channels are not constant"
                self.outcomes.append(Outcome(group, op.place, why=why))
            elif np.any((np.asarray(values := read(added.values)) != 0) & kept):
                yield Origin(group, op.place, padded(op)), [values]
            else:
                self.outcomes.append(Outcome(group, op.place))

    def carried(self, op: Op, ins: Sequence[_Array]) -> Iterator[tuple[Origin, list[Any]]]:
        """Yields what the results make of the shifts of the operands."""
        carriers = [i for i, item in enumerate(ins) if item.shifts]
        if not carriers or self.folded(op, ins):
            return
        over = Trait.DIVIDES in op.traits and carriers == [0]
        product = Trait.MULTIPLIES in op.traits and len(carriers) == 1
        linear = Trait.LINEAR in op.traits or over or product
        real = all(jnp.issubdtype(var.aval.dtype, jnp.inexact) for var in op.eqn.outvars)
        kept = [~pruned_entries(axes, self.pruned) for axes in op.outs]
        for origin in dict.fromkeys(origin for item in ins for origin in item.shifts):
            parts = [_shift(item, origin, op) for item in ins]
            outs = evaluate(op, parts) if linear and real else []
            if outs and not any(np.any(o.varies & k) for o, k in zip(outs, kept, strict=True)):
                yield origin, [read(out.values) for out in outs]
            else:
                self.drop([origin], f"{op.name} comes before any bias or running mean")

    def folded(self, op: Op, ins: Sequence[_Array]) -> bool:
        """Folds the shifts into the variable that is added or subtracted, if there is one."""
        views = [item.view for item in ins if item.view is not None]
        shifts = [item.shifts for item in ins if item.shifts]
        if not is_sum(op) or len(views) != 1 or len(shifts) != 1:
            return False
        holds = _kind(self.dtypes[views[0].path])
        if any(_kind(shift.dtype) > holds for shift in shifts[0].values()):
            return False
        self.folds.extend(_fold(origin, shift, views[0], op) for origin, shift in shifts[0].items())
        return True

    def drop(self, origins: Iterable[Origin], why: str) -> None:
        """Notes that these shifts are lost."""
        self.outcomes.extend(Outcome(group, place, why=why) for group, place, _ in origins)

    def finish(self) -> dict[str, np.ndarray]:
        """Returns what to add to which variable, and notes the outcome of every fold."""
        deltas: dict[str, np.ndarray] = {}
        for origin, path, delta, entries, unevenness, tolerance in self.folds:
            if (times := self.uses[path][entries].max()) > 1:
                self.drop([origin], f"{path} is used {times} times")
                continue
            deltas[path] = deltas.get(path, 0.0) + delta
            cause = f"zero padding at {origin.place}" if origin.padded else "the constant"
            why = f"{cause} differs between places by up to {unevenness:.2g}"
            even = unevenness <= tolerance
            outcome = Outcome(origin.group, origin.place, path, None if even else why)
            self.outcomes.append(outcome)
        return deltas


def is_sum(op: Op) -> bool:
    """Returns whether it is a sum or a difference of two operands."""
    return op.rule is not None and len(op.rule.weights) == 2


def _shift(item: _Array, origin: Origin, op: Op) -> Partial:
    """One shift in place of its array; in place of others, zero in a sum."""
    if origin in item.shifts:
        return known(item.shifts[origin])
    if Trait.LINEAR not in op.traits:
        return item.part
    return known(np.zeros(item.part.varies.shape, item.part.values.dtype))


def _fold(origin: Origin, shift: Any, view: View, op: Op) -> _Fold:
    """The mean of a shift over the places where each entry of a variable is added."""
    shape, size = op.out_shapes[0], math.prod(view.shape)
    order = np.broadcast_to(view.order, shape).reshape(-1)
    values = np.broadcast_to(shift, shape).reshape(-1)
    values = values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)
    uses = np.bincount(order, minlength=size)
    counts = np.maximum(uses, 1)
    mean = np.bincount(order, values.real, minlength=size) / counts
    if np.iscomplexobj(values):
        mean = mean + 1j * np.bincount(order, values.imag, minlength=size) / counts
    rounding = jnp.finfo(shift.dtype).eps if _kind(shift.dtype) else 0
    mean = mean if _kind(shift.dtype) else np.rint(mean)
    return _Fold(
        origin=origin,
        path=view.path,
        delta=(op.rule.weights[1] * mean).reshape(view.shape),
        entries=(uses > 0).reshape(view.shape),
        unevenness=float(np.abs(values - mean[order]).max()),
        tolerance=max(1e-5, 4 * float(rounding)) * float(np.abs(values).max()),
    )


def _kind(dtype: Any) -> int:
    """0 for integers, 1 for real numbers, 2 for complex ones: a lower kind holds no higher."""
    kinds = (jnp.floating, jnp.complexfloating)
    return next((i for i, kind in enumerate(kinds, 1) if jnp.issubdtype(dtype, kind)), 0)
