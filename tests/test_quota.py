"""A share of what is left, by hand."""

from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from chains import chain, kept, widths
from jaxprune.errors import BudgetError, ScoreError
from jaxprune.select import quota

A, B = "layer_0/kernel", "layer_1/kernel"
SCORES = {A: [4.0, 1.0, 3.0, 2.0], B: [5.0, 6.0, 0.5, 7.0, 8.0]}


def test_a_share_of_what_is_left() -> None:
    """9 channels: a third is 3, of the 6 left 2 (A keeps its last), of the 4 left 1."""
    graph, _ = chain(4, 5)
    keep: dict[str, Any] = {}
    for expected in (
        {A: [0, 2], B: [0, 1, 3, 4]},
        {A: [0], B: [1, 3, 4]},
        {A: [0], B: [3, 4]},
    ):
        keep = quota.of_remaining(graph, SCORES, prune_ratio=0.34, within=keep)
        assert kept(keep) == expected


def test_floors_are_of_the_dense_network() -> None:
    """Half of 4 is 2, however often it is asked, and the quota goes on elsewhere."""
    graph, _ = chain(4, 5)
    keep: dict[str, Any] = {}
    left = []
    for _ in range(3):
        keep = quota.of_remaining(graph, SCORES, prune_ratio=0.25, within=keep, min_keep_ratio=0.5)
        left.append(widths(keep))
    assert left == [[3, 4], [2, 4], [2, 3]]
    with pytest.raises(BudgetError, match=r"no channel can go any more[\s\S]*Fix: stop here"):
        quota.of_remaining(graph, SCORES, prune_ratio=0.25, within=keep, min_keep_ratio=0.5)


def test_dead_channels_go_for_free() -> None:
    graph, _ = chain(4, 5)
    scores = {A: [4.0, 0.0, 3.0, 0.0], B: SCORES[B]}
    assert kept(quota.of_remaining(graph, scores, prune_ratio=0.1)) == {A: [0, 2], B: [0, 1, 3, 4]}


def test_a_group_of_one_channel_needs_no_score() -> None:
    graph, _ = chain(4, 5)
    keep = quota.of_remaining(graph, {B: SCORES[B]}, prune_ratio=0.3, within=ONE)
    assert kept(keep) == {A: [0], B: [0, 1, 3, 4]}


def test_all_that_may_go_can_be_asked_for() -> None:
    """Of 9 channels 7 may go, which is the quota: no rule has a score to look at behind it."""
    graph, _ = chain(4, 5)
    keep = quota.of_remaining(graph, SCORES, prune_ratio=0.78, ties=jp.select.pytorch_author)
    assert kept(keep) == {A: [0], B: [4]}


def test_members_count_in_the_quota() -> None:
    """Of 9 channels a third is 3. With B four times there are 24, and 8 are B's lowest, 4, the 3
    that A can lose, and B's next. A tenth of 21, with A four times, is 2: B's 1, and A's 4.
    """
    graph, _ = chain(4, 5)
    for share, members, expected in (
        (0.34, {}, {A: [0, 2], B: [0, 1, 3, 4]}),
        (0.34, {B: 4}, {A: [0], B: [1, 3, 4]}),
        (0.1, {}, {A: [0, 1, 2, 3], B: [0, 1, 3, 4]}),
        (0.1, {A: 4}, {A: [0, 2, 3], B: [0, 1, 3, 4]}),
    ):
        found = quota.of_remaining(graph, SCORES, prune_ratio=share, members=members)
        assert kept(found) == expected


def test_the_rule_of_the_released_code() -> None:
    """It removes one more, and what ties."""
    graph, _ = chain(4, 5)
    keep = quota.of_remaining(graph, SCORES, prune_ratio=0.12, ties=jp.select.pytorch_author)
    assert kept(keep) == {A: [0, 2, 3], B: [0, 1, 3, 4]}
    tied = {A: [4.0, 1.0, 1.0, 1.0], B: SCORES[B]}
    keep = quota.of_remaining(graph, tied, prune_ratio=0.12, ties=jp.select.pytorch_author)
    assert kept(keep) == {A: [0], B: [0, 1, 3, 4]}


def test_pruned_channels_need_no_score() -> None:
    graph, _ = chain(4, 5)
    keep = {A: np.array([True, False, True, True])}
    found = [
        quota.of_remaining(
            graph, {A: [4.0, gone, 3.0, 2.0], B: SCORES[B]}, prune_ratio=0.3, within=keep
        )
        for gone in (0.0, 99.0, -np.inf)
    ]
    assert all(kept(one) == {A: [0, 2], B: [0, 1, 3, 4]} for one in found)


THREE, ONE = {B: np.arange(5) < 3}, {A: np.arange(4) < 1}
BAD_QUOTAS: dict[str, tuple[Any, dict[str, Any], type, str]] = {
    "share": (SCORES, {"prune_ratio": 1.0}, BudgetError, r"in \(0, 1\), got 1.0[\s\S]*Fix"),
    "no share": (SCORES, {"prune_ratio": 0.0}, BudgetError, r"in \(0, 1\), got 0.0"),
    "members": (SCORES, {"members": {A: 0}}, BudgetError, r"members must[\s\S]*\{.*0\}[\s\S]*Fix"),
    "bool": (SCORES, {"prune_ratio": True}, BudgetError, r"in \(0, 1\), got True"),
    "infinite": ({A: [np.inf] * 4}, {}, ScoreError, r"infinite scores[\s\S]*Fix: finite"),
    "one infinite": ({A: [1.0, 2.0, np.inf, 3.0]}, {}, ScoreError, r"infinite scores[\s\S]*Fix"),
    "zero": ({A: [0.0] * 4}, {}, ScoreError, r"all scores are 0[\s\S]*Fix: pass"),
    "nan": ({A: [np.nan] * 4}, {}, ScoreError, "NaN at channels"),
    "length": ({A: [1.0] * 3}, {}, ScoreError, "has 4 channels"),
    "unknown": ({"other": [1.0]}, {}, ScoreError, "'other', which is not a group"),
    "unscored": ({A: SCORES[A]}, {"within": THREE}, ScoreError, "lost channels and has no scores"),
    "multiple": (
        SCORES,
        {"within": THREE, "multiple_of": 2},
        BudgetError,
        r"has 3 of 5 channels left[\s\S]*Fix: the same constraints",
    ),
    "floor": (
        SCORES,
        {"within": ONE, "min_keep_ratio": 0.5},
        BudgetError,
        r"has 1 of 4 channels left[\s\S]*Fix: the same constraints",
    ),
}


@pytest.mark.parametrize("name", BAD_QUOTAS)
def test_errors_of_the_quota(name: str) -> None:
    graph, _ = chain(4, 5)
    scores, options, error, text = BAD_QUOTAS[name]
    with pytest.raises(error, match=text):
        quota.of_remaining(graph, scores, **({"prune_ratio": 0.5} | options))
