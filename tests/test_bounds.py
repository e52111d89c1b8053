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


def test_a_schedule_takes_shares():
    graph, _ = chain(8, 8)
    for share in (0.5, jp.Share(0.5), [jp.Share(0.5)]):
        assert jp.schedule.one_shot(keep_macs=share)(None, 1.0).prune.keep_macs == 0.5
    for bound in (jp.Absolute(10), jp.Absolute(0.5), [jp.Absolute(0.5)], 10, jp.Share(1.5), "0.5"):
        with pytest.raises(BudgetError, match=r"Fix: keep_macs=0.5"):
            jp.schedule.one_shot(keep_macs=bound)
    jp.schedule.begin(graph, keep_macs=jp.Share(0.5))
    for bound in (jp.Absolute(10), 10, jp.Share(1.5)):
        with pytest.raises(BudgetError, match="Fix: keep_macs="):
            jp.schedule.begin(graph, keep_macs=bound)
