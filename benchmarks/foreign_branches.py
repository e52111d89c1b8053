"""The residual branches of the models of `benchmarks.foreign_models`, by name.

Command: python -m benchmarks.foreign_branches (installed as for `benchmarks.foreign_models`)
Names of models behind it look only at those; `--check` compares with what is committed and fails
where a list differs. Writes benchmarks/results/foreign_branches.json and .md. Every second branch
is taken out, by a gate at its sum and by `jp.narrow`, on random weights: the outputs must agree.
"""

from benchmarks import foreign_models  # noqa: F401  # sets what JAX reads  # isort: skip

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jax

import jaxprune as jp
from benchmarks.foreign.models import MODELS
from benchmarks.random_weights import difference, drawn

RESULTS = Path(__file__).parent / "results" / "foreign_branches.json"
TEXT = """# Branches of models of other packages

Written by `python -m benchmarks.foreign_branches`: what `jp.branches` finds in complete models,
unmodified, each by the last kernel before its sum; runs of numbers are written as `{0-3}`. *Gate -
narrow* is the largest difference, relative to the largest output, of the network with a gate of
zero at every second branch and of the narrow one without them, on random weights.
"""


def found(name: str) -> list[str]:
    """Returns the branches of a model, in its order."""
    return list(jp.branches(MODELS[name].make().trace()))


def agreement(name: str) -> float | None:
    """Returns the difference of a gated and of a narrow network; None where no branch is."""
    model = MODELS[name].make()
    graph = model.trace()
    known = jp.branches(graph)
    keep = dict.fromkeys([*known][::2], False)
    if not keep:
        return None
    variables = drawn(model.variables)

    def gated(v: Any, *inputs: Any) -> Any:
        return model.output(jp.gated(model.fn, graph)(v, keep, *inputs))

    narrow = jp.narrow(model.fn, graph, keep)
    outputs = jax.jit(gated)(variables, *model.inputs)
    small = jp.slice(graph, variables, keep)
    cached = model.cache is not None
    inputs = [
        jp.slice(graph, x, keep, state=i) if i == model.cache else x
        for i, x in enumerate(model.inputs)
    ]
    ours = jax.jit(lambda v, *xs: model.output(narrow(v, *xs)))(small, *inputs)
    return difference(*((x[0] if cached else x) for x in (outputs, ours)))


def folded(names: Sequence[str]) -> list[str]:
    """Returns names with the numbers in them as ranges where only one number differs."""
    shapes: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for name in names:
        parts = _parts(name)
        numbers = tuple(int(part) for part in parts if part.isdigit())
        shape = tuple("#" if part.isdigit() else part for part in parts)
        shapes.setdefault(shape, []).append(numbers)
    lines = []
    for shape, numbers in shapes.items():
        places = list(zip(*numbers, strict=True))
        words = iter([_range(sorted(set(place))) for place in places])
        text = "".join(next(words) if part == "#" else part for part in shape)
        product = math.prod(len(set(place)) for place in places)
        lines.append(text if product == len(numbers) else f"{text} ({len(numbers)})")
    return lines


def _parts(name: str) -> list[str]:
    return ["".join(part) for _, part in groupby(name, key=str.isdigit)]


def _range(numbers: Sequence[int]) -> str:
    first, last = numbers[0], numbers[-1]
    if first == last:
        return str(first)
    runs = last - first + 1 == len(numbers)
    return f"{{{first}-{last}}}" if runs else "{" + ",".join(map(str, numbers)) + "}"


def page(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the page."""
    lines = [TEXT, "| model | branches | gate - narrow | names |", "|---|---|---|---|"]
    for name, row in rows.items():
        names = "<br>".join(f"`{text}`" for text in folded(row["branches"]))
        gap = row.get("gap")
        shown = "" if gap is None else f"{gap:.1e}"
        lines.append(f"| {name} | {len(row['branches'])} | {shown} | {names} |")
    failed = [name for name in MODELS if name not in rows]
    if failed:
        lines += ["", f"Not looked at yet: {', '.join(failed)}."]
    return "\n".join(lines) + "\n"


def main(*args: str) -> None:
    """Lists the branches of the named models, else of all that are not listed, and measures."""
    done = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    names = [arg for arg in args if not arg.startswith("--")]
    if "--check" in args:
        other = [n for n in names or done if found(n) != done[n]["branches"]]
        if other:
            raise SystemExit(f"{other} have other branches than {RESULTS} says.")
        return
    for what in ("branches", "gap"):
        for name in names or [n for n in MODELS if what not in done.get(n, {})]:
            start = time.process_time()
            row = done.setdefault(name, {})
            row[what] = found(name) if what == "branches" else agreement(name)
            print(name, what, row[what], round(time.process_time() - start, 1), flush=True)
            done = {n: done[n] for n in MODELS if n in done}
            RESULTS.write_text(json.dumps(done, indent=1) + "\n")
            RESULTS.with_suffix(".md").write_text(page(done))
            jax.clear_caches()


if __name__ == "__main__":
    main(*sys.argv[1:])
