"""The page of a comparison: a table for every budget, a picture, and what is missing."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.comparing import cells
from experiments.comparing.bench import Bench
from experiments.comparing.cells import Cell
from experiments.comparing.config import Config
from experiments.comparing.registry import METHODS, Need
from experiments.comparing.timing import Times
from experiments.report import plots
from experiments.report.bootstrap import interval
from experiments.runner import processes

REFERENCE = "l1"
"""The method that all are compared with, image by image."""
Entries = Mapping[str, Mapping[float, Mapping[int, Mapping[str, Any]]]]
"""{method: {budget: {seed: what was measured}}}."""


def write(config: Config, bench: Bench, planned: Sequence[Cell], times: Times) -> Path:
    """Writes the table and the pictures, and returns the path of the table."""
    found, failed = _entries(config, bench, planned)
    dense = float(bench.evaluate(bench.dense())[1].mean())
    file, picture = config.out / f"compare_{config.preset}.md", cells.folder(config)
    missing = cells.missing(config, bench.digest, planned)
    text = "\n".join(_lines(config, bench, found, dense, times, failed, missing)) + "\n"
    processes.shared(lambda: picture.mkdir(parents=True, exist_ok=True))
    processes.shared(lambda: file.write_text(text, "utf-8"))
    if found:
        macs = _points(found, lambda _, entry: entry["macs"])
        title = "share of the dense MACs"
        plots.compared(picture.with_suffix(".png"), macs, dense=dense, cost=title)
        if times:
            spent = _points(found, lambda cell, _: times.get(cell))
            title = "ms for 64 images"
            target = picture.with_name(f"{picture.name}-latency.png")
            plots.compared(target, spent, dense=dense, cost=title)
    return file


def _entries(
    config: Config, bench: Bench, planned: Sequence[Cell]
) -> tuple[Entries, dict[str, str]]:
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for cell in planned:
        entry = cells.read(config, cell, bench.digest)
        if entry is None:
            continue
        if "failed" in entry:
            failed[cell.name] = " ".join(entry["failed"].split())
        else:
            found.setdefault(cell.method, {}).setdefault(cell.share, {})[cell.seed] = entry
    return found, failed


def _right(entries: Mapping[int, Mapping[str, Any]], seeds: Sequence[int]) -> np.ndarray:
    """Returns f[seeds, images]: which test images were right."""
    return np.stack([cells.unpacked(entries[s]["right"], entries[s]["images"]) for s in seeds])


def _points(found: Entries, cost: Any) -> dict[str, dict[str, list[plots.Point]]]:
    """Returns {need: {method: its points, (cost, accuracy, half the interval)}}."""
    panels: dict[str, dict[str, list[plots.Point]]] = {str(need): {} for need in Need}
    for method, budgets in found.items():
        points = []
        for share, entries in budgets.items():
            seeds = sorted(entries)
            name = Cell(method, share, seeds[0]).name
            spent = cost(name, entries[seeds[0]])
            if spent is not None:
                mean, low, high = interval(_right(entries, seeds))
                points.append((spent, mean, (high - low) / 2))
        if points:
            panels[str(METHODS[method].needs)][method] = points
    return panels


def _lines(
    config: Config,
    bench: Bench,
    found: Entries,
    dense: float,
    times: Times,
    failed: Mapping[str, str],
    missing: Sequence[str],
) -> Iterator[str]:
    task = bench.task
    yield f"# All methods side by side: {config.preset}"
    yield ""
    yield (
        f"Written by `python -m experiments compare`, preset {config.preset}. "
        f"The dense network is {config.model} on {config.dataset}: {bench.macs:,} MACs, "
        f"{dense:.2%} of {task.dataset.test.size:,} test images. The recovery is the same for all: "
        f"{config.finetune.epochs} epochs; methods that train before they cut have "
        f"{config.train.epochs} epochs more unless the column says otherwise, and those that train "
        "from other weights train as the dense network did."
    )
    yield ""
    yield (
        "Accuracy: mean over the seeds, with the 95 % interval of a bootstrap over test images and "
        f"seeds. To {REFERENCE}: the difference on the same images and seeds. At the cut: before "
        "any recovery. MACs: what is really left, the range over the seeds. Epochs: before the cut "
        "+ behind it."
    )
    for share in config.budgets:
        for need in Need:
            rows = [
                (name, found[name][share])
                for name, method in METHODS.items()
                if method.needs == need and share in found.get(name, {})
            ]
            if rows:
                yield ""
                yield f"## {share:.0%} of the MACs, needs {need}"
                yield ""
                reference = found.get(REFERENCE, {}).get(share, {})
                yield from _table(rows, reference, share, times)
    yield ""
    yield "## Missing"
    yield ""
    yield (
        f"{len(missing)} cells: {', '.join(_joined(config, missing))}." if missing else "No cell."
    )
    if failed:
        yield ""
        yield "Not for this network or budget:"
        yield ""
        yield from (f"* {name}: {why}" for name, why in failed.items())


def _joined(config: Config, missing: Sequence[str]) -> Iterator[str]:
    """Yields the names of cells; of a budget and a seed without any cell, that."""
    methods = config.methods or tuple(METHODS)
    left = set(missing)
    for share in config.budgets:
        for seed in config.seeds:
            names = [Cell(method, share, seed).name for method in methods]
            if len(names) > 5 and left.issuperset(names):
                yield f"all of {share:.0%} with seed {seed}"
                left.difference_update(names)
    yield from (name for name in missing if name in left)


def _table(
    rows: Sequence[tuple[str, Any]], reference: Mapping[int, Any], share: float, times: Times
) -> Iterator[str]:
    """Yields the methods of one budget and one need, the best first."""
    head = "method,row,source,seeds,MACs,epochs,at the cut,accuracy".split(",")
    head += [f"to {REFERENCE}", *(["ms"] if times else [])]
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    made = []
    for name, entries in rows:
        seeds, method = sorted(entries), METHODS[name]
        right = _right(entries, seeds)
        both = [seed for seed in seeds if seed in reference]
        to = "" if name == REFERENCE or not both else _difference(entries, reference, both)
        macs = sorted({f"{entries[s]['macs']:.1%}" for s in seeds})
        epochs = entries[seeds[0]]["epochs"]
        cut = np.mean([entries[s]["cut_accuracy"] for s in seeds])
        columns = [
            f"`{name}`",
            method.row,
            method.source,
            str(len(seeds)),
            " to ".join(dict.fromkeys((macs[0], macs[-1]))),
            f"{epochs['before']:g} + {epochs['after']}",
            f"{cut:.1%}",
            _percent(interval(right)),
            to,
        ]
        if times:
            spent = times.get(Cell(name, share, seeds[0]).name)
            columns.append("" if spent is None else f"{spent:.3f}")
        made.append((-right.mean(), f"| {' | '.join(columns)} |"))
    yield from (line for _, line in sorted(made))


def _difference(entries: Any, reference: Any, seeds: Sequence[int]) -> str:
    return _percent(interval(_right(entries, seeds) - _right(reference, seeds)), sign="+")


def _percent(found: Sequence[float], sign: str = "") -> str:
    mean, low, high = (f"{100 * value:{sign}.2f}" for value in found)
    return f"{mean} ({low} to {high})"
