"""What `import jaxprune` loads: nothing that only some of its users need."""

import subprocess
import sys

SELDOM = ("orbax.checkpoint", "scipy.optimize", "scipy.sparse", "haiku", "keras", "flatbuffers")
"""Slow to import, and used by one step of the library at most."""


def test_import_loads_nothing_that_one_step_alone_needs() -> None:
    code = (
        "import sys, jax, flax.nnx, flax.linen, optax; before = set(sys.modules); import jaxprune; "
        f"print(*sorted(set({SELDOM}) & (set(sys.modules) - before)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []
