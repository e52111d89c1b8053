"""Bad input is refused in words: a table of every public function and values it must not take."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxprune as jp
from bad_calls import LIBRARY_ROWS, Row
from bad_training_calls import TRAINING_ROWS
from bad_values import GRAPH

ROWS = LIBRARY_ROWS | TRAINING_ROWS

DATA = set(
    "Restored ChannelGraph Group Slot Kind Rule RULES Verification cost.Latency gates.Decorated "
    "linen.Plan linen.Hidden linen.Resized recover.Absorbed recover.Outcome schedule.Part "
    "schedule.Quota schedule.Plan schedule.FINETUNE schedule.SCORE schedule.TICK schedule.TOCK "
    "schedule.Progress schedule.Tally select.Rule slimmable.Evaluate slimmable.Found "
    "slimmable.Space slimmable.MOBILE_CORE slimmable.MOBILE_SOC slimmable.Device slimmable.Spectrum "
    "slimmable.Switch slimmable.Split slimmable.Distillation slimmable.Gradients slimmable.Network "
    "sparsify.PenaltyState".split()
)
"""What the library makes and hands out, and names of types."""
CASES = [(name, arg) for name, row in ROWS.items() for arg in row.args]


def visible(module: Any) -> Iterator[str]:
    """The public names that a module defines, or imports to hand them on."""
    for node in ast.parse(Path(module.__file__).read_text()).body:
        if isinstance(node, ast.ImportFrom):
            yield from (a.name for a in node.names if a.asname == a.name)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def public() -> Iterator[str]:
    for name in visible(jp):
        item = getattr(jp, name)
        if not inspect.ismodule(item):
            yield name
        elif name not in ("axes", "errors"):  # for authors of rules; exceptions
            yield from (f"{name}.{inner}" for inner in visible(item) if not inner.startswith("_"))


def fingerprint(value: Any) -> Any:
    """What a function could have changed in an argument."""
    leaves, structure = jax.tree.flatten(value)
    return str(structure), [x.tobytes() if isinstance(x, np.ndarray) else id(x) for x in leaves]


def called(row: Row, **changed: Any) -> Any:
    args = {n: arg.good for n, arg in row.args.items() if arg.good is not ...} | changed
    return row.call(**args)


def test_every_public_function_has_a_row() -> None:
    named = {name.split("()")[0] for name in ROWS}
    assert set(public()) - DATA - named == set()


@pytest.mark.parametrize("name", ROWS)
def test_good_values_are_taken(name: str) -> None:
    called(ROWS[name])


@pytest.mark.parametrize(("name", "arg"), CASES, ids=map("-".join, CASES))
def test_bad_values_are_refused(name: str, arg: str) -> None:
    row, failures = ROWS[name], []
    before = {n: fingerprint(item.good) for n, item in row.args.items() if item.good is not ...}
    groups = dict(GRAPH.groups)
    for what, value in row.args[arg].bad.items():
        try:
            called(row, **{arg: value})
        except jp.errors.JaxpruneError as error:
            text = str(error)
            if "Fix:" not in text:
                failures.append(f"{what}: no way out in {text!r}")
            if not __import__("re").search(row.args[arg].says, text):
                failures.append(f"{what}: nothing of {row.args[arg].says!r} in {text!r}")
        except BaseException as error:
            failures.append(f"{what}: {type(error).__name__}: {str(error)[:150]}")
        else:
            failures.append(f"{what}: taken")
    assert not failures, "\n".join(["", *failures])
    assert before == {n: fingerprint(row.args[n].good) for n in before}, "an argument has changed"
    assert dict(GRAPH.groups) == groups
