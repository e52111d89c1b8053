"""The world that every test runs in: what a test draws does not depend on what ran before it."""

import zlib

import numpy as np
import pytest

RANDOM = np.random.default_rng(0)


@pytest.fixture
def drawn() -> float:
    return RANDOM.normal()


@pytest.mark.parametrize("name", ["one", "other"])
def test_each_test_and_each_fixture_draws_its_own_numbers(drawn: float, name: str) -> None:
    test = f"test_each_test_and_each_fixture_draws_its_own_numbers[{name}]"
    for text, value in ((test, RANDOM.normal()), ("drawn", drawn)):
        assert value == np.random.default_rng(zlib.crc32(text.encode())).normal()
