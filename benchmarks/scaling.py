"""How time grows with the size of a network: concatenations, scans, groups and their reports.

Command: python -m benchmarks.scaling
Writes benchmarks/results/scaling.md: least CPU milliseconds of `REPEATS` at every size, and the
exponent that fits them best (1 is linear, 2 quadratic), against the size and against the slots of
the graph, the axes of variables that its groups take. Every layer of a dense chain reads the
channels of all before it: its slots alone are quadratic in its layers. Analysis is what `jp.trace`
takes beyond `jax.make_jaxpr`. What cannot run at a size is shown as its error.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from benchmarks.analysis import planned, timed
from experiments.runner import directory

REPEATS = 3
WIDTH = 4
X = jax.ShapeDtypeStruct((1, WIDTH), jnp.float32)
OUT = Path(__file__).parent / "results" / "scaling.md"

Case = tuple[Callable[..., Any], Mapping[str, Any]]
"""A function of variables and one input, and its variables as shapes."""


def shapes(**sizes: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns variables by name."""
    return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}


def residual(blocks: int) -> Case:
    """A stream to which every block adds: as many groups as blocks, and the stream."""

    def fn(v: Any, x: Any) -> Any:
        x = x @ v["stem"]
        for i in range(blocks):
            x = x + jnp.tanh(x @ v[f"up{i}"]) @ v[f"down{i}"]
        return x.sum(1)

    square = (WIDTH, WIDTH)
    names = [f"{name}{i}" for i in range(blocks) for name in ("up", "down")]
    return fn, shapes(stem=square, **dict.fromkeys(names, square))


def side_by_side(branches: int) -> Case:
    """One concatenation of many branches, read by one layer."""

    def fn(v: Any, x: Any) -> Any:
        return jnp.concatenate([x @ v[f"w{i}"] for i in range(branches)], 1) @ v["head"]

    names = {f"w{i}": (WIDTH, WIDTH) for i in range(branches)}
    return fn, shapes(head=(branches * WIDTH, 2), **names)


def nested(depth: int) -> Case:
    """Concatenations of which each holds the one before, read by one layer."""

    def fn(v: Any, x: Any) -> Any:
        found = x @ v["w0"]
        for i in range(1, depth):
            found = jnp.concatenate([found, x @ v[f"w{i}"]], 1)
        return found @ v["head"]

    names = {f"w{i}": (WIDTH, WIDTH) for i in range(depth)}
    return fn, shapes(head=(depth * WIDTH, 2), **names)


def dense(layers: int) -> Case:
    """A DenseNet: every layer reads all before it, and is concatenated to them."""

    def fn(v: Any, x: Any) -> Any:
        for i in range(layers):
            x = jnp.concatenate([x, x @ v[f"w{i}"]], 1)
        return x @ v["head"]

    names = {f"w{i}": ((i + 1) * WIDTH, WIDTH) for i in range(layers)}
    return fn, shapes(head=((layers + 1) * WIDTH, 2), **names)


def scans(depth: int) -> Case:
    """A scan in a scan in a scan, with a layer in the innermost."""

    def inside(depth: int, v: Any, x: Any) -> Any:
        if not depth:
            return jnp.tanh(x @ v["a"]) @ v["b"]
        return jax.lax.scan(lambda x, _: (inside(depth - 1, v, x), None), x, None, length=2)[0]

    square = (WIDTH, WIDTH)
    return lambda v, x: inside(depth, v, x), shapes(a=square, b=square)


def analysis(case: Case) -> float:
    """Returns the CPU milliseconds of the analysis beyond make_jaxpr."""
    return planned(*case, X)[1]


def reported(look: Callable[[jp.ChannelGraph], Any]) -> Callable[[Case], float]:
    """Returns how to time a look at the graph of a case, which is traced first."""

    def time(case: Case) -> float:
        graph = jp.trace(*case, X)
        return timed(lambda: look(graph))[0]

    return time


class Row(NamedTuple):
    """What is timed, on which networks, at which sizes."""

    what: str
    make: Callable[[int], Case]
    sizes: Sequence[int]
    measure: Callable[[Case], float]


GROUPS = (125, 250, 500, 1000)
LOOKS: Mapping[str, Callable[[jp.ChannelGraph], Any]] = {
    "print": str,
    "explain": jp.explain,
    "channel_cost": jp.cost.channel_cost,
    "kinds": jp.kinds,
    "draw": jp.draw,
    "interior": jp.interior,
    "compare": lambda graph: str(jp.compare(graph, {})),
}
ROWS = (
    Row("analysis, nested concatenations", nested, GROUPS, analysis),
    Row("analysis, dense chain of concatenations", dense, (100, 200, 400), analysis),
    Row("analysis, nested scans", scans, (4, 8, 12, 16), analysis),
    Row("analysis, residual blocks", residual, GROUPS, analysis),
    *(
        Row(f"{name}, residual blocks", residual, GROUPS, reported(look))
        for name, look in LOOKS.items()
    ),
    *(
        Row(f"{name}, branches side by side", side_by_side, GROUPS, reported(look))
        for name, look in LOOKS.items()
        if name != "interior"
    ),
    *(
        Row(f"{name}, dense chain", dense, (50, 100, 200), reported(LOOKS[name]))
        for name in ("print", "explain", "channel_cost")
    ),
)


def slots(case: Case) -> int:
    """Returns how many axes of variables the groups of a case take."""
    return sum(len(group.slots) for group in jp.trace(*case, X).groups.values())


def measured(row: Row, size: int) -> float | str:
    """Returns the least time of a row at one size, or the name of what it raised."""
    try:
        return min(row.measure(row.make(size)) for _ in range(REPEATS))
    except Exception as error:
        return type(error).__name__


def exponent(sizes: Sequence[int], times: Sequence[float | str]) -> float:
    """Returns the slope of the line through (log size, log time) with the least squares.

    >>> round(exponent([1, 2, 4], [3.0, 12.0, 48.0]), 3)
    2.0
    """
    pairs = [(s, t) for s, t in zip(sizes, times, strict=True) if isinstance(t, float) and t > 0]
    if len({size for size, _ in pairs}) < 2:
        return math.nan
    return float(np.polyfit(*np.log(np.array(pairs)).T, 1)[0])


def table() -> Iterator[str]:
    """Yields the lines of the table, each when it is known."""
    yield "| what | milliseconds at each size | exponent | against slots |"
    yield "|---|---|---|---|"
    for row in ROWS:
        times = [measured(row, size) for size in row.sizes]
        cells = [t if isinstance(t, str) else f"{t:.1f}" for t in times]
        pairs = ", ".join(f"{size}: {cell}" for size, cell in zip(row.sizes, cells, strict=True))
        counts = [slots(row.make(size)) for size in row.sizes]
        both = [exponent(grows, times) for grows in (row.sizes, counts)]
        slopes = " | ".join("-" if math.isnan(slope) else f"{slope:.2f}" for slope in both)
        yield f"| {row.what} | {pairs} | {slopes} |"


def main() -> None:
    """Prints the table and writes it."""
    jp.trace(*residual(1), X)  # what is compiled and cached at the first call
    head, lines = directory.made(directory.provenance()), []
    for line in table():
        print(line, flush=True)
        lines.append(line)
    OUT.write_text("\n".join(["# Time against size", "", head, "", *lines]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
