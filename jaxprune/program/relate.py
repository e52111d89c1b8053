"""Runs the rules over a program: every array gets its axis spaces."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxprune.errors import TraceError
from jaxprune.program import diagonals, jaxpr, pointers, reasons, traced_spaces
from jaxprune.program import spaces as ax
from jaxprune.program.diagonals import Diagonals
from jaxprune.program.jaxpr import Op, Program
from jaxprune.program.pointers import Of
from jaxprune.program.reasons import Reason
from jaxprune.program.rules import Rule, repeated
from jaxprune.program.spaces import Atom, Space
from jaxprune.program.static import Static
from jaxprune.program.traits import Trait

Axes = list[Space]
Sources = frozenset[int] | None
_Array = tuple[Axes, Sources, Of]


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """A program with its operations, and the axes of its inputs, outputs and constants.

    `points`: what its outputs point into.
    """

    program: Program
    ops: list[Op]
    ins: list[Axes]
    outs: list[Axes]
    consts: list[Axes]
    points: list[Of]


def fix(walk: Walk) -> None:
    """Writes every space of a walk in the atoms that are left; they cannot change from then on."""
    known: dict[Space, Space] = {}
    for arrays in _arrays(walk):
        arrays[:] = [[traced_spaces.fix(space, known) for space in axes] for axes in arrays]
    for given in _pointers(walk):
        given[:] = [pointers.moved(of, lambda x: traced_spaces.fix(x, known)) for of in given]


def _arrays(walk: Walk) -> Iterator[Any]:
    """Yields the lists of axes of a walk, of inner programs too."""
    yield from (walk.ins, walk.outs, walk.consts)
    for op in walk.ops:
        yield from (op.ins, op.outs)
        for inner in op.inner:
            yield from _arrays(inner)


def _pointers(walk: Walk) -> Iterator[Any]:
    """Yields the lists of what is pointed into, of inner programs too."""
    yield walk.points
    for op in walk.ops:
        yield from (op.of, op.points)
        for inner in op.inner:
            yield from _pointers(inner)


class Recorded(NamedTuple):
    """A contraction as it was met; `branches` holds those of a `cond` instead."""

    op: Op
    repeats: int
    coefficient: int = 0
    spaces: Sequence[Space] = ()
    output: Sequence[Space] = ()
    kernels: frozenset[int] = frozenset()
    branches: Sequence[list["Recorded"]] = ()


class Tracer:
    """Collects what the rules find: contractions, roles of variable axes, unknown primitives.

    With `free_constants` the axes of constants and of counts (`iota`) are free.
    """

    def __init__(
        self, rules: Mapping[str, Rule], *, strict: bool = False, free_constants: bool = False
    ):
        self.rules = rules
        self.strict = strict
        self.free_constants = free_constants
        self.diagonals = Diagonals(frozenset(), {})
        self.repeats = 1
        self.contractions: list[Recorded] = []
        self.roles: list[tuple[Atom, str]] = []
        self.beside: dict[Atom, list[Atom]] = {}

    def walk(
        self,
        program: Program,
        ins: list[Axes],
        sources: Sequence[Sources],
        scope: str = "",
        caller: Op | None = None,
        of: Sequence[Of] | None = None,
    ) -> Walk:
        """Returns the walk of `program` for operand axes `ins`, which point into `of`."""
        program = repeated.joined(program)
        env: dict[Any, _Array] = {}
        given = zip(ins, sources, of or [None] * len(ins), strict=True)
        env.update(zip(program.invars, given, strict=True))
        if caller is None:
            self.diagonals = diagonals.find(program, self.rules)
        pairs = zip(program.constvars, program.consts, strict=True)
        consts = [self.constant(var, value) for var, value in pairs]
        env.update(
            (v, (c, frozenset(), None)) for v, c in zip(program.constvars, consts, strict=True)
        )
        static = Static(program, self.rules, _given(program, caller))
        ops = []
        for eqn in program.eqns:
            operands = [_read(env, atom) for atom in eqn.invars]
            axes, given = [item[0] for item in operands], [item[1] for item in operands]
            op = Op(eqn, scope, axes, given, caller, self, self.rules)
            op.static = static
            op.of = [item[2] for item in operands]
            op.outs = self.apply(op)
            op.points = [*_points(op)]
            source = _union(op.sources)
            made = ((axes, source, of) for axes, of in zip(op.outs, op.points, strict=True))
            env.update(zip(eqn.outvars, made, strict=True))
            ops.append(op)
        results = [_read(env, atom) for atom in program.outvars]
        outs, points = [item[0] for item in results], [item[2] for item in results]
        return Walk(program, ops, ins, outs, consts, points)

    def constant(self, var: Any, value: Any) -> Axes:
        """Returns the axes of a constant of the function."""
        if self.free_constants:
            return list(map(ax.fresh, jaxpr.shape(var)))
        axes = _constant(var)
        if (pair := diagonals.identity(value)) is not None:
            space = ax.fresh(axes[pair[0]].size)
            axes[pair[0]] = axes[pair[1]] = space
        return axes

    def apply(self, op: Op) -> list[Axes]:
        """Returns the axes of the results of `op`."""
        outs = self._unknown(op) if op.rule is None else op.rule.axes(op)
        self._note_beside(op)
        pair = self.diagonals.compared.get(op.eqn.outvars[0]) if op.eqn.outvars else None
        if pair is not None:
            ax.unify(outs[0][pair[0]], outs[0][pair[1]], op)
        return outs

    def counts_freely(self, op: Op) -> bool:
        """True if the axis along which `op` counts may be cut."""
        return self.free_constants or op.eqn.outvars[0] in self.diagonals.counted

    def _unknown(self, op: Op) -> list[Axes]:
        if self.strict:
            raise TraceError(
                f"unknown primitive {op.name} at {op.place}: its axes cannot be followed.\n"
                f"Fix: trace(..., rules=jp.RULES | {{{op.name!r}: rule}}), or strict=False to "
                "freeze what it touches."
            )
        reason = Reason(reasons.UNKNOWN, (op.name,), op)
        for axes in op.ins:
            for space in axes:
                ax.freeze(space, reason)
        return [[ax.frozen(size, reason) for size in shape] for shape in op.out_shapes]

    def call(
        self,
        op: Op,
        program: Program | tuple[Program, ...],
        ins: list[Axes],
        sources: Sequence[Sources],
        repeats: int = 1,
    ) -> Any:
        """Walks an inner program of `op`, or every branch; returns the axes of the results."""
        scope = jaxpr.join(op.eqn, op.scope)
        if isinstance(program, Program):
            self.repeats *= repeats
            passes = op.form is not None and op.form.calls and not op.form.custom
            walk = self.walk(program, ins, sources, scope, op, op.of if passes else None)
            self.repeats //= max(repeats, 1)
            if not passes:
                pointers.freeze(walk.points)
            op.inner.append(walk)
            return walk.outs
        outside, branches = self.contractions, []
        for branch in program:
            self.contractions = []
            op.inner.append(self.walk(branch, ins, sources, scope, op))
            pointers.freeze(op.inner[-1].points)
            branches.append(self.contractions)
        self.contractions = outside
        if any(branches):
            outside.append(Recorded(op, 1, branches=branches))
        return [walk.outs for walk in op.inner]

    def record(
        self,
        op: Op,
        *,
        out: Sequence[Space] = (),
        spaces: Sequence[Space] = (),
        coefficient: int = 1,
        contracted: Sequence[Sequence[Space]] = (),
        table: Sequence[Space] | None = None,
    ) -> None:
        """Notes a contraction of `op` and the roles of the variables that enter it."""
        if table is not None:
            self._note_role("out", table)
            return
        kernels: frozenset[int] = frozenset()
        for axes, source, gone in zip(op.ins, op.sources, contracted, strict=False):
            if not source:
                continue
            kernels |= source
            for space in axes:
                role = "in" if any(space is other for other in gone) else "out"
                self._note_role(role, [space])
        self.contractions.append(Recorded(op, self.repeats, coefficient, spaces, out, kernels))

    def _note_role(self, role: str, spaces: Sequence[Space]) -> None:
        """Notes a role of the axes of variables in `spaces`, and of those beside them."""
        left = [atom for space in reversed(spaces) for atom in reversed(_owned(space))]
        met: set[Atom] = set()
        while left:
            atom = left.pop()
            if atom not in met:
                met.add(atom)
                self.roles.append((atom, role))
                left.extend(reversed(self.beside.get(atom, [])))

    def _note_beside(self, op: Op) -> None:
        """Notes which axes of whole variables `op` lays upon each other: it keeps those of one.

        An array with axes that no variable has, such as a bias that is spread, only changes others.
        """
        if not op.traits & (Trait.ENTRYWISE | Trait.TOGETHER):
            return
        whole = [
            [_owned(space) for space in axes]
            for axes, source in zip(op.ins, op.sources, strict=True)
            if source and _is_whole(op, axes)
        ]
        for other in whole[1:]:
            for here, there in zip(whole[0], other, strict=False):  # numbers have no axes
                for atom in here:
                    self.beside.setdefault(atom, []).extend(there)


def _given(program: Program, caller: Op | None) -> dict[Any, Any]:
    """The inputs of a program whose integers its caller knows."""
    if caller is None or caller.form is None or not caller.form.calls:
        return {}
    return {var: caller.value(i) for i, var in enumerate(program.invars)}


def _points(op: Op) -> Sequence[Of]:
    """What the results of an operation point into; what it may use as numbers is frozen."""
    rule = op.rule
    targets = None if rule is None or rule.points is None else rule.points(op)
    if targets is None:
        pointers.freeze(op.of)
        return [None] * len(op.outs)
    return targets


def _read(env: Mapping[Any, _Array], atom: Any) -> _Array:
    return (_constant(atom), frozenset(), None) if jaxpr.is_literal(atom) else env[atom]


def _constant(atom: Any) -> Axes:
    return [ax.frozen(size, Reason(reasons.CONSTANT)) for size in jaxpr.shape(atom)]


def _union(sources: Sequence[Sources]) -> Sources:
    union: frozenset[int] = frozenset()
    for source in sources:
        if source is None:
            return None
        union |= source
    return union


def _is_whole(op: Op, axes: Axes) -> bool:
    """True if every axis of an operand was made for a variable, and none is repeated."""
    shape = tuple(space.size for space in axes)
    spread = Trait.ENTRYWISE in op.traits and shape != op.out_shapes[0]
    return not spread and all(_owned(space) for space in axes if space.size > 1)


def _owned(space: Space) -> list[Atom]:
    """The atoms of a space that were made for a variable."""
    owned, left = [], [space]
    while left:
        space = left.pop()
        if not isinstance(space, Atom):
            left.extend(reversed(space.parts if isinstance(space, ax.Sum) else space.factors))
        elif space.owner is not None:
            owned.append(space)
    return owned
