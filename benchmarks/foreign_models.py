"""Complete models of other packages, unmodified, each pruned at random by 40 %.

Command: python -m benchmarks.foreign_models (pip install -e ".[foreign]", and without their
dependencies those that `benchmarks/foreign/models.py` names; no download of weights)
Names of models behind it measure only those. Writes benchmarks/results/foreign_models.json and .md.
Weights are random, in the shapes that the packages give; vectors have neither zeros nor ones.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles faster

import json
import sys
import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from benchmarks.foreign.causes import CAUSES, NO_ATTRIBUTE
from benchmarks.foreign.model import Function, Model
from benchmarks.foreign.models import MODELS
from benchmarks.random_weights import difference, drawn
from jaxprune.running import attribute_search, same_program
from jaxprune.running.verify import following

PRUNED = 0.4
ALONE = 20.0
"""Seconds of search for one group alone, where all together are refused."""
ALL_ALONE = 300.0
"""Seconds for all of them: those beyond count as refused."""
RESULTS = Path(__file__).parent / "results" / "foreign_models.json"
TEXT = """# Models of other packages

Written by `python -m benchmarks.foreign_models`: complete models, unmodified, with random weights
(nothing is downloaded), every channel group pruned at random by 40 %. *Prunable* is the share of
the parameters that goes where every group keeps one channel; *trace* are seconds of `jp.trace`,
on a busy machine. *Resizes* says for how many groups the package's own code is the same network
at the kept widths, by the `resize` of its framework; `jp.narrow` runs them all. *Tries* and
*seconds* are those of the search for attributes, all groups together. The last three columns are
largest differences relative to the largest output, in single precision: of the pruned network to
the dense one, so that the others mean something; of masked and narrowed network, all exact groups
pruned; of resized and narrowed, the exact groups that resize, where the narrowed one has the
constants that follow a width (1 over the root of the head size). Where not all groups resize, the
cause stands below the table, read in the code of the package."""
HEAD = (
    "model", "package", "framework", "parameters", "groups", "inexact", "prunable", "MACs",
    "MACs after", "trace", "resizes", "tries", "seconds", "pruned - dense", "mask - narrow",
    "resized - narrow",
)  # fmt: skip


def chosen(graph: jp.ChannelGraph) -> dict[str, np.ndarray]:
    """Returns a random keep of every group, at least one channel each."""
    random = np.random.default_rng(2)
    ranks = {name: random.permutation(group.size) for name, group in graph.groups.items()}
    return {name: rank < max(1, round((1 - PRUNED) * len(rank))) for name, rank in ranks.items()}


@contextmanager
def counted(seconds: float) -> Generator[Counter[str], None, None]:
    """Counts the networks that a search of so many seconds tries."""
    found: Counter[str] = Counter()
    attempt, limit = same_program.attempt, attribute_search.SECONDS

    def counting(*args: Any) -> Any:
        found["tries"] += 1
        return attempt(*args)

    same_program.attempt, attribute_search.SECONDS = counting, seconds
    try:
        yield found
    finally:
        same_program.attempt, attribute_search.SECONDS = attempt, limit


def resizable(
    model: Model, graph: jp.ChannelGraph, keep: Mapping[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """Returns the groups at whose kept widths the code is the same network, and how it went."""

    def refused(names: Any) -> str | None:
        try:
            model.resize(graph, {name: keep[name] for name in names})
        except jp.errors.ResizeError as error:
            return str(error)
        return None

    start = time.perf_counter()
    with counted(attribute_search.SECONDS) as count:
        why = refused(keep)
    spent = {"tries": count["tries"], "seconds": round(time.perf_counter() - start, 1)}
    if why is None:
        return list(keep), spent
    with counted(ALONE):
        until = time.perf_counter() + ALL_ALONE
        alone = [name for name in keep if time.perf_counter() < until and refused([name]) is None]
        together = alone if refused(alone) is None else []
    return together, {**spent, "alone": len(alone), "why": why.split("\nFix: ")[0]}


def agreement(
    model: Model, graph: jp.ChannelGraph, keep: Mapping[str, Any], resizes: list[str]
) -> dict[str, float | None]:
    """Returns pruned - dense and mask - narrow of exact groups, resized - narrow of `resizes`."""
    variables = drawn(model.variables)
    exact = {name: kept for name, kept in keep.items() if graph.groups[name].inexact is None}

    def run(fn: Function, variables: Any, keep: Mapping[str, Any] = MappingProxyType({})) -> Any:
        inputs = list(model.inputs)
        if model.cache is not None:
            inputs[model.cache] = jp.slice(graph, inputs[model.cache], keep, state=model.cache)
        outputs = model.output(jax.jit(fn)(variables, *inputs))
        return outputs if model.cache is None else outputs[0]

    dense = run(model.fn, variables)
    masked = run(model.fn, jp.mask(graph, variables, exact))
    narrow = run(jp.narrow(model.fn, graph, exact), jp.slice(graph, variables, exact), exact)
    shared = {name: exact[name] for name in resizes if name in exact}
    gap = None
    if shared:
        small = jp.slice(graph, variables, shared)
        resized = model.resize(graph, shared)
        expected = run(following(model.fn, graph, shared, resized), small, shared)
        gap = difference(expected, run(resized, small, shared))
    return {
        "pruned - dense": difference(dense, masked),
        "mask - narrow": difference(masked, narrow),
        "resized - narrow": gap,
    }


def measured(name: str) -> dict[str, Any]:
    """Returns the numbers of a model."""
    package, framework, make = MODELS[name]
    model = make()
    start = time.perf_counter()
    graph = model.trace()
    seconds = time.perf_counter() - start
    keep = chosen(graph)
    resizes, spent = resizable(model, graph, keep)
    params = jp.cost.params(graph)
    one = dict.fromkeys(graph.groups, 1)
    return {
        "model": name,
        "package": f"{package} {version(package)}",
        "framework": framework,
        "parameters": params,
        "groups": len(keep),
        "inexact": sum(group.inexact is not None for group in graph.groups.values()),
        "prunable": f"{1 - jp.cost.params(graph, one) / params:.1%}",
        "MACs": jp.cost.macs(graph),
        "MACs after": jp.cost.macs(graph, jp.widths(graph, keep)),
        "trace": round(seconds, 2),
        "resized": len(resizes),
        **spent,
        **agreement(model, graph, keep, resizes),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the page."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for row in rows:
        whole = row["resized"] == row["groups"]
        row = row | {"resizes": "all" if whole else f"{row['resized']} of {row['groups']}"}
        lines.append(f"| {' | '.join(shown(row[name]) for name in HEAD)} |")
    parts = [row for row in rows if row["resized"] < row["groups"]]
    count = Counter(map(verdict, rows))
    packages = len({row["package"] for row in rows})
    sums = ", ".join(f"{n} {how}" for how, n in count.items())
    possible = [row for row in rows if not CAUSES.get(row["model"], "").startswith(NO_ATTRIBUTE)]
    whole = sum(row["resized"] == row["groups"] for row in possible)
    versions = f"JAX {jax.__version__}, Flax {version('flax')}, CPU."
    causes = [
        f"* **{row['model']}**: {CAUSES.get(row['model'], 'not known')}. "
        f"`{' '.join(row['why'].splitlines()[0].split())[:200]}`"
        for row in parts
    ]
    summary = (
        f"{len(rows)} models of {packages} packages: {sums}. Of the {len(possible)} in which "
        f"attributes for all kept sizes exist, {whole} ({whole / len(possible):.0%}) resize "
        f"wholly. {versions}"
    )
    return "\n".join(
        [TEXT, "", summary, "", *lines, "", "## What does not resize", "", *causes, ""]
    )


def verdict(row: Mapping[str, Any]) -> str:
    """Returns how far a model resizes."""
    if not row["groups"]:
        return "without groups"
    if row["resized"] == row["groups"]:
        return "whole"
    return "in part" if row["resized"] or row["alone"] else "not at all"


def shown(value: Any) -> str:
    """Returns a cell."""
    if value is None:
        return ""
    if isinstance(value, float) and value < 1e-2:
        return f"{value:.1e}"
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:.3g}"
        if isinstance(value, float)
        else str(value)
    )


def main(*names: str) -> None:
    """Measures the named models, else all; the numbers of other models stay."""
    done = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names or MODELS:
        done[name] = measured(name)
        print(json.dumps(done[name]), flush=True)
        done = {name: done[name] for name in MODELS if name in done}
        RESULTS.write_text(json.dumps(done, indent=1) + "\n")
        RESULTS.with_suffix(".md").write_text(table(list(done.values())))
        jax.clear_caches()


if __name__ == "__main__":
    main(*sys.argv[1:])
