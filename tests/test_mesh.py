"""The same seed gives the same training on one device and on a mesh, up to the order of sums."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs the extra [experiments]")

from experiments.methods import network_slimming
from experiments.runner import directory
from experiments.runner.config import Common

TINY = network_slimming.Config(
    limit=128, model="mlp", widths=(8, 6), epochs=3, finetune_epochs=2, batch_size=32,
    recalibration_batches=1,
)  # fmt: skip


def ran(config: Common, tmp_path: Path, **changes: Any) -> list[float]:
    run = network_slimming.main(replace(config, root=tmp_path, **changes))
    return [record["train"]["loss"] for record in directory.read_metrics(run)]


def test_network_slimming(tmp_path):
    import jax

    one = ran(TINY, tmp_path)
    eight = ran(TINY, tmp_path, mesh="data=8")
    print(one, eight)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
