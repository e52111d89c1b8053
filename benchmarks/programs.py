"""Compiled programs side by side: their operations, and their times interleaved."""

import collections
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax

import jaxprune as jp

OPERATION = re.compile(r"= \S+ ([\w-]+)\(")


def operations(program: Any) -> collections.Counter[str]:
    """Returns how often every HLO operation occurs."""
    return collections.Counter(OPERATION.findall(program.as_text()))


def narrowed(
    graph: jp.ChannelGraph, variables: Any, x: Any, keeps: Iterable[Mapping[str, Any]]
) -> list[Callable[[], Any]]:
    """Returns calls of a network on `x`, compiled, at each keep: as `jp.narrow` runs it."""
    return [
        partial(jax.jit(jp.narrow(graph.fn, graph, keep)), jp.slice(graph, variables, keep), x)
        for keep in keeps
    ]


def print_times(calls: Mapping[str, Callable[[], Any]], base: str, *, rounds: int = 80) -> None:
    """Prints the time of every call as a share of that of `base`; every round calls all in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
    for name in [name for name in calls if name != base]:
        ratios = [a / b for a, b in zip(times[name], times[base], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"time of {name} / {base}: {middle:.3f} (quartiles {low:.3f} to {high:.3f})")
