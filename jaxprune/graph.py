"""The channel graph: which axes of which variables must be cut together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from jaxprune import (
    _jaxpr,
    _linen_calls,
    exactness,
    naming,
    outputs,
    paths,
    stacks,
    streams,
    symbolic,
    unread,
)
from jaxprune import axes as ax
from jaxprune._arguments import kind_of
from jaxprune._functions import check_tracing
from jaxprune._linen_calls import Call
from jaxprune.axes import Atom, Space
from jaxprune.errors import JaxpruneError, TraceError
from jaxprune.rules import RULES, Rule
from jaxprune.streams import Reading
from jaxprune.walk import Recorded, Tracer, Walk, fix


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
        kept = {self.axis, self.layer}
        sums = values.sum(axis=tuple(axis for axis in range(values.ndim) if axis not in kept))
        return sums.T if self.layer is not None and self.layer > self.axis else sums

    def owned(self, sums: Any) -> Any:
        """Returns what every channel owns of sums along the axis: [n], or [layers, n]."""
        return sums if self.space is self.atom else sums[..., self.positions].sum(axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A channel group: pruning index i removes index i from every slot.

    `inexact` is None if masking equals slicing exactly, else the operation that prevents it.
    `layers` is None, or the number of stacked layers of which each has its own `size` channels:
    then scores are f32[layers, n] and keeps bool[layers, n] with the same count in every layer.
    """

    name: str
    size: int
    slots: tuple[Slot, ...]
    inexact: str | None = None
    layers: int | None = None

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A leaf of the variables with the space of every axis."""

    path: str
    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[Space, ...]
    weak_type: bool = False

    def struct(self, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        """Returns what the variable is to JAX, at another shape."""
        return jax.ShapeDtypeStruct(shape, self.dtype, weak_type=self.weak_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contraction:
    """One contraction: repeats * coefficient * product of `spaces` multiply-accumulates.

    Its output has `itemsize` bytes for each index of `output`; `kernels` are the variables that
    enter it.
    """

    name: str
    place: str
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
      symbols: the names in symbolic sizes of the inputs, traced as 1, each with whether it is only
        a batch.
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
    treedef: Any = field(repr=False)
    rules: Mapping[str, Rule] = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)  # layers, free_outputs, free_constants
    walk: Walk = field(repr=False)
    output: Any = field(repr=False)
    symbols: Mapping[str, bool] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        from jaxprune import report

        return report.graph_table(self)

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


def trace(
    fn: Callable[..., Any],
    variables: Any,
    *inputs: Any,
    rules: Mapping[Any, Rule | Callable[..., Any]] = RULES,
    strict: bool = False,
    layers: Mapping[str, int] = MappingProxyType({}),
    free_outputs: Sequence[str] = (),
    free_constants: bool = False,
) -> ChannelGraph:
    """Returns the channel graph of `fn(variables, *inputs)`, found without running it.

    Args:
      fn: any JAX function of a pytree of variables and inputs, for example
        `lambda v, x: model.apply(v, x, train=False)`.
      variables: arrays or `jax.ShapeDtypeStruct`s; what may be pruned.
      *inputs: arrays, shapes or pytrees of them; their axes are frozen. MACs are those of this
        call, so batch 1 gives the usual figure; a symbolic batch (`jax.export.symbolic_shape`) is
        traced as 1.
      rules: primitive, or its name -> `Rule`, or the bare function that relates its axes; extend
        the table with `jp.RULES | {my_primitive: my_rule}`.
      strict: raise at a primitive without a rule, which otherwise freezes what it touches.
      layers: {pattern of variable paths: axis} of stacked layers that no scan steps over, such as
        blocks under `jax.vmap`: their groups are pruned in every layer by itself, as those inside
        of a scan are, and the axis is not.
      free_outputs: patterns of the paths of outputs whose channels may be pruned, such as
        features on the way; the axes of all others are frozen. An output that is no part of a
        container has the path "".
      free_constants: channels that meet a constant array of the function, or what `jnp.arange`
        counts (a table of sines, the frequencies of a rotation), may be pruned too. `jp.narrow`
        cuts the constants with them; a resized module would compute others, and is refused.

    Raises:
      TraceError: `strict` and a primitive has no rule, a variable is not an array, or has no axis
        `layers`.
      PatternError: a pattern of `layers` or `free_outputs` matches nothing.
    """
    check_tracing(fn, inputs, rules, layers, (strict, free_constants))
    table = {
        getattr(key, "name", key): rule if isinstance(rule, Rule) else Rule(rule)
        for key, rule in rules.items()
    }
    leaves, treedef = paths.flatten(variables)
    _check_leaves(leaves)
    symbols, inputs = symbolic.names(inputs), symbolic.at_one(inputs)
    with _linen_calls.noted() as calls:
        program, output = _jaxpr.trace(fn, variables, *inputs)
    axes: list[list[Space]] = [
        [Atom(size, owner=(i, axis)) for axis, size in enumerate(leaf.shape)]
        for i, leaf in enumerate(leaves.values())
    ]
    twins = outputs.twins(output, leaves)
    unused = unread.freeze_unused(program, axes, twins)
    _give_layers(dict(zip(leaves, axes, strict=True)), layers)
    shapes = map(_jaxpr.shape, program.invars[len(axes) :])
    outside = [[ax.frozen(size, "axis of an input") for size in shape] for shape in shapes]
    sources = [frozenset({i}) for i in range(len(axes))] + [None] * len(outside)
    tracer = Tracer(table, strict=strict, free_constants=free_constants)
    walk = tracer.walk(program, axes + outside, sources)
    streams.tie(walk)
    outputs.tie(output, walk, axes, twins, free_outputs)
    streams.tie_immovable(walk, axes)
    unread.freeze_unread(walk, axes)
    fix(walk)
    found = {
        path: _variable(path, leaf, spaces)
        for (path, leaf), spaces in zip(leaves.items(), walk.ins, strict=False)
    }
    names = list(leaves)
    return ChannelGraph(
        groups=MappingProxyType(_groups(found, walk, tracer)),
        frozen=tuple(_frozen(found)),
        variables=MappingProxyType(found),
        contractions=tuple(_contraction(item, names) for item in tracer.contractions),
        readings=tuple(streams.own(walk)),
        unread=tuple(names[i] for i in unused),
        calls=tuple(calls),
        fn=fn,
        inputs=inputs,
        treedef=treedef,
        rules=table,
        options=dict(layers=layers, free_outputs=free_outputs, free_constants=free_constants),
        walk=walk,
        output=output,
        symbols=MappingProxyType(symbols),
    )


def _variable(path: str, leaf: Any, spaces: Sequence[Space]) -> Variable:
    return Variable(
        path=path,
        shape=leaf.shape,
        dtype=leaf.dtype,
        axes=tuple(map(ax.resolve, spaces)),
        weak_type=getattr(leaf, "weak_type", False),
    )


def _check_leaves(leaves: Mapping[str, Any]) -> None:
    bad = [path for path, leaf in leaves.items() if not hasattr(leaf, "shape")]
    if bad:
        raise TraceError(
            f"variables {bad} are not arrays.\nFix: close over what is not an array (Equinox: "
            "eqx.partition(model, eqx.is_array)), or wrap it with jnp.asarray."
        )
    unknown = [path for path, leaf in leaves.items() if any(map(symbolic.is_symbolic, leaf.shape))]
    if unknown:
        raise TraceError(
            f"variables {unknown} have symbolic sizes, so their channels cannot be counted.\nFix: "
            "give variables numbers; inputs may have a symbolic batch."
        )


def _groups(variables: Mapping[str, Variable], walk: Walk, tracer: Tracer) -> dict[str, Group]:
    """Names the free atoms that reach variables, and decides which groups are exact."""
    paths = list(variables)
    axes = {path: variable.axes for path, variable in variables.items()}
    slots = naming.places(axes, tracer.roles)
    names = naming.names(walk, slots, tracer.roles, paths)
    for atom, name in names.items():
        atom.name = name
    stacks.mark(walk)
    verdict = exactness.decide(walk, tracer.rules, len(paths))
    spared = {(paths[leaf], atom) for leaf, atom in verdict.spared}

    def complete(place: naming.Place) -> Slot:
        layered = place.atom.layers is not None
        axes = variables[place.path].axes
        return Slot(
            path=place.path,
            axis=place.axis,
            role=place.role,
            space=place.space,
            atom=place.atom,
            masked=(place.path, place.atom) not in spared,
            layer=stacks.layer_axis(axes, place.atom) if layered else None,
        )

    return {
        names[atom]: Group(
            name=names[atom],
            size=atom.size,
            slots=tuple(map(complete, members)),
            inexact=verdict.inexact.get(atom),
            layers=atom.layers and stacks.length(atom.layers),
        )
        for atom, members in slots.items()
    }


def _give_layers(variables: Mapping[str, Sequence[Space]], layers: Mapping[str, int]) -> None:
    for pattern, axis in layers.items():
        for path in paths.require([pattern], variables, what="layers pattern"):
            if not -len(variables[path]) <= axis < len(variables[path]):
                raise TraceError(
                    f"layers names axis {axis} of {path!r}, which has {len(variables[path])} axes."
                    "\nFix: layers={'blocks/*': 0} for variables whose leading axis counts layers."
                )
            stacks.give(variables[path][axis], pattern)


def _frozen(variables: Mapping[str, Variable]) -> Iterator[Frozen]:
    for path, variable in variables.items():
        for axis, space in enumerate(variable.axes):
            for atom in dict.fromkeys(ax.atoms(space)):
                if atom.reason is not None and atom.size > 1:
                    yield Frozen(
                        path=path,
                        axis=axis,
                        size=atom.size,
                        reason=atom.reason.text,
                        place=atom.reason.place,
                    )


def _contraction(found: Recorded, names: Sequence[str]) -> Contraction | Branches:
    if found.branches:
        return Branches(
            alternatives=tuple(
                tuple(_contraction(item, names) for item in branch) for branch in found.branches
            )
        )
    return Contraction(
        name=found.op.name,
        place=found.op.place,
        repeats=found.repeats,
        coefficient=found.coefficient,
        spaces=tuple(map(ax.resolve, found.spaces)),
        output=tuple(map(ax.resolve, found.output)),
        itemsize=found.op.eqn.outvars[0].aval.dtype.itemsize,
        kernels=tuple(names[i] for i in sorted(found.kernels)),
    )
