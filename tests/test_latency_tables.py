"""Tables of latencies with made-up clocks: measuring, resuming, interpolating, planning."""

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import cost
from jaxprune.errors import BudgetError, PatternError

V = {"a": np.ones((2, 8), np.float32), "b": np.ones((8, 6), np.float32), "c": np.ones((6, 2))}
X = np.ones((3, 2), np.float32)


@functools.cache
def chained() -> jp.ChannelGraph:
    return jp.trace(lambda v, x: x @ v["a"] @ v["b"] @ v["c"].astype(np.float32), V, X)


A, B = chained().groups


def entries(call: Any) -> float:
    """A made-up device: 1 second to call, and one for each entry of the kernel."""
    return 1.0 + (float(np.prod(call.shapes[1])) if call.name else 0.0)


class Made:
    """A timer of that device, which counts what it measures, and may stop after some."""

    def __init__(self, stop: int | None = None, seconds: Callable[[Any], float] = entries):
        self.asked: list[int] = []
        self.stop, self.seconds = stop, seconds

    def __call__(self, calls: Sequence[Any]) -> list[float]:
        if len(self.asked) == self.stop:
            raise KeyboardInterrupt
        self.asked.append(len(calls) - 1)
        return [self.seconds(call) for call in calls]


def test_calls_take_turns_and_the_median_counts() -> None:
    order: list[str] = []
    ticks = iter(itertools.accumulate([0, 1, 0, 10, 0, 2, 0, 20, 0, 9, 0, 30.0]))
    found = cost.interleaved(
        [lambda: order.append("first"), lambda: order.append("second")],
        repeats=3,
        clock=lambda: next(ticks),
    )
    assert found == [2.0, 20.0]
    assert order[2:] == ["first", "second"] * 3


def test_what_is_predicted_at_measured_widths_is_what_was_measured() -> None:
    graph, timer = chained(), Made()
    table = cost.latency_table(graph, ladder={A: [8, 5], B: [6, 2]}, timer=timer)
    assert timer.asked == [2, 4, 2]
    predict = cost.tabled(table)
    for a, b in ((8, 6), (5, 2), (8, 2)):
        assert predict(graph, {A: a, B: b}) == 1 + 2 * a + a * b + 2 * b
    # Between: linear along each width, so that a product of two widths is exact.
    assert predict(graph, {A: 7, B: 3}) == pytest.approx(1 + 14 + 21 + 6)
    # Below the ladder it takes as long as at its end.
    assert predict(graph, {A: 1, B: 6}) == predict(graph, {A: 5, B: 6})


def test_an_interrupted_table_is_gone_on_with(tmp_path: Path) -> None:
    graph, path = chained(), tmp_path / "table.json"
    whole = cost.latency_table(graph, timer=Made())
    for stop in range(3):
        path.unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            cost.latency_table(graph, path=path, timer=Made(stop))
        timer = Made()
        assert cost.latency_table(graph, path=path, timer=timer) == whole
        assert len(timer.asked) == 3 - stop
    assert cost.LatencyTable.load(path) == whole
    timer = Made()
    cost.latency_table(graph, path=path, ladder=2, timer=timer)  # shapes that are known already
    assert timer.asked == []


def test_a_table_of_another_device_is_refused_unless_asked_for(tmp_path: Path) -> None:
    graph, path = chained(), tmp_path / "table.json"
    cost.latency_table(graph, path=path, timer=Made())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "gpu: some"}))
    table = cost.LatencyTable.load(path)
    with pytest.raises(BudgetError, match="measured on 'gpu: some', this is 'cpu"):
        cost.tabled(table)
    with pytest.raises(BudgetError, match="another path for each device"):
        cost.latency_table(graph, path=path, timer=Made())
    assert cost.tabled(table, other_device=True)(graph) == 1 + 16 + 48 + 12
    path.write_text("{}")
    with pytest.raises(BudgetError, match="not a table of latencies"):
        cost.LatencyTable.load(path)


def test_a_table_of_another_network_lacks_its_shapes() -> None:
    table = cost.latency_table(chained(), ladder=2, timer=Made())
    other = jp.trace(lambda v, x: x @ v["a"] @ v["b"], V, np.ones((5, 2), np.float32))
    with pytest.raises(BudgetError, match=r"lacks 2 of 2 shapes of the dot_general at"):
        cost.tabled(table)(other)


def test_budgets_and_plans_hold_latencies_that_jump() -> None:
    graph = chained()

    def tiles(call: Any) -> float:  # kernels are padded to tiles of 4 x 4
        return 1.0 + (16.0 * np.prod(-(-np.array(call.shapes[1]) // 4)) if call.name else 0.0)

    ladder = {A: range(1, 9), B: range(1, 7)}
    table = cost.latency_table(
        graph, ladder={name: list(ns) for name, ns in ladder.items()}, timer=Made(seconds=tiles)
    )
    seconds = cost.tabled(table)
    scores = {A: np.arange(1.0, 9), B: np.arange(1.0, 7)}
    bound = jp.Absolute(100.0)
    found = jp.plan.problem(graph, scores, bounds={seconds: bound}, ladder=ladder)
    best = jp.plan.milp(found, gap=0.0)
    values = {
        (a, b): scores[A][8 - a :].sum() + scores[B][6 - b :].sum()
        for a in ladder[A]
        for b in ladder[B]
        if seconds(graph, {A: a, B: b}) <= bound.value
    }
    assert best.value == pytest.approx(max(values.values()))
    assert best.widths[A] % 4 == 0  # no tile is left empty
    assert best.widths[B] in (4, 6)
    keep = jp.select.budget(graph, scores, bounds={seconds: bound})
    assert seconds(graph, keep) <= bound.value
    losses = cost.channel_cost(graph, seconds, {A: 5})
    assert losses[A] == seconds(graph, {A: 5}) - seconds(graph, {A: 4}) > 0


def test_groups_convolutions_sums_and_loops_are_measured_as_they_run() -> None:
    v = {
        "stem": np.ones((3, 3, 3, 8), np.float32), "side": np.ones((3, 3, 3, 4), np.float32),
        "depth": np.ones((3, 3, 1, 12), np.float32), "out": np.ones((2, 12, 12), np.float32),
    }  # fmt: skip
    conv = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip

    def fn(v: Any, x: Any) -> Any:
        y = jnp.concatenate([conv(x, v["stem"]), conv(x, v["side"])], -1)
        y = conv(y, v["depth"], feature_group_count=12).mean((1, 2))
        return jax.lax.scan(lambda y, w: (jnp.tanh(y @ w), None), y, v["out"])[0]

    graph = jp.trace(fn, v, np.ones((1, 4, 4, 3), np.float32), free_outputs=["*"])
    shapes: list[Any] = []

    def run(call: Any) -> float:
        jax.block_until_ready(call())
        shapes.append(call.shapes)
        return 1.0 + bool(call.name)

    table = cost.latency_table(graph, ladder=2, timer=Made(seconds=run))
    assert ((1, 4, 4, 6), (3, 3, 1, 6)) in shapes  # both parts at half of their channels
    assert cost.tabled(table)(graph) == 1 + 3 + 2  # the scan runs its product twice


def test_how_well_networks_were_predicted() -> None:
    def made(_: Any) -> list[float]:
        return [3.0, 2.0, 8.0]

    found = cost.fidelity([1.0, 1.0, 2.0], [lambda: None] * 3, timer=made)
    assert found.scale == 3.0
    assert found.error == pytest.approx(0.25)
    assert found.correlation == pytest.approx(np.corrcoef([1, 1, 2.5], [1, 0, 2])[0, 1])


def test_ladders_and_timers_that_make_no_sense() -> None:
    graph = chained()
    with pytest.raises(BudgetError, match=r"of '.*' must hold widths from 1 to 8, got \[9\]"):
        cost.latency_table(graph, ladder={A: [9]})
    with pytest.raises(PatternError, match="ladder pattern"):
        cost.latency_table(graph, ladder={"none": [2]})
    with pytest.raises(BudgetError, match="the timer must give 5 numbers"):
        cost.latency_table(graph, timer=lambda _: [1.0])


def test_a_table_is_not_read_between_whole_widths() -> None:
    graph = chained()
    seconds = cost.tabled(cost.latency_table(graph, ladder=2, timer=Made()))
    with pytest.raises(BudgetError, match=r"at whole widths only(.|\n)*Fix: another closed form"):
        cost.expected(graph, seconds, {A: 2.5})


def test_a_printed_table_marks_widths_that_save_no_time() -> None:
    def tiles_of_four(call: Any) -> float:
        return 1e-6 * (1 + (np.prod([-(-n // 4) for n in call.shapes[1]]) if call.name else 0))

    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], {"a": V["a"], "b": V["b"]}, X)
    table = cost.latency_table(graph, ladder={"a": [4, 5, 7, 8]}, timer=Made(seconds=tiles_of_four))
    assert str(table).splitlines()[1:] == [
        " us     operation",
        "-" * 47,
        "4.0  *  dot_general float32[3, 5] float32[5, 6]",
        "4.0  *  dot_general float32[3, 7] float32[7, 6]",
        "4.0     dot_general float32[3, 8] float32[8, 6]",
        "2.0  *  dot_general float32[3, 2] float32[2, 5]",
        "2.0  *  dot_general float32[3, 2] float32[2, 7]",
        "2.0     dot_general float32[3, 2] float32[2, 8]",
        "2.0     dot_general float32[3, 4] float32[4, 6]",
        "1.0     dot_general float32[3, 2] float32[2, 4]",
        "-" * 47,
        "* a wider one takes no longer: 4 of 8",
    ]
    assert str(table).startswith(f"{table.device}: 8 shapes, 1.0 us to call\n")
