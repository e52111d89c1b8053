"""Configurations of small runs with slimmable networks."""

from typing import Any

from experiments.methods import autoslim, slimmable, us_slimmable
from jaxprune.schedule import Training, constant

HOW = Training(epochs=2, rates=constant(0.05), weight_decay=1e-4)
SMALL: dict[str, Any] = {
    "limit": 128,
    "model": "mlp",
    "widths": (12, 10),
    "batch_size": 32,
    "divisor": 2,
    "training": HOW,
}
S_NET = slimmable.Config(**SMALL, multipliers=(1.0, 0.5))
US_NET = us_slimmable.Config(
    **SMALL, grid=0.125, low=0.25, evaluated=(1.0, 0.6, 0.25), number=3, alone=False
)
AUTO = autoslim.Config(
    **SMALL, supernet=HOW, keep_macs=(0.9, 0.6), held_out=32, samples=5, widest=1.5, parts=4
)
