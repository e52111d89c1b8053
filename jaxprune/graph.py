"""The channel graph: which axes of which variables must be cut together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.arguments.checks import kind_of
from jaxprune.errors import JaxpruneError
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op
from jaxprune.program.linen_calls import Call
from jaxprune.program.reasons import Why
from jaxprune.program.relate import Walk
from jaxprune.program.rules import Rule
from jaxprune.program.spaces import Atom, Space
from jaxprune.program.stream_readers import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One place where a group appears: `axis` of the variable at `path`, used as `role`.

    The role is `out` (free axis of a contraction), `in` (contracted axis) or `vector`. `masked` is
    False where zeros would not be finite (the filters of weight normalization): `mask` leaves the
    values, and the other slots of the group silence the channel. `layer` is the axis of the
    variable that counts the layers which have their own channels, None without such.
    """

    path: str
    axis: int
    role: str
    masked: bool = True
    layer: int | None = None
    space: Space = field(repr=False)
    atom: Atom = field(repr=False)

    @property
    def positions(self) -> np.ndarray:
        """int[n, m]: the m positions along the axis that belong to each of the n channels."""
        return ax.positions(self.space, self.atom)

    def along(self, values: Any) -> Any:
        """Returns the sums of `values`, of the variable's shape, at every index of the axis.

        They are [m], or [layers, m] where the layers of a stack have their own channels.
        """
        return sums_along(values, self.axis, self.layer)

    def owned(self, sums: Any) -> Any:
        """Returns what every channel owns of sums along the axis: [n], or [layers, n]."""
        return sums if self.space is self.atom else sums[..., self.positions].sum(axis=-1)


def sums_along(values: Any, axis: int, layer: int | None) -> Any:
    """Returns the sums at every index of an axis: [m], or [layers, m] with an axis of layers."""
    others = tuple(other for other in range(values.ndim) if other not in (axis, layer))
    sums = values.sum(axis=others)
    return sums.T if layer is not None and layer > axis else sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A channel group: pruning index i removes index i from every slot.

    `inexact` is None if masking equals slicing exactly, else the operation that prevents it, and
    `way_out` what to do about that, if there is anything.
    `least` channels stay at least: `top_k` chooses so many of them.
    `layers` is None, or the number of stacked layers of which each has its own `size` channels:
    then scores are f32[layers, n] and keeps bool[layers, n] with the same count in every layer.
    """

    name: str
    size: int
    slots: tuple[Slot, ...]
    inexact: str | None = None
    way_out: str = ""
    layers: int | None = None
    least: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its scores and its keep."""
        return (self.size,) if self.layers is None else (self.layers, self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A part of a variable's axis that cannot be pruned, with the reason and its place."""

    path: str
    axis: int
    size: int
    reason: str
    place: str
    why: Why = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A leaf of the variables with the space of every axis."""

    path: str
    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[Space, ...]
    weak_type: bool

    def struct(self, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        """Returns what the variable is to JAX, at another shape."""
        return jax.ShapeDtypeStruct(shape, self.dtype, weak_type=self.weak_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contraction:
    """One contraction: repeats * coefficient * product of `spaces` multiply-accumulates.

    Its output has `itemsize` bytes for each index of `output`; `kernels` are the variables that
    enter it. `op` is the operation itself.
    """

    name: str
    place: str
    op: Op = field(repr=False)
    repeats: int
    coefficient: int
    spaces: tuple[Space, ...]
    output: tuple[Space, ...]
    itemsize: int
    kernels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """The contractions of each branch of a `cond`; the dearest counts."""

    alternatives: tuple[tuple["Contraction | Branches", ...], ...]


class State(NamedTuple):
    """State among the inputs of the call, such as a KV cache; see `state` of `jaxprune.trace`.

    Attributes:
      inputs: the paths that it may have among the inputs: by position, by keyword.
      output: its path among the outputs, None if it is not returned.
      variables: {path in the state: Variable}.
    """

    inputs: tuple[str, ...]
    output: str | None
    variables: Mapping[str, Variable]


class TraceOptions(NamedTuple):
    """What a trace was asked for beside its rules; see `jaxprune.trace`."""

    layers: Mapping[str, int]
    free_outputs: Sequence[str]
    free_constants: bool
    state: Any
    index_inputs: Mapping[Any, int] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelGraph:
    """All channel groups of a function, what is frozen and why, and what it costs.

    A graph is a value: nothing writes to it once it is traced, so that threads may share it. Two
    graphs are equal only if they are the same object.

    Attributes:
      groups: {name: Group} in tree order.
      frozen: the parts of variable axes that cannot be pruned.
      variables: {path: Variable} in tree order.
      contractions: every contraction with its closed-form size.
      readings: the layers that keep their own channels of a stream; see `jp.select_inputs`.
      unread: the variables that the traced call neither reads nor writes: they stay whole.
      calls: the calls of top-level Linen modules.
      inputs: the inputs of the traced call by position; `keywords` those by keyword, and
        `constants` the keywords that are not inputs.
      state: {name: State} of the inputs that are pruned too.
      index_inputs: {path: the space that the integers of this input point into}.
      filter_axes: {variable: its axes that contractions do not sum over}, for those that enter one.
      symbols: the names in symbolic sizes of the inputs, traced as 1, each with whether it is only
        a batch.
      table: what `print(graph)` shows.
    """

    groups: Mapping[str, Group]
    frozen: tuple[Frozen, ...]
    variables: Mapping[str, Variable]
    contractions: tuple[Contraction | Branches, ...] = field(repr=False)
    readings: tuple[Reading, ...] = field(repr=False)
    unread: tuple[str, ...]
    calls: tuple[Call, ...] = field(repr=False)
    fn: Callable[..., Any] = field(repr=False)
    inputs: tuple[Any, ...] = field(repr=False)
    keywords: Mapping[str, Any] = field(repr=False)
    constants: Mapping[str, Any] = field(repr=False)
    state: Mapping[str, State] = field(repr=False)
    treedef: Any = field(repr=False)
    rules: Mapping[str, Rule] = field(repr=False)
    options: TraceOptions = field(repr=False)
    walk: Walk = field(repr=False)
    output: Any = field(repr=False)
    symbols: Mapping[str, bool] = field(default_factory=dict, repr=False)
    index_inputs: Mapping[str, Space] = field(default_factory=dict, repr=False)
    filter_axes: Mapping[str, frozenset[int]] = field(default_factory=dict, repr=False)
    table: Callable[["ChannelGraph"], str] = field(default=repr, repr=False)

    def __str__(self) -> str:
        return self.table(self)

    @property
    def abstract(self) -> Any:
        """The variables as a pytree of `jax.ShapeDtypeStruct`."""
        leaves = [v.struct(v.shape) for v in self.variables.values()]
        return jax.tree.unflatten(self.treedef, leaves)


def check_graph(graph: Any) -> None:
    """Raises JaxpruneError unless `graph` is a channel graph."""
    if not isinstance(graph, ChannelGraph):
        raise JaxpruneError(
            f"expected a channel graph, got {kind_of(graph)}.\n"
            "Fix: graph = jp.trace(fn, variables, *inputs)."
        )
