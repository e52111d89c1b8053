"""Bounds of costs are shares or absolute values, and say which."""

import numpy as np
import pytest

import jaxprune as jp
from chains import chain
from jaxprune import select
from jaxprune.errors import BudgetError

A, B = "layer_0/kernel", "layer_1/kernel"


def test_bounds_say_what_they_are():
    graph, _ = chain(8, 8)
    scores = {A: np.arange(8.0), B: np.arange(8.0)}
    dense = jp.cost.macs(graph)

    def kept(bound):
        return select.budget(graph, scores, keep_macs=bound)

    half = kept(0.5)
    for bound in (jp.Share(0.5), jp.Absolute(dense // 2), dense // 2):
        assert all(np.array_equal(half[name], other) for name, other in kept(bound).items())
    assert all(mask.all() for mask in kept(jp.Share(1.0)).values())
    for bound in (1, 1.0, np.float32(1), jp.Share(1.5), jp.Absolute(0.5), jp.Share("1"), 2.5):
        with pytest.raises(BudgetError, match="Fix: keep_macs="):
            kept(bound)
