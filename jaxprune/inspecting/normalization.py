"""The BatchNorms of a traced program, found by what they compute and never by a name.

The program is read once, with every array as a sum of products (`_products.py`). A BatchNorm is a
sum in which `root * x` and `- root * mean` come together, times a scale or not, where mean and
variance are both variables (running statistics), or both of the batch: reductions over all axes but
those along which the scale varies. So LayerNorm, RMSNorm, GroupNorm and InstanceNorm, whose
statistics vary along the batch, are none. InstanceNorm of one example without a batch axis is one:
it is the same program.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.inspecting import products as pr
from jaxprune.inspecting.products import NUMBER, Factor, Product, Sum
from jaxprune.program import jaxpr, outputs
from jaxprune.program.jaxpr import Op
from jaxprune.program.relate import Walk
from jaxprune.program.rules.control import CALLS

_SAME = frozenset(
    "convert_element_type copy device_put layout_constraint name optimization_barrier pbroadcast "
    "pvary reduce_precision reshard select_inputs sharding_constraint stop_gradient".split()
)
"""Operations after which every operand is what it was."""
_BOUNDED = frozenset("abs clamp conj imag max min real".split())
"""Operations that leave a statistic one, such as a bound that keeps it from zero."""
_PARTS = frozenset("concatenate slice split".split())
"""Operations by which statistics travel together."""


class Normalization(NamedTuple):
    """One BatchNorm, in places of variables; None where it has none or the call tells none."""

    scale: int | None
    bias: int | None
    mean: int | None
    var: int | None


class _Key(NamedTuple):
    """What tells one BatchNorm from another."""

    root: frozenset[Any]
    mean: Factor
    scale: int | None


def normalizations(graph: ChannelGraph) -> list[Normalization]:
    """Returns the BatchNorms that a graph's function computes, in the order of the program."""
    shapes = [variable.shape for variable in graph.variables.values()]
    reader = _Reader()
    ins = [_variable(i, shape) for i, shape in enumerate(shapes)]
    ins += [reader.array() for _ in graph.walk.program.invars[len(ins) :]]
    outs = reader.run(graph.walk, ins)
    twins = outputs.twins(graph.output, graph.variables)
    running = dict(_running(outs, twins))
    found: dict[Any, Normalization] = {}
    for key, bias in reader.found.items():
        mean = _statistic(frozenset([(key.mean.kind, key.mean.of)]), running)
        here = Normalization(key.scale, bias, mean, _statistic(key.root, running))
        which = (key.root, key.mean) if key.scale is None else key.scale
        before = found.get(which, here)
        found[which] = Normalization(
            *(new if old is None else old for old, new in zip(before, here, strict=True))
        )
    scaled = {key[:2] for key in reader.found if key.scale is not None}
    return [item for which, item in found.items() if which not in scaled and set(item) != {None}]


def _variable(place: int, shape: tuple[int, ...]) -> Sum:
    axes = tuple(axis for axis, size in enumerate(shape) if size != 1)
    return pr.single("variable", place, axes) if axes else NUMBER


def _running(outs: Sequence[Sum], twins: outputs.Twins) -> Iterator[tuple[frozenset[Any], int]]:
    """Yields (statistic of the batch, place of the variable that averages it).

    Of several that average one, the last is what is read in eval mode: a debiased average, which is
    made of another and not of itself.
    """
    found = []
    for out, twin in zip(outs, twins, strict=True):
        factors = {factor for product in out for factor in product}
        batch = frozenset((f.kind, f.of) for f in factors if f.kind == "batch")
        if twin is not None and batch and all(f.kind in ("variable", "batch") for f in factors):
            itself = ("variable", twin) in {(f.kind, f.of) for f in factors}
            found.append((not itself, batch, twin))
    for _, batch, twin in sorted(found, key=lambda item: item[0]):
        yield batch, twin


def _statistic(of: frozenset[Any], running: Mapping[frozenset[Any], int]) -> int | None:
    """The variable that a statistic is, or that averages it."""
    variables = [place for kind, place in of if kind == "variable"]
    return variables[0] if variables else running.get(of)


class _Reader:
    """One reading of a program, which collects {BatchNorm: its bias}."""

    def __init__(self) -> None:
        self.found: dict[_Key, int | None] = {}
        self.numbers = count()

    def array(self) -> Sum:
        """Returns an array of which nothing is known."""
        return pr.single("array", next(self.numbers))

    def run(self, walk: Walk, ins: Sequence[Sum]) -> list[Sum]:
        """Returns the results of a program."""
        env = dict(zip(walk.program.invars, ins, strict=True))
        env.update((var, self.checked(None, jaxpr.shape(var))) for var in walk.program.constvars)

        def read(atom: Any) -> Sum:
            return _literal(jaxpr.literal(atom)) if jaxpr.is_literal(atom) else env[atom]

        for op in walk.ops:
            outs = self.apply(op, [read(atom) for atom in op.eqn.invars])
            for var, out in zip(op.eqn.outvars, outs, strict=True):
                env[var] = self.checked(out, jaxpr.shape(var))
        return [read(atom) for atom in walk.program.outvars]

    def checked(self, out: Sum | None, shape: tuple[int, ...]) -> Sum:
        """Returns a result, in short where it is long, and notes a BatchNorm in it."""
        if out is None:
            return self.array() if any(size != 1 for size in shape) else NUMBER
        for key in _matches(out):
            bias = self.found.get(key)
            self.found[key] = _bias(out, key) if bias is None else bias
        short = out if len(out) <= pr.LIMIT else pr.folded(out, next(self.numbers))
        return short if len(short) <= pr.LIMIT else self.array()

    def apply(self, op: Op, ins: Sequence[Sum]) -> Sequence[Sum | None]:
        """Returns the results of one operation, None where nothing is known of one."""
        if op.inner:
            return self.inside(op, ins)
        if op.name in _SAME:
            return ins[: len(op.out_shapes)]
        if op.name in _PARTS:
            return self.parts(op, ins)
        if op.name in ("reduce_sum", "psum", "psum_invariant"):
            return [self.reduced(op, i, item) for i, item in enumerate(ins)]
        if op.name in _MOVES:
            return [pr.moved(ins[0], _MOVES[op.name](op), next(self.numbers))]
        if op.name in _ARITHMETIC:
            return [self.computed(op, ins)]
        return [None] * len(op.out_shapes)

    def inside(self, op: Op, ins: Sequence[Sum]) -> Sequence[Sum | None]:
        """Returns the results of an operation that calls programs."""
        if op.name in CALLS or op.name == "shard_map":
            return self.run(op.inner[0], ins)
        if op.name == "scan":
            n, m = op.params["num_consts"], op.params["num_carry"]
            carry = [self.array() for _ in range(m)]
            rows = [pr.moved(item, _row, next(self.numbers)) for item in ins[n + m :]]
            outs = self.run(op.inner[0], [*ins[:n], *carry, *rows])
            stacked = [pr.moved(item, _stacked, next(self.numbers)) for item in outs[m:]]
            return [*carry, *stacked]
        if op.name == "cond":
            branches = [self.run(walk, ins[1:]) for walk in op.inner]
            return [_one_of(cases) for cases in zip(*branches, strict=True)]
        for walk in op.inner:
            self.run(walk, [self.array() for _ in walk.program.invars])
        return [None] * len(op.out_shapes)

    def reduced(self, op: Op, i: int, item: Sum) -> Sum | None:
        """A sum over axes of what depends on the inputs is a statistic along the others."""
        gone = [axis for axis in op.params["axes"] if not isinstance(axis, str)]
        if not gone:
            return item
        if op.sources[i] is not None or not op.out_shapes[i]:
            return None
        made = frozenset([next(self.numbers)])
        return pr.single("batch", made, tuple(range(len(op.out_shapes[i]))))

    def parts(self, op: Op, ins: Sequence[Sum]) -> Sequence[Sum | None]:
        """Statistics of the batch side by side, or taken apart again, are such statistics."""
        factors = {factor for item in ins for product in item for factor in product}
        axes = {factor.axes for factor in factors}
        if len(axes) != 1 or any(factor.kind != "batch" for factor in factors):
            return [None] * len(op.out_shapes)
        (axes,) = axes
        return [pr.single("batch", frozenset([next(self.numbers)]), axes) for _ in op.out_shapes]

    def computed(self, op: Op, ins: Sequence[Sum]) -> Sum | None:
        """The result of an elementwise operation."""
        if all(item.keys() == {()} for item in ins):
            return {(): -ins[0][()]} if op.name == "neg" else NUMBER
        return _ARITHMETIC[op.name](self, op, *ins)

    def product(self, a: Sum, b: Sum) -> Sum | None:
        """A product, if it is not long."""
        return pr.times(a, b) if len(a) * len(b) <= 4 * pr.LIMIT else None


def _literal(value: Any) -> Sum:
    return {(): -1} if np.ndim(value) == 0 and np.isreal(value) and value < 0 else NUMBER


def _row(axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes within one step of a scan."""
    return tuple(axis - 1 for axis in axes if axis) if 0 in axes or not axes else None


def _stacked(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of all steps of a scan."""
    return (0, *(axis + 1 for axis in axes)) if axes else ()


def _matches(a: Sum) -> Iterator[_Key]:
    """Yields the BatchNorms in a sum: `root * scale * x` and `- root * scale * mean`."""
    if len(a) < 2:
        return
    for root in {f for product in a for f in product if f.kind == "root"}:
        terms = {_without(p, root): sign for p, sign in a.items() if root in p}
        arrays = [rest for rest in terms if pr.has(rest, "array")]
        for rest, sign in terms.items():
            for mean in rest if sign < 0 and arrays and pr.statistics(rest) else ():
                scale, alike = _without(rest, mean), mean.kind in {kind for kind, _ in root.of}
                within = all(_within(scale, other) for other in arrays)
                if alike and within and mean.axes == root.axes:
                    yield _Key(root.of, mean, _scale(scale, root))


def _without(product: Product, factor: Factor) -> Product:
    place = product.index(factor)
    return product[:place] + product[place + 1 :]


def _within(some: Product, product: Product) -> bool:
    return all(factor in product for factor in some)


def _scale(factors: Product, root: Factor) -> int | None:
    """The one variable that scales every channel, if there is one."""
    if len(factors) != 1 or factors[0].kind != "variable" or factors[0].axes != root.axes:
        return None
    return factors[0].of


def _bias(a: Sum, key: _Key) -> int | None:
    """The variable that is added to a BatchNorm and to nothing else."""
    roots = {f for product in a for f in product if f.kind == "root" and f.of == key.root}
    rest = [product for product in a if product and not roots & set(product)]
    if len(rest) != 1 or len(rest[0]) != 1 or a[rest[0]] < 0:
        return None
    (bias,) = rest[0]
    return bias.of if bias.kind == "variable" and bias.axes == key.mean.axes else None


def _inverse_root(reader: _Reader, op: Op, a: Sum) -> Sum | None:
    del reader, op
    found = pr.statistic(a)
    return None if found is None else pr.single("root", found.of, found.axes)


def _root(reader: _Reader, op: Op, a: Sum) -> Sum | None:
    del reader, op
    found = pr.statistic(a)
    return None if found is None else pr.single("deviation", found.of, found.axes)


def _divided(reader: _Reader, op: Op, a: Sum, b: Sum) -> Sum | None:
    del op
    if b.keys() == {()}:
        return {product: sign * b[()] for product, sign in a.items()}
    under = pr.deviation(b)
    return None if under is None else reader.product(a, pr.single("root", under.of, under.axes))


def _power(reader: _Reader, op: Op, a: Sum, b: Sum | None = None) -> Sum | None:
    del b
    exponent = op.params["y"] if "y" in op.params else jaxpr.literal(op.eqn.invars[1])
    if exponent == 2:
        return reader.product(a, a)
    if exponent == -1:
        return _divided(reader, op, NUMBER, a)
    if exponent in (0.5, -0.5):
        return _root(reader, op, a) if exponent > 0 else _inverse_root(reader, op, a)
    return None


def _bounded(reader: _Reader, op: Op, *ins: Sum) -> Sum | None:
    del reader, op
    (item, *more) = [item for item in ins if item.keys() != {()}]
    kept = pr.statistic(item) or pr.deviation(item)
    return None if more or kept is None else item


def _one_of(cases: Sequence[Sum]) -> Sum | None:
    """One of several statistics may be each; else nothing is known unless all are the same."""
    if all(case == cases[0] for case in cases):
        return cases[0]
    union = {p: sign for case in reversed(cases) for p, sign in case.items()}
    return union if pr.statistic(union) else None


_ARITHMETIC: Mapping[str, Any] = {
    "add": lambda _reader, _, a, b: pr.plus(a, b),
    "add_any": lambda _reader, _, a, b: pr.plus(a, b),
    "sub": lambda _reader, _, a, b: pr.plus(a, b, -1),
    "neg": lambda _reader, _, a: {product: -sign for product, sign in a.items()},
    "mul": lambda reader, _, a, b: reader.product(a, b),
    "square": lambda reader, _, a: reader.product(a, a),
    "div": _divided,
    "pow": _power,
    "integer_pow": _power,
    "rsqrt": _inverse_root,
    "sqrt": _root,
    "select_n": lambda _reader, _, _which, *cases: _one_of(cases),
    **dict.fromkeys(_BOUNDED, _bounded),
}


def _broadcast(op: Op) -> pr.Axes:
    to = op.params["broadcast_dimensions"]
    return lambda axes: tuple(int(to[axis]) for axis in axes)


def _squeezed(op: Op) -> pr.Axes:
    before = jaxpr.shape(op.eqn.invars[0])
    left = [axis for axis in range(len(before)) if axis not in op.params["dimensions"]]
    return lambda axes: tuple(map(left.index, axes)) if set(axes) <= set(left) else None


def _transposed(op: Op) -> pr.Axes:
    order = [int(axis) for axis in op.params["permutation"]]
    return lambda axes: tuple(sorted(map(order.index, axes)))


_MOVES: Mapping[str, Any] = {
    "broadcast_in_dim": _broadcast,
    "reshape": lambda op: pr.reshaped(jaxpr.shape(op.eqn.invars[0]), op.out_shapes[0]),
    "squeeze": _squeezed,
    "transpose": _transposed,
}
