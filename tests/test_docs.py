"""What the pages of methods say: every command parses, every name and every test is there."""

import ast
import inspect
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxprune as jp

pytest.importorskip("tyro", reason="needs the extra [experiments]")

from experiments.__main__ import TOOLS
from experiments.comparing import config as comparing
from experiments.comparing import registry as comparison
from experiments.procedures import recovering, scoring, sparsifying
from experiments.runner import registry
from experiments.runner.command import parsed

ROOT = Path(__file__).parents[1]
TOLD = tomllib.loads((ROOT / "docs/methods/methods.toml").read_text("utf-8"))
ROWS = [
    *TOLD["method"],
    *TOLD["beside"],
    *(option for question in TOLD["question"] for option in question["options"]),
]
COMMANDS = sorted({command for row in ROWS for command in row["command"]})


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_row_of_the_taxonomy_is_told() -> None:
    assert len(TOLD["method"]) == 28
    assert len(TOLD["question"]) == 12
    for row in (*TOLD["method"], *TOLD["beside"]):
        assert bool(row["command"]) != ("call" in row), row["name"]


def test_every_test_is_there() -> None:
    named = {test for row in ROWS for test in row["test"]}
    gone = [test for test in named if test.split("::")[1] not in names_in(test.split("::")[0])]
    assert gone == []
    assert all(row["test"] for row in ROWS)


def test_every_function_is_there() -> None:
    for row in ROWS:
        for name in row["api"]:
            value: Any = jp
            for part in name.removeprefix("jp.").split("."):
                assert part in value.__all__, name
                value = getattr(value, part)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str) -> None:
    """As far as its configuration, which checks what goes together; nothing is trained."""
    name, *arguments = shlex.split(command)
    if name == "compare":
        config = parsed(name, comparing.PRESETS, comparing.Config(), arguments)
        assert comparison.unknown(config.methods) == []
        return
    if name in TOOLS:
        assert (ROOT / f"experiments/{name}.py").exists()
        assert arguments == []
        return
    experiment = registry.load(name)
    parsed(name, experiment.presets, experiment.config, arguments)


def test_every_sparsity_and_every_recovery_has_a_command() -> None:
    told = {word for command in COMMANDS for word in command.split()}
    assert sparsifying.SPARSITIES.keys() - told == set()
    assert recovering.RECOVERIES.keys() - told == {"bias", "at_once"}


# ---------------------------------------------------------------------------- what criteria need


class _Asked(Exception):  # noqa: N818 (it says what a score asked for)
    pass


def needs() -> dict[str, tuple[bool, bool]]:
    """Returns {score: (needs data, needs labels)}, from the table in the docstring of jp.scores."""
    found: dict[str, tuple[bool, bool]] = {}
    for line in (inspect.getdoc(jp.scores) or "").splitlines():
        if line.startswith("| `"):
            names, data, labels = (cell.strip() for cell in line.split("|")[1:4])
            for name in re.findall(r"`(\w+)`", names.split(" of ")[0]):
                found.setdefault(name, (data == "yes", labels == "yes"))
    return found


NEEDS = needs()
AS = {"fluctuation": "wanda"}
NUMBERS = np.arange(48.0).reshape(8, 6) % 7
APART = {"nisp", "bn_scale"}


@pytest.mark.parametrize("name", sorted(scoring.SCORES.keys() - APART))
def test_the_table_of_criteria_says_what_each_looks_at(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left out: `nisp`, whose data are those of the scores that it is given, and `bn_scale`, for
    which the network has no BatchNorm."""

    def asked(*_: Any, loss: Any = None, **__: Any) -> Any:
        raise _Asked(loss is not None)

    def labelled(*_: Any) -> Any:
        raise _Asked(True)

    v = {"params": {"a": NUMBERS[:6, :4], "b": NUMBERS[:4]}}
    graph = jp.trace(lambda v, x: x @ v["params"]["a"] @ v["params"]["b"], v, NUMBERS)
    monkeypatch.setattr(jp.stats, "collect", asked)
    monkeypatch.setattr(scoring, "batches", lambda _: [(NUMBERS, NUMBERS)])
    task: Any = type("Task", (), {"loss": staticmethod(labelled)})
    given = scoring.Given(task, graph, v, jax.random.key(0))
    try:
        scoring.scores(name, given)
        looked = (False, False)
    except _Asked as error:
        looked = (True, bool(error.args[0]))
    assert looked == NEEDS[AS.get(name, name)]
