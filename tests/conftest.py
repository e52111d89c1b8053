"""The strict world that every test runs in: several CPU devices, no silent broadcast of ranks.

Programs are compiled as fast as XLA can, not as fast as they could run: networks here are small,
and what they compute is tested, not XLA's optimization of it. A product and a sum are rounded one
by one where XLA can be told so, so that what it computes twice it computes alike; see `laws.fast`.
"""

import gc
import os
import platform
import sys
import zlib
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "")
    + (" --xla_cpu_max_isa=AVX" if platform.machine() in ("x86_64", "AMD64") else "")
)  # later versions have no such emitters to turn off
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # a test must not depend on an earlier run

import hypothesis
import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("jaxprune", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("jaxprune")


FURTHER = Path(__file__).parent / "further.txt"
"""More cases of laws, which the normal run leaves out; `benchmarks.suite` writes them."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests that `further.txt` lists.

    Raises:
      UsageError: a line names no test of a file that was collected whole.
    """
    listed = set(FURTHER.read_text().splitlines())
    names = {item.nodeid for item in items}
    files = {name.partition("::")[0] for name in names}
    unknown = sorted(test for test in listed - names if test.partition("::")[0] in files)
    if unknown and not any("::" in argument for argument in config.args):
        raise pytest.UsageError(f"{FURTHER.name} names tests that are not there: {unknown}")
    for item in items:
        if item.nodeid in listed:
            item.add_marker(pytest.mark.further)


@pytest.fixture
def unsearched(monkeypatch):
    """No attribute is found by trying, so that a resize refuses what only a search would mend."""
    monkeypatch.setattr("jaxprune.running.attribute_search.TRIES", 0)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Leaves what the imports made out of every search for garbage."""
    session.config.pluginmanager.register(Draws())
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Leaves out too what JAX caches behind a file, which only grows."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


class Draws:
    """The random generators of test files and their helpers, by the name of the file.

    Workers take tests from each other: what a test draws must not depend on what ran before it.
    """

    def __init__(self) -> None:
        here = str(Path(__file__).parent)
        self._generators = [
            (Path(str(module.__file__)).stem, value)
            for module in list(sys.modules.values())
            if str(getattr(module, "__file__", "")).startswith(here)
            for value in vars(module).values()
            if isinstance(value, np.random.Generator)
        ]
        self._file = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._file = item.path.stem

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        self._begin(fixturedef.argname)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._begin(item.name)
        return (yield)

    def _begin(self, name: str) -> None:
        for file, generator in self._generators:
            if file == self._file or not file.startswith("test_"):
                seed = zlib.crc32(name.encode())
                generator.bit_generator.state = np.random.default_rng(seed).bit_generator.state
