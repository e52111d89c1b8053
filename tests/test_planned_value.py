"""The page of the benchmark of planners, made of its journals."""

import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

from typing import Any

from benchmarks.planned_value_page import page


def measured(loss: float, to: float | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"loss": [loss, loss - 0.1, loss + 0.1], "accuracy": 0.5}
    return entry if to is None else {**entry, "to_control": [to, to - 0.01, to + 0.01]}


def test_a_row_has_both_losses_and_their_differences_the_best_first() -> None:
    asked = {"steps": 60, "size": 16, "rate": 1e-3, "score": "l2", "batches": 2, "evaluations": 48}
    asked |= {"batch": 32}
    about: dict[str, Any] = {
        **{"asked": asked, "config": {"model": "mlp"}, "parameters": 1000, "dataset": "toy"},
        **{"test_examples": 10, "command": "c", "commit": "x", "device": "d", "cpu": "p"},
        "versions": {"python": "3"},
    }
    cells = {
        "0.5/uniform": {"macs": 0.453, "measured": 0, "forwards": 0.2,
                        "before": measured(3), "after": measured(2)},
        "0.5/milp": {"macs": 0.5, "measured": 47, "forwards": None,
                     "before": measured(2.5, -0.5), "after": measured(1.5, -0.5)},
        "latency-0.5/uniform": {"macs": 0.4, "measured": 0, "forwards": 1.0, "time": 0.55,
                                "predicted_time": 0.5, "before": measured(3), "after": measured(2)},
    }  # fmt: skip
    dense = {"before": measured(1), "after": measured(0.9)}
    text = page({"net": {"about": about, "dense": dense, "cells": cells}})
    rows = [line for line in text.splitlines() if line.startswith(("| milp", "| uniform"))]
    assert rows == [
        "| milp | 50.0% | 2.5000 [2.4000, 2.6000] | -0.5000 [-0.5100, -0.4900] | 1.5000 [1.4000, "
        "1.6000] | -0.5000 [-0.5100, -0.4900] | 47 |  |",
        "| uniform | 45.3% | 3.0000 [2.9000, 3.1000] |  | 2.0000 [1.9000, 2.1000] |  | 0 | 0 |",
        "| uniform | 40.0% | 3.0000 [2.9000, 3.1000] |  | 2.0000 [1.9000, 2.1000] |  | 0 | 1 | "
        "50.0% | 55.0% |",
    ]
    assert "### 50% of the MACs" in text
    assert "### 50% of the latency" in text
    assert "dense: 1.0000 [0.9000, 1.1000] before and 0.9000 [0.8000, 1.0000]" in text
