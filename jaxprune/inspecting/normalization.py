"""The BatchNorms of a traced program, found by what they compute and never by a name.

The program is read once, with every array as a sum of products (`sums_of_products.py`). A BatchNorm
is a sum in which `root * x` and `- root * mean` come together, times a scale or not, where mean and
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
from jaxprune.inspecting import sums_of_products as pr
from jaxprune.inspecting.sums_of_products import NUMBER, Factor, Product, Sum
from jaxprune.program import jaxpr, outputs
from jaxprune.program.interpret import Domain, Steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.rules.axis_map import axis_map
from jaxprune.program.traits import Trait

_FOLLOWED = Trait.MULTIPLIES | Trait.DIVIDES | Trait.CHOOSES | Trait.BOUNDS


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
    norms: dict[Any, Normalization] = {}
    for key, bias in reader.biases.items():
        mean = _statistic(frozenset([(key.mean.kind, key.mean.of)]), running)
        here = Normalization(key.scale, bias, mean, _statistic(key.root, running))
        which = (key.root, key.mean) if key.scale is None else key.scale
        before = norms.get(which, here)
        norms[which] = Normalization(
            *(new if old is None else old for old, new in zip(before, here, strict=True))
        )
    scaled = {key[:2] for key in reader.biases if key.scale is not None}
    return [item for which, item in norms.items() if which not in scaled and set(item) != {None}]


def _variable(place: int, shape: tuple[int, ...]) -> Sum:
    axes = tuple(axis for axis, size in enumerate(shape) if size != 1)
    return pr.single("variable", place, axes) if axes else NUMBER


def _running(outs: Sequence[Sum], twins: outputs.Twins) -> Iterator[tuple[frozenset[Any], int]]:
    """Yields (statistic of the batch, place of the variable that averages it).

    Of several that average one, the last is what is read in eval mode: a debiased average, which is
    made of another and not of itself.
    """
    averages = []
    for out, twin in zip(outs, twins, strict=True):
        factors = {factor for product in out for factor in product}
        batch = frozenset((f.kind, f.of) for f in factors if f.kind == "batch")
        if twin is not None and batch and all(f.kind in ("variable", "batch") for f in factors):
            itself = ("variable", twin) in {(f.kind, f.of) for f in factors}
            averages.append((not itself, batch, twin))
    for _, batch, twin in sorted(averages, key=lambda item: item[0]):
        yield batch, twin


def _statistic(of: frozenset[Any], running: Mapping[frozenset[Any], int]) -> int | None:
    """The variable that a statistic is, or that averages it."""
    variables = [place for kind, place in of if kind == "variable"]
    return variables[0] if variables else running.get(of)


class _Reader(Domain[Sum]):
    """One reading of a program, which collects {BatchNorm: its bias}."""

    def __init__(self) -> None:
        self.biases: dict[_Key, int | None] = {}
        self.numbers = count()

    def array(self) -> Sum:
        """Returns an array of which nothing is known."""
        return pr.single("array", next(self.numbers))

    def literal(self, value: Any, atom: Any, op: Op | None) -> Sum:
        """A number, of which the sign is known."""
        del atom, op
        return {(): -1} if np.ndim(value) == 0 and np.isreal(value) and value < 0 else NUMBER

    def constant(self, value: Any, var: Any, axes: Any) -> Sum:
        """An array."""
        del value, axes
        return self.checked(None, jaxpr.shape(var))

    def apply(self, op: Op, ins: list[Sum]) -> Sequence[Sum]:
        """Returns the results of any operation, in short, with the BatchNorms in them noted."""
        outs = super().apply(op, ins)
        return [self.checked(out, shape) for out, shape in zip(outs, op.out_shapes, strict=True)]

    def checked(self, out: Sum | None, shape: tuple[int, ...]) -> Sum:
        """Returns a result, in short where it is long, and notes a BatchNorm in it."""
        if out is None:
            return self.array() if any(size != 1 for size in shape) else NUMBER
        for key in _matches(out):
            bias = self.biases.get(key)
            self.biases[key] = _bias(out, key) if bias is None else bias
        short = out if len(out) <= pr.LIMIT else pr.folded(out, next(self.numbers))
        return short if len(short) <= pr.LIMIT else self.array()

    def scan(self, op: Op, ins: list[Sum], steps: Steps) -> Sequence[Sum]:
        """Nothing is known of a carry; what is stacked loses and gains its first axis."""
        n, m = steps
        carry = [self.array() for _ in range(m)]
        rows = [pr.moved(item, _row, next(self.numbers)) for item in ins[n + m :]]
        outs = self.run(op.inner[0], [*ins[:n], *carry, *rows])
        stacked = [pr.moved(item, _stacked, next(self.numbers)) for item in outs[m:]]
        return [*carry, *stacked]

    def loop(self, op: Op, ins: list[Sum], steps: Steps) -> Sequence[Any]:
        """Nothing is known of a loop; what it normalizes is found."""
        del ins, steps
        for walk in op.inner:
            self.run(walk, [self.array() for _ in walk.program.invars])
        return [None] * len(op.out_shapes)

    def join(self, op: Op, cases: list[Sum]) -> Any:
        """One of several statistics."""
        del op
        return _one_of(cases)

    def compute(self, op: Op, ins: list[Sum]) -> Sequence[Any]:
        """Returns the results of one operation, None where nothing is known of one."""
        if Trait.AS_IS in op.traits:
            return ins[: len(op.out_shapes)]
        if Trait.PARTS in op.traits:
            return self.parts(op, ins)
        if Trait.SUMS in op.traits:
            return [self.reduced(op, i, item) for i, item in enumerate(ins)]
        if Trait.MOVES in op.traits and (to := axis_map(op)) is not None:
            return [pr.moved(ins[0], to, next(self.numbers))]
        if Trait.ENTRYWISE in op.traits:
            return [self.computed(op, ins)] * len(op.out_shapes)
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
        power, weights, traits = op.rule.power(op), op.rule.weights, op.traits
        if not (power or weights or traits & _FOLLOWED):
            return None
        if all(pr.is_number(item) for item in ins):
            return {(): -ins[0][()]} if weights == (-1,) else NUMBER
        if weights:
            return _weighted(ins, weights)
        if power is not None:
            return self.power(ins[0], power)
        if Trait.MULTIPLIES in traits:
            return self.product(*ins)
        if Trait.DIVIDES in traits:
            return self.divided(*ins)
        return _one_of(ins[op.rule.values]) if Trait.CHOOSES in traits else _bounded(ins)

    def product(self, a: Sum, b: Sum) -> Sum | None:
        """A product, if it is not long."""
        return pr.times(a, b) if len(a) * len(b) <= 4 * pr.LIMIT else None

    def divided(self, a: Sum, b: Sum) -> Sum | None:
        """A sum over a number, or over a deviation."""
        if pr.is_number(b):
            return {product: sign * b[()] for product, sign in a.items()}
        under = pr.deviation(b)
        return None if under is None else self.product(a, pr.single("root", under.of, under.axes))

    def power(self, a: Sum, exponent: float) -> Sum | None:
        """A square, 1 over a sum, or a root of a statistic."""
        if exponent == 2:
            return self.product(a, a)
        if exponent == -1:
            return self.divided(NUMBER, a)
        factor = pr.statistic(a) if exponent in (0.5, -0.5) else None
        kind = "deviation" if exponent > 0 else "root"
        return None if factor is None else pr.single(kind, factor.of, factor.axes)


def _weighted(ins: Sequence[Sum], weights: Sequence[int]) -> Sum:
    """A sum or a difference."""
    first = {product: weights[0] * sign for product, sign in ins[0].items()}
    return first if len(ins) == 1 else pr.plus(first, ins[1], weights[1])


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


def _bounded(ins: Sequence[Sum]) -> Sum | None:
    """A statistic within bounds is a statistic, such as a variance that is kept from zero."""
    (item, *more) = [item for item in ins if not pr.is_number(item)]
    kept = pr.statistic(item) or pr.deviation(item)
    return None if more or kept is None else item


def _one_of(cases: Sequence[Sum]) -> Sum | None:
    """One of several statistics may be each; else nothing is known unless all are the same."""
    if all(case == cases[0] for case in cases):
        return cases[0]
    union = {p: sign for case in reversed(cases) for p, sign in case.items()}
    return union if pr.statistic(union) else None
