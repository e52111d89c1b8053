"""Measures contractions one by one for a table of latencies, and networks beside what it says."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arguments.checks import check_callable
from jaxprune.arguments.numbers import check_count, is_number, plain
from jaxprune.errors import BudgetError
from jaxprune.graph import ChannelGraph, check_graph
from jaxprune.inspecting.latency_tables import (
    STEPS,
    Ladder,
    LatencyTable,
    Shaped,
    check_ladder,
    check_path,
    device_name,
    grid,
    knobs,
)
from jaxprune.inspecting.parameters import each_contraction
from jaxprune.program import jaxpr
from jaxprune.program.jaxpr import Op

Timer = Callable[[Sequence[Callable[[], Any]]], Sequence[float]]
"""From calls to the seconds that each takes."""


def interleaved(
    calls: Sequence[Callable[[], Any]],
    *,
    repeats: int = 10,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Returns the median seconds of each call: all in turn, so often.

    Each is called once before; what it returns is waited for.

    Args:
      calls: functions without arguments that return arrays.
      repeats: timed rounds, at least 1.
      clock: seconds since any moment.

    Raises:
      BudgetError: `calls` is not a list of functions, or `repeats` is too small.

    >>> ticks = iter([0.0, 1.0, 5.0, 7.0])  # the first call takes 1 s, the second 2 s
    >>> interleaved([lambda: None, lambda: None], repeats=1, clock=lambda: next(ticks))
    [1.0, 2.0]
    """
    check_callable(clock, "clock", "clock=time.perf_counter.", BudgetError)
    repeats = check_count(repeats, "repeats", "repeats=10.", BudgetError)
    listed = list(calls) if isinstance(calls, Sequence) else [calls]
    for call in listed:
        check_callable(call, "calls: one", "calls=[lambda: network(x)].", BudgetError)
        jax.block_until_ready(call())
    seconds = np.zeros((repeats, len(listed)))
    for row in seconds:
        for i, call in enumerate(listed):
            start = clock()
            jax.block_until_ready(call())
            row[i] = clock() - start
    return np.median(seconds, axis=0).tolist()


@dataclass(frozen=True, eq=False)
class Call:
    """A compiled contraction, or nothing at all, that is to be timed.

    Attributes:
      name: the primitive, "" for nothing. shapes: of its operands.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    run: Callable[[], Any]

    def __call__(self) -> Any:
        """Returns its results."""
        return self.run()


def latency_table(
    graph: ChannelGraph,
    *,
    path: str | Path | None = None,
    ladder: Ladder = STEPS,
    timer: Timer = interleaved,
) -> LatencyTable:
    """Returns how long the contractions of a network take here, each at a ladder of widths.

    Every contraction is compiled by itself at all combinations of the widths of its groups, and
    what a call takes that does nothing is subtracted. What a contraction reads of the memory that
    another one has just written, and what is fused into it, is not in it.

    Args:
      graph: what `jaxprune.trace` returned, at the batch that is to be fast.
      path: a JSON file: what it holds is not measured again, and it is written after every
        contraction, so that an interrupted call goes on from there.
      ladder: how many widths are measured of a group, evenly up to its size, at least 2; or
        {pattern: widths}, such as those that `jp.plan.problem` is given, and 4 of other groups.
      timer: from calls to the seconds of each; `functools.partial(jp.cost.interleaved, repeats=50)`
        is more exact than the default.

    Raises:
      BudgetError: `ladder` makes no sense, the file is of another device or not a table, or `timer`
        does not give a number of seconds for each call.
      PatternError: a pattern matches nothing.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4), np.float32), "second": np.ones((4, 3), np.float32)}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 2)))
    >>> table = jp.cost.latency_table(graph, ladder=2)
    >>> len(table.seconds)
    4
    """
    check_graph(graph)
    check_callable(timer, "timer", "timer=jp.cost.interleaved.", BudgetError)
    plain_ladder, here = check_ladder(graph, ladder), device_name()
    table = LatencyTable(device=here, ladder=plain_ladder, overhead=0.0, seconds={})
    if path is not None and check_path(path).exists():
        known = LatencyTable.load(path)
        if known.device != here:
            raise BudgetError(
                f"{path} was measured on {known.device!r}, this is {here!r}.\n"
                "Fix: another path for each device."
            )
        table = replace(known, ladder=plain_ladder)
    for item in each_contraction(graph.contractions):
        shapes = {s.key: s for s in grid(item.op, knobs(graph, item.op, plain_ladder))}
        new = [shape for key, shape in shapes.items() if key not in table.seconds]
        if new:
            table = _measured(table, item.op, new, timer)
            if path is not None:
                table.save(path)
    if path is not None:
        table.save(path)
    return table


def _measured(table: LatencyTable, op: Op, new: Sequence[Shaped], timer: Timer) -> LatencyTable:
    nothing = _call("", lambda x: x + 1, [jnp.zeros(())])
    calls = [nothing, *(_contraction(op, shape) for shape in new)]
    seconds = check_seconds(timer(calls), len(calls))
    each = {
        shape.key: max(0.0, taken - seconds[0])
        for shape, taken in zip(new, seconds[1:], strict=True)
    }
    return replace(table, overhead=seconds[0], seconds={**table.seconds, **each})


def check_seconds(seconds: Any, count: int) -> list[float]:
    """Returns what a timer gave.

    Raises:
      BudgetError: it is not a number, at least 0, for each call.
    """
    times = (
        [plain(value) for value in seconds] if isinstance(seconds, Sequence | np.ndarray) else []
    )
    if len(times) != count or not all(is_number(value) and 0 <= value < np.inf for value in times):
        raise BudgetError(
            f"the timer must give {count} numbers of seconds, got {seconds!r}.\n"
            "Fix: timer=jp.cost.interleaved."
        )
    return [float(value) for value in times]


def _contraction(op: Op, shape: Shaped) -> Call:
    arrays = []
    for operand, dtype in shape.operands:
        entry: Any = 1
        if jnp.issubdtype(dtype, jnp.integer) and arrays:  # rows of each group of a ragged product
            entry = arrays[0].shape[0] // max(1, operand[-1] if operand else 1)
        arrays.append(jnp.full(operand, entry, dtype))

    def run(*args: Any) -> Any:
        with jaxpr.context(op.eqn):
            return jaxpr.bind(op.eqn, args, dict(shape.params))

    return _call(op.name, run, arrays)


def _call(name: str, fn: Callable[..., Any], arrays: Sequence[Any]) -> Call:
    compiled: list[Any] = []

    def run() -> Any:
        if not compiled:
            compiled.append(jax.jit(fn).lower(*arrays).compile())
        return compiled[0](*arrays)

    return Call(name, tuple(array.shape for array in arrays), run)


class Fidelity(NamedTuple):
    """What was predicted of networks, beside what they take.

    Attributes:
      predicted, measured: seconds of each. scale: the median of measured / predicted.
      error: the median of |predicted * scale / measured - 1|.
      correlation: of the ranks (Spearman); NaN of fewer than two.
    """

    predicted: tuple[float, ...]
    measured: tuple[float, ...]
    scale: float
    error: float
    correlation: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"{len(self.predicted)} networks: measured / predicted {self.scale:.3f}, error "
            f"{self.error:.1%} beyond that, rank correlation {self.correlation:.3f}"
        )


def fidelity(
    predicted: Sequence[float], calls: Sequence[Callable[[], Any]], *, timer: Timer = interleaved
) -> Fidelity:
    """Returns how well latencies were predicted: the calls are measured beside each other.

    Args:
      predicted: seconds of each call, above 0, such as by the cost of `jp.cost.tabled`.
      calls: compiled networks with their arguments, such as of `jp.narrow` at several keeps.
      timer: from calls to the seconds of each.

    Raises:
      BudgetError: there is not one prediction above 0 for each of one call or more.

    >>> import jaxprune as jp
    >>> calls = [lambda: None, lambda: None, lambda: None]
    >>> print(jp.cost.fidelity([1.0, 2.0, 3.0], calls, timer=lambda calls: [2.0, 4.0, 6.6]))
    3 networks: measured / predicted 2.000, error 0.0% beyond that, rank correlation 1.000
    """
    check_callable(timer, "timer", "timer=jp.cost.interleaved.", BudgetError)
    count = len(calls) if isinstance(calls, Sequence) else 0
    given = [plain(x) for x in predicted] if isinstance(predicted, Sequence | np.ndarray) else []
    if not count or len(given) != count or not all(is_number(x) and 0 < x < np.inf for x in given):
        raise BudgetError(
            f"predicted must be a number of seconds for each of {count} calls, at least one, got "
            f"{predicted!r}.\nFix: [cost(graph, keep) for keep in keeps]."
        )
    expected, measured = np.array(given, float), np.array(check_seconds(timer(calls), count))
    scale = float(np.median(measured / expected))
    with np.errstate(divide="ignore", invalid="ignore"):
        error = float(np.median(np.abs(expected * scale / measured - 1)))
        ranks = np.corrcoef([_ranks(expected), _ranks(measured)])[0, 1] if count > 1 else np.nan
    return Fidelity(tuple(expected), tuple(measured), scale, error, float(ranks))


def _ranks(values: np.ndarray) -> np.ndarray:
    """The ranks of values; those that tie share the mean of theirs."""
    below = (values[:, None] > values).sum(1)
    return below + (values[:, None] == values).sum(1) / 2
