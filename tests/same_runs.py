"""Two runs of an experiment that must have ended alike, one of which was interrupted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxprune as jp
from experiments.runner import directory


def check_same(
    one: Path,
    other: Path,
    fields: Sequence[str],
    accuracies: Sequence[str] = ("accuracy", "validation_accuracy"),
) -> list[dict[str, Any]]:
    """Checks checkpoints to the bit, `fields` of the summaries and all metrics; returns these."""
    names = {path.name for path in (one / "checkpoints").iterdir()}
    assert names == {path.name for path in (other / "checkpoints").iterdir()}
    for name in names:
        trees = [jp.restore(run / "checkpoints" / name).variables for run in (one, other)]
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, *trees))), name
    summaries = [directory.read_json(run / "summary.json") for run in (one, other)]
    for field in (*accuracies, *fields):
        assert summaries[0][field] == summaries[1][field]
    records = [
        [
            {k: v for k, v in record.items() if k != "seconds"}
            for record in directory.read_metrics(run)
        ]
        for run in (one, other)
    ]
    assert records[0] == records[1]
    return records[0]


class Interrupted(BaseException):
    """Stands for the end of the process, where a real one is not the point."""


def interrupt(patch: pytest.MonkeyPatch, module: Any, name: str, at: int, *, before: bool) -> None:
    """Makes the `at`-th call of a function the last thing that happens, or does not happen."""
    original, calls = getattr(module, name), []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == at and before:
            raise Interrupted
        result = original(*args, **options)
        if len(calls) == at:
            raise Interrupted
        return result

    patch.setattr(module, name, counted)
