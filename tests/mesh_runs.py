"""Small runs that must give the same on every number of devices and processes."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.methods import gate_decorator, network_slimming, slimmable
from experiments.report import plots
from experiments.runner import directory
from experiments.runner.config import Common
from experiments.runner.experiment import execute as execute
from jaxprune.schedule import Part, Training, constant
from slimmable_runs import S_NET

SHORT = Training(epochs=1, rates=constant(0.05))
SMALL: dict[str, Any] = {"limit": 128, "model": "mlp", "widths": (8, 6), "batch_size": 32}
SLIMMING = network_slimming.Config(
    **SMALL, epochs=2, finetune_epochs=1, recalibration_batches=1, prune_ratio=0.5
)
GATES = gate_decorator.Config(
    **SMALL,
    keep_macs=(0.6,),
    share=0.2,
    ticks=1,
    dense=SHORT,
    tick=Training(epochs=1, rates=constant(1e-3), part=Part.GATES),
    tock=Training(epochs=1, rates=constant(0.05), strength=1e-3),
    finetune=(SHORT,),
)
RUNS: dict[str, tuple[Any, Common]] = {
    "network_slimming": (network_slimming, SLIMMING),
    "gate_decorator": (gate_decorator, GATES),
    "slimmable": (slimmable, replace(S_NET, alone=False, training=SHORT)),
}


def found(name: str, root: str, **changes: Any) -> dict[str, Any]:
    """Runs an experiment and returns what must be equal: its losses, and what it chose."""
    plots._save = lambda *_: None
    module, config = RUNS[name]
    run = module.main(replace(config, root=Path(root), **changes))
    summary = directory.read_json(run / directory.SUMMARY)
    records = [
        {name: value for name, value in record.items() if name != "seconds"}
        for record in directory.read_metrics(run)
    ]
    widths = summary.get("widths") or {n: w["widths"] for n, w in summary["networks"].items()}
    return {"widths": widths, "epochs": records}


def say(value: Any) -> None:
    """Prints a JSON value in a line of its own, for `processes.in_two_processes`."""
    print(json.dumps(value), flush=True, file=sys.stdout)


def check(found: Any, expected: Any) -> None:
    """Checks that two runs in float64 chose the same widths, with losses to 1e-9."""
    assert found["widths"] == expected["widths"]
    for one, other in zip(found["epochs"], expected["epochs"], strict=True):
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-9, rtol=1e-9), *both(one, other))


def both(*records: Any) -> list[Any]:
    """The figures of two epochs, without the names of their phases, which are equal."""
    assert len({record["phase"] for record in records}) == 1
    return [{n: value for n, value in record.items() if n != "phase"} for record in records]
