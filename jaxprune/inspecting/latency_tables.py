"""How long the contractions of a network take at a ladder of widths: a table, and the cost by it.

The table holds what was measured, by operation, shape and type. The cost interpolates between the
measured widths, linearly along each of them, and adds the contractions up.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.arguments import paths
from jaxprune.arguments.checks import check_flag, check_mapping, kind_of
from jaxprune.arguments.numbers import check_count, is_count, is_number, plain
from jaxprune.errors import BudgetError
from jaxprune.graph import Branches, ChannelGraph, Contraction
from jaxprune.inspecting import slow_shapes, without_branches
from jaxprune.inspecting.cached import once
from jaxprune.inspecting.closed_forms import ClosedForm
from jaxprune.inspecting.terms import Dearest, Lookup, Product, Term, Terms, Widths
from jaxprune.inspecting.without_branches import Without
from jaxprune.program import spaces as ax
from jaxprune.program.jaxpr import Op

Ladder = int | Mapping[str, Sequence[int]]
STEPS = 4
"""How many widths are measured of a group by default."""


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Measured seconds of contractions on one device.

    Attributes:
      device: what they were measured on.
      ladder: what `jp.cost.latency_table` was asked for.
      overhead: seconds of a call that does nothing, which the network takes once.
      seconds: {operation, shapes and types: seconds beyond the overhead}.

    `print` shows the slowest shapes, and marks widths that save no time, such as those that do not
    fill the vectors or tiles of the device.
    """

    device: str
    ladder: Ladder
    overhead: float
    seconds: Mapping[str, float]

    def __str__(self) -> str:
        """One line per shape, the slowest first."""
        head = f"{self.device}: {len(self.seconds)} shapes, {1e6 * self.overhead:,.1f} us to call"
        return "\n".join([head, *slow_shapes.lines(self.seconds)])

    def save(self, path: str | Path) -> None:
        """Writes the table as JSON, as a whole or not at all.

        Raises:
          BudgetError: `path` is not that of a file.
        """
        path = check_path(path)
        written = path.with_name(path.name + ".part")
        written.write_text(json.dumps(asdict(self), indent=1))
        written.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "LatencyTable":
        """Returns the table of a file that `save` wrote.

        Raises:
          BudgetError: there is no such table.
        """
        try:
            entries = json.loads(Path(path).read_text())
        except (OSError, ValueError, TypeError) as error:
            raise BudgetError(
                f"{path} is not a table of latencies: {error}.\nFix: {_FIX}"
            ) from None
        numbers = entries.get("seconds") if isinstance(entries, dict) else None
        if (
            not isinstance(numbers, dict)
            or set(entries) != {"device", "ladder", "overhead", "seconds"}
            or not isinstance(entries["ladder"], int | dict)
            or not all(map(is_number, [entries["overhead"], *numbers.values()]))
        ):
            raise BudgetError(f"{path} is not a table of latencies.\nFix: {_FIX}")
        return cls(**entries)


_FIX = "jp.cost.latency_table(graph, path=...) writes one; delete a file that is damaged."


def tabled(table: LatencyTable, *, other_device: bool = False) -> ClosedForm:
    """Returns the cost: seconds of a call, the contractions by a table.

      overhead + sum over contractions (how often it runs * its seconds at the widths)

    Other operations are left out: compilers fuse most of them into contractions, but the cost of a
    whole network may be above it (`jp.cost.fidelity` says how far). Below the lowest measured
    width a contraction takes as long as there. Where it does not fall with a width,
    `jp.select.budget` holds the bound at a later point than the first.

    Args:
      table: what `jp.cost.latency_table` returned, or `LatencyTable.load`.
      other_device: True takes one that was measured on another device than the present one.

    Raises:
      BudgetError: the table is of another device; when it is called: it lacks a contraction.

    >>> import numpy as np, jaxprune as jp
    >>> v = {"first": np.ones((2, 4), np.float32), "second": np.ones((4, 3), np.float32)}
    >>> graph = jp.trace(lambda v, x: x @ v["first"] @ v["second"], v, np.ones((1, 2)))
    >>> entries = lambda call: 1e-6 * sum(np.prod(shape) for shape in call.shapes)
    >>> table = jp.cost.latency_table(graph, timer=lambda calls: [entries(call) for call in calls])
    >>> cost = jp.cost.tabled(table)
    >>> print(f"{cost(graph):.7f}, {cost(graph, {'first': 2}):.7f}")
    0.0000250, 0.0000130
    """
    check_table(table)
    check_flag(other_device, "other_device")
    here = device_name()
    if table.device != here and not other_device:
        raise BudgetError(
            f"the table was measured on {table.device!r}, this is {here!r}.\n"
            "Fix: jp.cost.latency_table(graph) here, or tabled(table, other_device=True)."
        )

    def terms_without(graph: ChannelGraph, gone: Without | None = None) -> Terms:
        return [Product(table.overhead, []), *_terms(graph, graph.contractions, gone, table)]

    whole = once(terms_without)

    def terms(graph: ChannelGraph, gone: Without | None) -> Terms:
        return whole(graph) if gone is None else terms_without(graph, gone)

    return ClosedForm("latency", terms, of_contractions=True)


def check_path(path: Any) -> Path:
    """Returns the path of a file.

    Raises:
      BudgetError: it is not one.
    """
    if not isinstance(path, str | Path):
        raise BudgetError(f"path must be that of a file, got {kind_of(path)}.\nFix: 'table.json'.")
    return Path(path)


def check_table(table: Any) -> None:
    """Raises BudgetError unless `table` is one."""
    if not isinstance(table, LatencyTable):
        raise BudgetError(f"expected a table of latencies, got {kind_of(table)}.\nFix: {_FIX}")


def device_name() -> str:
    """Returns what the present device is called; of a CPU with its model, as far as it is known."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{device.platform}: {device.device_kind}"
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu: {models[0]}, {len(models)} cores" if models else f"cpu: {device.device_kind}"


class Knob(NamedTuple):
    """Groups that are measured together, at several widths: those of the ends of a sum, or one.

    at: {group: its width} at each place, ascending; totals: the sums of these.
    """

    names: tuple[str, ...]
    at: tuple[Mapping[str, int], ...]
    totals: np.ndarray


class Shaped(NamedTuple):
    """A contraction at some widths."""

    key: str
    params: Mapping[str, Any]
    operands: tuple[tuple[tuple[int, ...], Any], ...]  # shapes and dtypes


def knobs(graph: ChannelGraph, op: Op, ladder: Ladder) -> list[Knob]:
    """Returns what the time of a contraction depends on."""
    places: dict[str, list[Any]] = {}
    for i, axes in enumerate(op.ins):
        for j, space in enumerate(axes):
            joint = type(ax.find(space)) is ax.Sum
            for name in dict.fromkeys(atom.name for atom in ax.atoms(space) if atom.name):
                places.setdefault(name, []).append((i, j, joint or name))
    together: dict[Any, list[str]] = {}
    for name, met in places.items():
        together.setdefault(tuple(met), []).append(name)
    return [_knob(graph, tuple(names), ladder) for names in together.values()]


def _knob(graph: ChannelGraph, names: tuple[str, ...], ladder: Ladder) -> Knob:
    sizes = {name: graph.groups[name].size for name in names}
    given = dict(ladder) if isinstance(ladder, Mapping) else {}
    asked = [w for p, w in given.items() if len(names) == 1 and paths.matches(p, names[0])]
    if asked:
        at = tuple({names[0]: width} for width in sorted({*asked[-1], sizes[names[0]]}))
    else:
        steps = ladder if isinstance(ladder, int) else STEPS
        shares = [step / steps for step in range(1, steps + 1)]
        each = [{n: max(1, round(size * share)) for n, size in sizes.items()} for share in shares]
        at = tuple(widths for i, widths in enumerate(each) if i == 0 or widths != each[i - 1])
    return Knob(names, at, np.array([sum(widths.values()) for widths in at], float))


def grid(op: Op, several: Sequence[Knob]) -> Iterator[Shaped]:
    """Yields a contraction at all combinations of the widths of its knobs, the last one fastest."""
    for places in itertools.product(*(knob.at for knob in several)):
        yield shaped(op, {name: n for widths in places for name, n in widths.items()})


def shaped(op: Op, widths: Widths) -> Shaped:
    """Returns a contraction at the widths."""

    def size(space: Any) -> int:
        return ax.count(space, widths)

    changed = op.rule.params(op, size) if op.rule is not None and op.rule.params else {}
    params = op.eqn.params | changed
    operands = tuple(
        (tuple(map(size, axes)), atom.aval.dtype)
        for axes, atom in zip(op.ins, op.eqn.invars, strict=True)
    )
    types = " ".join(f"{dtype}{list(shape)}" for shape, dtype in operands)
    rest = " ".join(f"{name}={value}" for name, value in sorted(params.items()))
    return Shaped(f"{op.name} {types} {rest}", params, operands)


def check_ladder(graph: ChannelGraph, ladder: Any) -> Ladder:
    """Returns a ladder as plain numbers.

    Raises:
      BudgetError: it is not a number of widths, or {pattern: widths} of groups.
      PatternError: a pattern matches nothing.
    """
    if not isinstance(ladder, Mapping):
        return check_count(ladder, "ladder", "ladder=4.", BudgetError, least=2)
    given = check_mapping(ladder, "ladder", "{pattern: widths}", BudgetError)
    if not given:
        raise BudgetError("the ladder says nothing of any group.\nFix: ladder=4.")
    paths.require(given, graph.groups, what="ladder pattern")
    by_pattern = {}
    for pattern, widths in given.items():
        listed = list(widths) if isinstance(widths, Sequence | np.ndarray) else [widths]
        largest = max(g.size for name, g in graph.groups.items() if paths.matches(pattern, name))
        if not listed or not all(is_count(n) and plain(n) <= largest for n in listed):
            raise BudgetError(
                f"the ladder of {pattern!r} must hold widths from 1 to {largest}, got {widths!r}.\n"
                f"Fix: ladder={{{pattern!r}: [{largest}]}}."
            )
        by_pattern[pattern] = [plain(n) for n in listed]
    return by_pattern


def _terms(
    graph: ChannelGraph,
    items: Sequence[Contraction | Branches],
    gone: Without | None,
    table: LatencyTable,
) -> list[Term]:
    terms: list[Term] = []
    for item in items:
        if isinstance(item, Branches):
            terms.append(Dearest([_terms(graph, part, gone, table) for part in item.alternatives]))
            continue
        known = knobs(graph, item.op, table.ladder)
        names = tuple(name for knob in known for name in knob.names)
        read = _read(graph, item, known, table)
        terms.append(Lookup(without_branches.repeats(item, gone), names, read, item.op))
    return terms


def _read(
    graph: ChannelGraph, item: Contraction, known: Sequence[Knob], table: LatencyTable
) -> Callable[[Widths], float]:
    """The seconds of a contraction at any widths."""
    keys = [shape.key for shape in grid(item.op, known)]
    if missing := [key for key in keys if key not in table.seconds]:
        raise BudgetError(
            f"the table of latencies lacks {len(missing)} of {len(keys)} shapes of the "
            f"{item.op.name} at {item.place}, the first {missing[0]!r}.\n"
            "Fix: jp.cost.latency_table(graph, path=...) adds them on the device of the table."
        )
    lengths = [len(knob.at) for knob in known]
    values = np.array([table.seconds[key] for key in keys]).reshape(lengths)
    sizes = {name: graph.groups[name].size for knob in known for name in knob.names}

    def read(at: Widths) -> float:
        seconds: Any = values
        for knob in known:  # the first axis goes with every one
            total = sum(at.get(name, sizes[name]) for name in knob.names)
            seconds = _between(seconds, knob.totals, total)
        return float(seconds)

    return read


def _between(values: np.ndarray, places: np.ndarray, at: float) -> Any:
    """Values along their first axis, linearly between places, and as at the ends beyond them."""
    at = float(np.clip(at, places[0], places[-1]))
    after = min(max(int(np.searchsorted(places, at)), 1), len(places) - 1)
    if len(places) == 1:
        return values[0]
    share = (at - places[after - 1]) / (places[after] - places[after - 1])
    return (1 - share) * values[after - 1] + share * values[after]
