"""Examples in docstrings run as they do where they are pasted; tests are stricter."""

from collections.abc import Iterator
from contextlib import nullcontext

import jax
import pytest


@pytest.fixture(autouse=True)
def as_pasted(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leaves out of examples what `tests/conftest.py` sets."""
    is_example = isinstance(request.node, pytest.DoctestItem)
    with jax.numpy_rank_promotion("allow") if is_example else nullcontext():
        yield
