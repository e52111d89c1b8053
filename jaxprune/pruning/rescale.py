"""Factors that make up for constants which follow a pruned size.

The resized network divides a mean by the kept width, attention by the root of the kept head size;
the masked network by the whole ones. Where that difference is a scale that neighboring weights can
take, `factors` finds which weights to multiply with what.

Every array of the resized network is asked to be the masked one times a number. How the logarithms
of these numbers relate is linear: a product adds them, a sum wants its operands to share one, an
exponential wants it to be zero, a ReLU passes it on. So the factors solve a linear program: inputs
and outputs have zero, the changed constants theirs, and the least is changed in the variables.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax.core import Tracer

from jaxprune.arguments import paths
from jaxprune.arguments.dtypes import wide_dtype
from jaxprune.errors import ResizeError
from jaxprune.graph import ChannelGraph
from jaxprune.keep.check import Keep
from jaxprune.keep.kept import Kept
from jaxprune.linen import resizing as linen
from jaxprune.nnx import resizing as nnx
from jaxprune.nnx.pure_function import Function
from jaxprune.program import jaxpr
from jaxprune.program.interpret import Domain, Steps
from jaxprune.program.jaxpr import Op
from jaxprune.program.traits import Trait
from jaxprune.running import same_program
from jaxprune.running.compared import Changed, Compared
from jaxprune.running.kept_depth import kept_of

Resized = Callable[..., Any]
Scale = Mapping[Any, float]
"""The logarithm of a factor: {unknown or changed constant: coefficient}."""

ONE: Scale = {}
_TINY = 1e-9


def factors(graph: ChannelGraph, keep: Keep, resized: Resized | None = None) -> dict[str, float]:
    """Returns {path: factor}, such that the resized network equals the masked one.

    Multiply the sliced variables at these paths: `resized(small, *inputs)` is then
    `fn(mask(variables), *inputs)` also where constants of the network follow a pruned size. Of all
    solutions the one that changes the least is returned: kernels rather than vectors, what the
    network reads first rather than later. Variables that stay are absent.

    Args:
      graph: the channel graph.
      keep: {group: bool[n]}, concrete; groups that are absent stay whole. With branches as in
        `jp.slice`; what is masked then does not add them.
      resized: `(small, *inputs) -> outputs` at the kept widths, such as
        `lambda v, x: model2.apply(v, x)` or `jp.nnx.function(small_model)`; None for the traced
        function itself, its modules resized as `jp.linen.resize` or `jp.nnx.resize`
        does without overrides.

    Raises:
      KeepError: the keep does not fit the graph.
      ResizeError: a pruned group is inexact, no factors make up for a constant, or the resized
        network is another one.

    Example:
      >>> import jaxprune as jp
      >>> v = {"a": jnp.ones((2, 4)), "b": jnp.ones((1, 3))}
      >>> fn = lambda v, x: jnp.mean(x @ v["a"], axis=1, keepdims=True) @ v["b"]
      >>> graph = jp.trace(fn, v, np.ones((1, 2)))
      >>> factors(graph, {"a": np.arange(4) < 2})
      {'a': 0.5}
    """
    kept = kept_of(graph, keep)
    pruned = [name for name, mask in kept.keep.items() if not mask.all()]
    if not pruned:
        return {}
    if failures := list(_inexact(graph, pruned)):
        _refuse(failures)
    changed = compared(graph, kept, resized, keep=keep).changed
    return _Scales(graph, changed, kept).solve() if changed else {}


def rescale(graph: ChannelGraph, small: Any, keep: Keep, resized: Resized | None = None) -> Any:
    """Returns what `slice` gave for `keep` with the `factors` multiplied in; dtypes stay."""
    by = factors(graph, keep, resized)
    leaves, treedef = paths.flatten(small)
    machines: dict[Any, dict[str, Any]] = {}
    for path, leaf in leaves.items():
        if path in by and not isinstance(leaf, jax.ShapeDtypeStruct):
            concrete = isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)
            machine = frozenset(leaf.devices()) if concrete else None
            machines.setdefault(machine, {})[path] = leaf
    for machine, part in machines.items():
        numbers = {path: _number(by[path], leaf) for path, leaf in part.items()}
        places = {} if machine is None else {path: leaf.sharding for path, leaf in part.items()}
        times = jax.jit(_times, out_shardings=places) if places else _times
        leaves |= times(part, numbers)
    return jax.tree.unflatten(treedef, leaves.values())


def _number(factor: float, leaf: Any) -> Any:
    weak = getattr(leaf, "weak_type", False)
    return factor if weak else np.asarray(factor, wide_dtype(leaf.dtype))


def _times(leaves: Mapping[str, Any], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the products in the dtypes of the leaves; in a program nothing wide is stored."""
    return {
        path: leaf * numbers[path]
        if getattr(leaf, "weak_type", False)
        else (leaf.astype(numbers[path].dtype) * numbers[path]).astype(leaf.dtype)
        for path, leaf in leaves.items()
    }


def _refuse(failures: Sequence[str]) -> NoReturn:
    raise ResizeError(
        "no factors on the weights make the resized network equal the masked one:\n"
        + "\n".join(failures)
        + "\nFix: keep these groups whole (protect= in jp.select), or slice without rescale and "
        "fine-tune."
    )


def _inexact(graph: ChannelGraph, pruned: Sequence[str]) -> Iterator[str]:
    """Says which pruned groups no mask stands for."""
    for name in pruned:
        if (why := graph.groups[name].inexact) is not None:
            yield f"group {name!r}: {why}"


def compared(
    graph: ChannelGraph,
    kept: Kept,
    resized: Resized | None = None,
    *,
    keep: Keep | None = None,
    search: bool = True,
) -> Compared:
    """Returns in what the network at the kept widths differs from the masked one.

    Without `search` its modules are not tried with other attributes. `keep` is that of `kept`,
    which is of channels alone without it.

    Raises:
      ResizeError: it does not run, or is another network.
    """
    whole = kept.keep if keep is None else keep
    if resized is None and graph.calls:
        return linen.compared_at(graph, whole, search=search)
    if resized is None and isinstance(graph.fn, Function):
        return nnx.compared_at(graph, whole, search=search)
    try:
        args, keywords = kept.call(graph)
        program, _ = jaxpr.trace(resized or graph.fn, *args, **keywords)
    except ResizeError:
        raise
    except Exception as error:
        raise ResizeError(
            f"the network does not run at the kept widths: {error}\n"
            "Fix: pass the resized network, rescale=lambda v, x: model2.apply(v, x) or "
            "rescale=jp.nnx.function(small_model), or run "
            "jp.narrow(fn, graph, keep), whose constants do not follow the sizes, without rescale."
        ) from error
    return same_program.compare(graph, kept, program)


def _fills(op: Op) -> bool:
    """True of a gather that gives a number where an index is outside."""
    fill = op.params.get("fill_value")
    return fill is not None and fill == fill and fill != 0


def _sum(*terms: tuple[Scale, float]) -> Scale:
    total: dict[Any, float] = {}
    for scale, times in terms:
        for key, value in scale.items():
            total[key] = total.get(key, 0.0) + times * value
    return {key: value for key, value in total.items() if value}


def _constant(value: Any, dtype: Any) -> Scale:
    """A constant stays as it is; zero, infinity and NaN do so times any factor."""
    if not jnp.issubdtype(dtype, jnp.inexact):
        return ONE
    value = np.asarray(value)
    free = not value.any() or not np.isfinite(value).any()
    return {object(): 1.0} if free else ONE


class _Scales(Domain[Scale]):
    """The factor of every array of the resized network, and what the factors must satisfy.

    The unknowns are the paths of variables, and an `object()` for every constant of any factor.
    """

    def __init__(self, graph: ChannelGraph, changed: Sequence[Changed], kept: Kept):
        self.graph = graph
        self.changed = changed
        self.cuts = kept.cuts
        gone = kept.without
        self.idle = frozenset[Op]() if gone is None else gone.idle
        self.met: set[Changed] = set()
        self.order: dict[str, int] = {}
        self.rows: dict[frozenset[tuple[Any, float]], None] = {}
        inputs = graph.walk.ins[len(graph.variables) :]
        ins = [*map(self.variable, graph.variables), *([ONE] * len(inputs))]
        outs = enumerate(self.run(graph.walk, ins))
        self.same(ONE, *(out for i, out in outs if gone is None or i not in gone.outputs))

    def variable(self, path: str) -> Scale:
        real = jnp.issubdtype(self.graph.variables[path].dtype, jnp.inexact)
        return {path: 1.0} if real else ONE

    def same(self, first: Scale, *others: Scale) -> Scale:
        """Requires all to be equal; returns the first."""
        for other in others:
            if row := _sum((other, 1.0), (first, -1.0)):
                self.rows[frozenset(row.items())] = None
        return first

    def literal(self, value: Any, atom: Any, op: Op | None) -> Scale:
        """A constant that follows a size has the factor by which it changes."""
        for item in self.changed:
            same = item.op is op and np.ndim(value) == 0 and value == item.before
            if same and item.before * item.after > 0:
                self.met.add(item)
                return {item: 1.0}
        return _constant(value, atom.aval.dtype)

    def constant(self, value: Any, var: Any, axes: Any) -> Scale:
        """Other constants have none."""
        del axes
        return _constant(value, var.aval.dtype)

    def scan(self, op: Op, ins: list[Scale], steps: Steps) -> Sequence[Scale]:
        """Every step takes and gives the carry with one factor."""
        n, m = steps
        outs = self.run(op.inner[0], ins)
        return [*map(self.same, ins[n : n + m], outs[:m]), *outs[m:]]

    def join(self, op: Op, cases: list[Scale]) -> Scale:
        """All branches give one factor."""
        del op
        return self.same(*cases)

    def apply(self, op: Op, ins: list[Scale]) -> Sequence[Scale]:
        """Returns the scales of the results of any operation; of one that goes, any."""
        if op in self.idle:
            return [{object(): 1.0} for _ in op.eqn.outvars]
        return [ins[1 - self.cuts[op]]] if op in self.cuts else super().apply(op, ins)

    def compute(self, op: Op, ins: list[Scale]) -> Sequence[Scale]:
        """Returns the scales of the results of one operation."""
        if not op.inner:  # the order in which variables are read
            for key in (key for scale in ins for key in scale if isinstance(key, str)):
                self.order.setdefault(key, len(self.order))
        scales = ins if Trait.AS_IS in op.traits else [self.scale(op, ins)] * len(op.out_shapes)
        return [
            scale if jnp.issubdtype(var.aval.dtype, jnp.inexact) else self.same(ONE, scale)
            for scale, var in zip(scales, op.eqn.outvars, strict=True)
        ]

    def scale(self, op: Op, ins: list[Scale]) -> Scale:
        """Returns the scale of the result; requires what the operation needs for it."""
        rule = op.rule
        if rule is None:
            return self.same(ONE, *ins)
        power = rule.power(op)
        if Trait.MULTIPLIES in op.traits:
            return _sum(*((scale, 1.0) for scale in ins))
        if Trait.DIVIDES in op.traits:
            return _sum((ins[0], 1.0), (ins[1], -1.0))
        if power is not None:
            return _sum((ins[0], power))
        if Trait.TOGETHER in op.traits:
            return self.same(*ins[rule.values])
        if Trait.COMPARES in op.traits:
            self.same(*ins)
        elif Trait.HOMOGENEOUS in op.traits and not _fills(op):
            self.same(ONE, *ins[1:])
            return ins[0]
        else:
            self.same(ONE, *ins)
        return ONE

    def solve(self) -> dict[str, float]:
        """Returns the factors that are not one."""
        logs = self.least(self.changed)
        if logs is None or not self.met.issuperset(self.changed):
            alone = [i for i in self.changed if i not in self.met or self.least([i]) is None]
            lost = dict.fromkeys(map(str, alone or self.changed))
            _refuse([f"{item}, which no variable makes up for" for item in lost])
        return {path: math.exp(log) for path, log in logs.items() if abs(log) > _TINY}

    def least(self, changed: Sequence[Changed]) -> dict[str, float] | None:
        """Returns {path: logarithm} that makes up for the constants, None if nothing does."""
        unknowns = list(dict.fromkeys(key for row in self.rows for key, _ in row))
        logs = {item: math.log(item.after / item.before) for item in changed}
        unknowns = [key for key in unknowns if not isinstance(key, Changed)]
        column = {key: i for i, key in enumerate(unknowns)}
        matrix = scipy.sparse.lil_array((len(self.rows), len(unknowns)))
        wanted = np.zeros(len(self.rows))
        for i, row in enumerate(self.rows):
            for key, value in row:
                if isinstance(key, Changed):
                    wanted[i] -= value * logs.get(key, 0.0)
                else:
                    matrix[i, column[key]] = value
        price = [self.price(key) for key in unknowns]
        both = scipy.sparse.hstack(
            [matrix, -matrix], format="csr"
        )  # logarithms above and below zero
        solution = scipy.optimize.linprog([*price, *price], A_eq=both, b_eq=wanted)
        if solution.x is None:
            return None
        up, down = np.split(solution.x, 2)
        return {k: float(x) for k, x in zip(unknowns, up - down, strict=True) if k in self.order}

    def price(self, key: Any) -> float:
        """What it costs to change a variable: the order in which the network reads them decides."""
        if key not in self.order:
            return 0.0
        vector = len(self.graph.variables[key].shape) < 2
        return (1.5 if vector else 1.0) + 1e-3 * self.order[key] / len(self.order)
