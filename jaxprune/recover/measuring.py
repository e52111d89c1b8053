"""What readers read in one network and write in another, summed up over batches."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_examples, check_key
from jaxprune.arguments.fetching import fetch
from jaxprune.arguments.numbers import check_count
from jaxprune.arguments.reduction import freely
from jaxprune.errors import JaxpruneError, ResizeError
from jaxprune.gates.evaluation import Marked, evaluate
from jaxprune.graph import ChannelGraph
from jaxprune.program import jaxpr
from jaxprune.program.interpret import every_op
from jaxprune.program.jaxpr import Op
from jaxprune.recover.fits import Form, Moments
from jaxprune.recover.layers import At
from jaxprune.recover.readers import Reader, contractions
from jaxprune.recover.shortcuts import Sum
from jaxprune.running import evaluator
from jaxprune.running.evaluator import Noted
from jaxprune.stats.batch_calls import Calling
from jaxprune.stats.products import between, pairs
from jaxprune.stats.readings import Reading, drawn, read_matrix, taken, written_matrix

Array = Any
_READ, _KERNEL, _WRITTEN, _SUM = "read", "kernel", "written", "sum"


class Draw(NamedTuple):
    """How many rows of each example are drawn of every batch, by which key; None draws all."""

    positions: int | None = None
    key: Any = None


def draw_of(positions: Any, key: Any) -> Draw:
    """Returns the draw of these arguments; the key is that of 0 by default.

    Raises:
      JaxpruneError: `positions` is not a count, or `key` is not a key.
    """
    if positions is not None:
        positions = check_count(positions, "positions", "positions=10.")
    key = jax.random.key(0) if key is None else key
    check_key(key, JaxpruneError)
    return Draw(positions, key)


class Sums(NamedTuple):
    """The moments of one reader, and the first batch (from 1) that is not finite; 0 if none."""

    moments: Moments
    bad: Array


class Measuring:
    """One compiled pass over a batch, for every reader alone or all together.

    Where biases alone are fitted, no products of inputs are summed up.
    With `dense` variables, inputs are those of the network of now and targets of the dense one.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        readers: Sequence[Reader],
        call: Calling,
        fn: Callable[..., Any],
        where: str,
        draw: Draw,
        form: Form = Form.KERNEL,
    ):
        self.graph = graph
        self.draw = draw
        self.readers = readers
        self.call = call
        self.where = where
        self.form = form
        self.sums: dict[int, Sum] = {}  # of readers that make up for the error of a shortcut
        self.rounding = 0.0  # the epsilon of the type of the sums
        self.retraced = evaluator.retracer(fn, graph)
        self.measure = jax.jit(self._measured)
        self.merge = jax.jit(_together)

    def collect(
        self, batches: Iterable[Any], now: Any, dense: Any, wanted: Sequence[int]
    ) -> list[Moments]:
        """Returns the moments, f64 on the host, of the wanted readers, by place in `readers`.

        Raises:
          JaxpruneError: no data, or numbers that are not finite.
        """
        chosen = np.isin(np.arange(len(self.readers)), wanted)
        state, number = None, 0
        for number, batch in enumerate(check_examples(batches, self.where), 1):
            here = self.measure(now, dense, batch, chosen, number)
            state = here if state is None else self.merge(state, here, number)
        if state is None:
            raise JaxpruneError(f"{self.where}: no batches.\nFix: pass at least one batch of data.")
        sums = fetch([state[i] for i in wanted])
        self.rounding = max(float(np.finfo(item.moments.xx.dtype).eps) for item in sums)
        self._check(sums, wanted)
        return [jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), item) for item, _ in sums]

    def _check(self, sums: Sequence[Sums], wanted: Sequence[int]) -> None:
        broken = [(int(s.bad), self.readers[i]) for s, i in zip(sums, wanted, strict=True) if s.bad]
        if broken:
            lines = [
                f"batch {number}: what {reader.place} reads of {list(reader.groups)}, or writes"
                for number, reader in broken
            ]
            raise JaxpruneError(
                "\n".join([f"{self.where}: numbers that are not finite:", *lines[:8]])
                + "\nFix: look for NaN or infinity in this batch (they are counted from 1) and in "
                "the parameters before the first contraction named here; leave the batch out."
            )

    def _measured(
        self, now: Any, dense: Any, batch: Any, chosen: Array, number: Array
    ) -> list[Sums]:
        inputs, keywords = self.call(batch)
        keywords = {**keywords, **self.graph.constants}
        full = evaluator.full(self.graph, now, {})
        here = self.retraced(full, inputs, keywords)
        ops = contractions(here)
        if len(ops) != len(contractions(self.graph)):
            raise ResizeError(
                "the function has other contractions at these inputs than in the graph.\n"
                "Fix: trace the graph with the function and the input ranks that you run."
            )
        every = list(every_op(here.walk))
        sums = {} if dense is None else self.sums
        read = {reader.number: ops[reader.number] for reader in self.readers}
        marks = [(op, (_READ, n, sites[0].operand)) for n, (op, sites) in read.items()]
        if self.form is Form.BIAS:
            marks += [(op, (_KERNEL, n, 1 - sites[0].operand)) for n, (op, sites) in read.items()]
        marks += [(op, (_WRITTEN, n, 0)) for n, (op, _) in read.items()]
        marks += [(every[n], (_SUM, n, 0)) for n in {item.number for item in sums.values()}]
        marked = Marked(marks)

        def leave(op: Op, operands: list[Any], results: list[Any]) -> Noted:
            arrays = {_READ: operands, _KERNEL: operands}
            return {mark[:2]: arrays.get(mark[0], results)[mark[2]] for mark in marked.at(op)}

        def noted(variables: Any) -> Noted:
            args = evaluator.operands(variables, inputs, keywords)
            return evaluate(here, marked, args, leave=leave)[1]

        seen = noted(now)
        targets = seen if dense is None else noted(dense)
        examples = np.shape(jax.tree.leaves(batch)[0])[0]
        key = jax.random.fold_in(self.draw.key, number)
        return [
            jax.lax.cond(
                chosen[i],
                lambda i=i: self._sums(ops, i, seen, targets, examples, key),
                lambda i=i: jax.tree.map(
                    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
                    jax.eval_shape(lambda: self._sums(ops, i, seen, targets, examples, key)),
                ),
            )
            for i in range(len(self.readers))
        ]

    def _sums(self, ops: Any, i: int, seen: Noted, targets: Noted, examples: int, key: Any) -> Sums:
        reader = self.readers[i]
        op, sites = ops[reader.number]
        at = Reading(channels=None, group=reader.groups[0], site=sites[0], op=op)

        def written(noted: Noted, what: str, number: int, layer: At) -> Array:
            return written_matrix(replace(at, results=(_at(noted[what, number], layer),)))

        y = written(targets, _WRITTEN, reader.number, reader.at)
        if i in self.sums and targets is not seen:
            met = self.sums[i]
            ours = written(seen, _WRITTEN, reader.number, reader.at)
            lost = written(targets, _SUM, met.number, met.at)
            lost = lost - written(seen, _SUM, met.number, met.at)
            factor = met.factor[:, None]
            y = jnp.where(factor == 0, y, ours + lost / np.where(factor == 0, 1, factor))
        count = None if self.draw.positions is None else self.draw.positions * examples
        rows = drawn(y.shape[-2], jax.random.fold_in(key, i), count)
        operands = [_at(seen[_READ, reader.number], reader.at)] * 2  # no kernel is looked at
        if self.form is Form.BIAS:
            operands[sites[0].operand] = jnp.where(reader.lost, 0, operands[sites[0].operand])
            operands[1 - sites[0].operand] = _at(seen[_KERNEL, reader.number], reader.at)
            results = jaxpr.bind(op.eqn, operands, op.eqn.params)
            x = taken(written_matrix(replace(at, results=results)), rows)
        else:
            x = read_matrix(replace(at, operands=operands), rows)
        y = taken(y, rows)
        broken = jnp.any(~jnp.isfinite(x)) | jnp.any(~jnp.isfinite(y))
        found = freely(remainders if self.form is Form.BIAS else moments, x, y)
        return Sums(found, broken.astype(jnp.int32))


def _at(array: Array, layer: At) -> Array:
    return array[layer] if layer else array


def _together(state: list[Sums], more: list[Sums], number: Any) -> list[Sums]:
    return [
        Sums(merged(a.moments, b.moments), jnp.where(a.bad > 0, a.bad, b.bad * number))
        for a, b in zip(state, more, strict=True)
    ]


def moments(x: Array, y: Array) -> Moments:
    """Returns the moments of the rows f[blocks, rows, K] and f[blocks, rows, O]."""
    dtype = jnp.result_type(x, y)
    middle, goal = x.mean(-2), y.mean(-2)
    dx, dy = x - middle[..., None, :], y - goal[..., None, :]
    rows: Any = jnp.full(x.shape[0], x.shape[-2], dtype)
    products = pairs(dx), between(dx, dy), (dy * dy).sum(-2)
    return Moments(rows, middle, goal, *products, (y * y).sum(-2))


def remainders(z: Array, y: Array) -> Moments:
    """Returns the moments, without inputs, of y - z of the rows f[blocks, rows, O]."""
    return moments(z[..., :0], y - z)._replace(size=(y * y).sum(-2))


def merged(a: Moments, b: Moments) -> Moments:
    """Returns the moments of both sets of rows.

    Source: Chan et al., "Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances", 1979.
    """
    total = a.rows + b.rows
    share = b.rows / jnp.maximum(total, 1)
    dx, dy = b.x - a.x, b.y - a.y
    weight = (a.rows * share)[:, None]
    return Moments(
        total,
        a.x + dx * share[:, None],
        a.y + dy * share[:, None],
        a.xx + b.xx + (dx * weight)[:, :, None] * dx[:, None, :],
        a.xy + b.xy + (dx * weight)[:, :, None] * dy[:, None, :],
        a.yy + b.yy + dy * dy * weight,
        a.size + b.size,
    )
