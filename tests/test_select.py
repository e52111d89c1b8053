"""Selectors: cases computed by hand, and the texts of the errors."""

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given

import jaxprune as jp
from chains import chain, kept, widths
from jaxprune import cost, select, trace
from jaxprune.errors import BudgetError, JaxpruneError, PatternError, ScoreError

A, B, C = "layer_0/kernel", "layer_1/kernel", "layer_2/kernel"


# Two layers of five channels, where 60 % is to leave channels 1 and 3 of each.
EXAMPLE = {A: [0.1, 0.9, 0.2, 0.8, 0.3], B: [0.15, 0.7, 0.25, 0.6, 0.35]}


def test_the_exact_count_on_the_worked_example_of_network_slimming():
    graph, _ = chain(5, 5)
    keep = select.global_ratio(graph, EXAMPLE, prune_ratio=0.6)
    assert kept(keep) == {A: [1, 3], B: [1, 3]}
    assert all(mask.dtype == bool for mask in keep.values())


def test_pytorch_rule_removes_one_more():
    graph, _ = chain(5, 5)
    keep = select.global_ratio(graph, EXAMPLE, prune_ratio=0.6, ties=select.pytorch_author)
    assert kept(keep) == {A: [1, 3], B: [1]}


def pytorch_script(scores, percent):
    """The authors' PyTorch script, line by line."""
    ascending = np.sort(np.concatenate(list(scores.values())))
    threshold = ascending[int(ascending.size * percent)]
    return {name: values > threshold for name, values in scores.items()}


def lua_script(scores, percent):
    """The authors' Torch script, prune.lua, line by line: its tensors count from 1."""
    y = dict(enumerate(np.sort(np.concatenate(list(scores.values()))), start=1))
    threshold = y[int(np.floor(len(y) * percent))]
    return {name: values > threshold for name, values in scores.items()}


@pytest.mark.parametrize(
    ("script", "rule", "least"),
    [(pytorch_script, select.pytorch_author, 0.0), (lua_script, select.lua_author, 0.17)],
    ids=["pytorch", "lua"],
)
@given(
    values=st.lists(st.integers(0, 4), min_size=6, max_size=6),
    percent=st.sampled_from([0.0, 0.2, 0.34, 0.5]),
)
def test_the_authors_rules_are_their_scripts_ties_included(script, rule, least, values, percent):
    graph, _ = chain(3, 3)
    assume(percent >= least)  # prune.lua stops at the index 0
    scores = {A: np.array(values[:3], float), B: np.array(values[3:], float)}
    expected = script(scores, percent)
    assume(all(mask.any() for mask in expected.values()))  # a script may empty a layer
    keep = select.global_ratio(graph, scores, prune_ratio=percent, ties=rule)
    assert kept(keep) == kept(expected)


def test_the_three_rules_on_scores_that_tie():
    """Of 6 scores a third is 2, and the second lowest ties with the third, then with none."""
    graph, _ = chain(3, 3)
    scores = {A: [1.0, 5.0, 6.0], B: [2.0, 2.0, 7.0]}

    def left(rule):
        return widths(select.global_ratio(graph, scores, prune_ratio=1 / 3, ties=rule))

    assert left(select.exact_count) == [2, 2]
    assert left(select.lua_author) == [2, 1]
    assert left(select.pytorch_author) == [2, 1]
    scores[B] = [2.0, 3.0, 3.0]
    assert left(select.lua_author) == [2, 2]
    assert select.lua_author(np.arange(4.0), 0) == 0
    assert select.pytorch_author(np.arange(4.0), 0) == 1


def test_ratio_counts_as_written_in_decimal():
    graph, _ = chain(60, 40)
    scores = {A: np.arange(60.0), B: np.arange(40.0)}
    keep = select.global_ratio(graph, scores, prune_ratio=0.29)
    assert sum(widths(keep)) == 100 - 29  # int(100 * 0.29) is 28


def test_ties_go_in_graph_order_then_by_channel_whatever_the_order_of_the_scores():
    graph, _ = chain(3, 3)
    for scores in ({A: [1.0] * 3, B: [1.0] * 3}, {B: [1.0] * 3, A: [1.0] * 3}):
        keep = select.global_ratio(graph, scores, prune_ratio=0.5)
        assert kept(keep) == {A: [2], B: [1, 2]}
        assert list(keep) == [A, B]


def test_graph_order_is_not_the_order_of_the_alphabet():
    weights = [np.ones((2, 2), np.float32)] * 12

    def fn(v, x):
        for kernel in v:
            x = x @ kernel
        return x

    graph = trace(fn, weights, np.ones((1, 2), np.float32))
    assert list(graph.groups) == [str(i) for i in range(11)]  # "10" is last
    keep = select.global_ratio(graph, {name: [1, 1] for name in graph.groups}, prune_ratio=0.25)
    assert list(keep) == list(graph.groups)
    assert widths(keep) == [1] * 5 + [2] * 6


def test_the_quota_of_a_floored_channel_goes_to_the_next_lowest():
    graph, _ = chain(4, 4)
    scores = {A: [0.1, 0.2, 0.3, 0.4], B: [1.0, 2.0, 3.0, 4.0]}
    keep = select.global_ratio(graph, scores, prune_ratio=0.5)
    assert kept(keep) == {A: [3], B: [1, 2, 3]}
    keep = select.global_ratio(graph, scores, prune_ratio=0.5, max_prune_ratio=0.5)
    assert kept(keep) == {A: [2, 3], B: [2, 3]}


def test_blocks_of_multiple_of_go_once_the_threshold_has_passed_all_of_them():
    graph, _ = chain(6, 4)
    scores = {A: [1, 2, 9, 10, 11, 12], B: [3, 4, 5, 6]}
    # A leaves 6 -> 4 once 2 is passed, B 4 -> 2 at 4 (its block is 3, 4), A 4 -> 2 only at 10.
    assert [
        widths(select.global_ratio(graph, scores, prune_ratio=ratio, multiple_of=2))
        for ratio in (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    ] == [[6, 4], [4, 4], [4, 4], [4, 2], [4, 2], [2, 2], [2, 2]]


def test_first_block_brings_an_odd_width_to_a_multiple():
    graph, _ = chain(10)
    scores = {A: np.arange(10.0)}
    assert kept(select.global_ratio(graph, scores, prune_ratio=0.1, multiple_of=8)) == {
        A: list(range(2, 10))
    }


def test_quota_in_a_cost_removes_at_least_that_share_of_it():
    graph, _ = chain(8, 8)
    scores = {A: np.arange(8.0), B: np.arange(8.0) + 0.5}
    for quota in (cost.macs, cost.weights, cost.params):
        keep = select.global_ratio(graph, scores, prune_ratio=0.5, quota=quota)
        assert quota(graph, keep) <= 0.5 * quota(graph)
        assert quota(graph, one_step_back(scores, keep)) > 0.5 * quota(graph)


def one_step_back(scores, keep):
    """Returns `keep` with the highest removed channel back."""
    name, channel = max(
        ((name, c) for name, mask in keep.items() for c in np.flatnonzero(~mask)),
        key=lambda at: scores[at[0]][at[1]],
    )
    back = {name: mask.copy() for name, mask in keep.items()}
    back[name][channel] = True
    return back


def test_groups_without_scores_and_groups_out_of_scope_stay_whole():
    graph, _ = chain(4, 4, 4)
    scores = {A: [1, 2, 3, 4], B: [1, 2, 3, 4]}
    keep = select.global_ratio(graph, scores, prune_ratio=0.5, protect=["*_0/*"])
    assert kept(keep) == {A: [0, 1, 2, 3], B: [2, 3]}
    assert keep.keys() == scores.keys()
    assert keep[A].tolist() == [True] * 4
    only = select.global_ratio(graph, scores, prune_ratio=0.5, only=[B])
    assert kept(only) == kept(keep)


def test_per_group_takes_a_number_or_patterns_of_which_the_last_wins():
    graph, _ = chain(4, 4, 5)
    scores = {A: [4, 3, 2, 1], B: [1, 2, 3, 4], C: [1, 2, 3, 4, 5]}
    assert widths(select.per_group(graph, scores, prune_ratio=0.5)) == [2, 2, 3]
    keep = select.per_group(graph, scores, prune_ratio={"*": 0.5, "layer_1/*": 0.25, C: 0})
    assert kept(keep) == {A: [0, 1], B: [1, 2, 3], C: [0, 1, 2, 3, 4]}
    assert widths(select.per_group(graph, scores, prune_ratio={B: 0.5})) == [4, 2, 5]


def test_per_group_stops_at_floors_and_rounds_down_to_multiples():
    graph, _ = chain(16, 10)
    scores = {A: np.arange(16.0), B: np.arange(10.0)}

    def left(**options):
        return widths(select.per_group(graph, scores, **options))

    assert left(prune_ratio=0.9, min_channels=6) == [6, 6]
    assert left(prune_ratio=0.4, multiple_of=4) == [8, 4]
    assert left(prune_ratio=0.9, multiple_of=4, min_keep_ratio=0.3) == [8, 4]
    assert left(prune_ratio=0.9, max_prune_ratio=0.25) == [12, 8]


def test_threshold_keeps_what_is_above_it_and_what_the_constraints_need():
    graph, _ = chain(4, 4)
    scores = {A: [0.1, 0.5, 0.2, 0.9], B: [0.1, 0.2, 0.3, 0.4]}
    assert kept(select.threshold(graph, scores, threshold=0.2)) == {A: [1, 3], B: [2, 3]}
    assert kept(select.threshold(graph, scores, threshold=9.0)) == {A: [3], B: [3]}
    assert kept(select.threshold(graph, scores, threshold=0.3, multiple_of=2)) == {
        A: [1, 3],
        B: [2, 3],
    }
    assert kept(select.threshold(graph, scores, threshold=0.1, multiple_of=2)) == {
        A: [0, 1, 2, 3],
        B: [0, 1, 2, 3],
    }


def test_infinite_scores_keep_a_channel_to_the_last():
    graph, _ = chain(4, 4)
    scores = {A: jnp.array([jnp.inf, 5.0, 6.0, 7.0]), B: jnp.arange(4.0)}
    keep = select.global_ratio(graph, scores, prune_ratio=0.75)
    assert kept(keep) == {A: [0], B: [3]}


def test_budget_takes_shares_and_counts_and_all_of_them_hold():
    graph, _ = chain(8, 8)  # macs = 2a + ab + 3b
    scores = {A: np.arange(8.0), B: np.arange(8.0) + 0.5}
    assert cost.macs(graph) == 2 * 8 + 8 * 8 + 3 * 8
    # The order is A, B, A, B, ...: 104, 94 (7, 8), 84 (7, 7), 75, 66, 58 (5, 6), 50 (5, 5), ...
    assert widths(select.budget(graph, scores, keep_macs=58)) == [5, 6]
    assert widths(select.budget(graph, scores, keep_macs=57)) == [5, 5]
    assert widths(select.budget(graph, scores, keep_macs=0.49)) == [5, 5]  # at most 50.96
    assert widths(select.budget(graph, scores, keep_macs=jp.Share(1.0))) == [8, 8]
    keep = select.budget(graph, scores, keep_macs=0.9, keep_params=0.5, keep_bytes=jp.Share(1.0))
    assert cost.params(graph, keep) <= 0.5 * cost.params(graph)
    assert kept(keep) == kept(select.budget(graph, scores, keep_params=0.5))
    one = select.budget(graph, scores, keep_weights=0.3)
    other = select.global_ratio(graph, scores, prune_ratio=0.7, quota=cost.weights)
    assert kept(one) == kept(other)


def test_what_the_error_names_can_be_reached():
    graph, _ = chain(7, 6)
    scores = {A: np.arange(7.0), B: np.arange(6.0)}
    floors = {"min_channels": 3}
    with pytest.raises(BudgetError) as caught:
        select.global_ratio(graph, scores, prune_ratio=0.9, **floors)
    assert str(caught.value) == (
        "prune_ratio=0.9 asks for 11 of 13 channels, but under the constraints at most 7 can go: "
        "the largest reachable ratio is 0.5384.\nFix: lower prune_ratio, or relax min_channels, "
        "min_keep_ratio, max_prune_ratio, multiple_of, equal, protect or only."
    )
    keep = select.global_ratio(graph, scores, prune_ratio=7 / 13, **floors)
    assert widths(keep) == [3, 3]
    with pytest.raises(BudgetError) as caught:
        select.budget(graph, scores, keep_macs=0.1, keep_params=20, keep_bytes=0.9, **floors)
    assert str(caught.value) == (
        "keep_macs=0.1 allows 7 of 74, but under the constraints the smallest reachable is 24: "
        "a share of 0.3244 stays, at most 0.6756 can go\n"
        "keep_params=20 allows 20 of 90, but under the constraints the smallest reachable is 33: "
        "a share of 0.3667 stays, at most 0.6333 can go\n"
        "Fix: a looser bound, or relax min_channels, min_keep_ratio, max_prune_ratio, "
        "multiple_of, equal, protect or only."
    )
    assert widths(select.budget(graph, scores, keep_macs=24, **floors)) == [3, 3]
    with pytest.raises(BudgetError, match=r"prune_ratio=0.9 of macs allows .* at most 0.67\d+ can"):
        select.global_ratio(graph, scores, prune_ratio=0.9, quota=cost.macs, **floors)


def test_multiples_that_would_silently_prune_nothing_are_an_error():
    graph, _ = chain(16, 8, 4)
    scores = {A: np.arange(16.0), B: np.arange(8.0), C: np.arange(4.0)}
    with pytest.raises(BudgetError) as caught:
        select.per_group(graph, scores, prune_ratio=0.5, multiple_of=8)
    assert str(caught.value) == (
        "multiple_of=8 leaves no count but the full size:\n"
        f"group {B!r}: at most 4 of 8 channels should stay\n"
        f"group {C!r}: at most 2 of 4 channels should stay\n"
        "Fix: a smaller multiple_of, or protect= for these groups."
    )
    keep = select.per_group(graph, scores, prune_ratio=0.5, multiple_of=8, protect=[B, C])
    assert widths(keep) == [8, 8, 4]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda g, s: select.global_ratio(g, s, prune_ratio=1.0), r"in \[0, 1\), got 1.0"),
        (lambda g, s: select.global_ratio(g, s, prune_ratio=-0.1), r"in \[0, 1\), got -0.1"),
        (lambda g, s: select.global_ratio(g, s, prune_ratio=float("nan")), "got nan"),
        (lambda g, s: select.per_group(g, s, prune_ratio=True), "got True"),
        (
            lambda g, s: select.per_group(g, s, prune_ratio={A: 2, B: -1}),
            r"'layer_0/kernel' must be in \[0, 1\), got 2\n.*'layer_1/kernel' must",
        ),
        (lambda g, s: select.budget(g, s), "budget has no bound: give keep_macs"),
        (
            lambda g, s: select.budget(g, s, keep_macs=2.0, keep_params=0),
            r"keep_macs must be a share .*; got 2.0[\s\S]*keep_params must be .*; got 0[\s\S]*Fix",
        ),
        (lambda g, s: select.threshold(g, s, threshold=float("nan")), "must be a number, got nan"),
        (lambda g, s: select.threshold(g, s, threshold="0.5"), "must be a number, got '0.5'"),
        (
            lambda g, s: select.threshold(
                g, s, threshold=0, min_channels=0, multiple_of=1.5, max_prune_ratio=70
            ),
            "min_channels must be an int, at least 1, got 0\n"
            "multiple_of must be an int, at least 1, got 1.5\n"
            r"max_prune_ratio must be in \[0, 1\], got 70",
        ),
    ],
)
def test_numbers_that_make_no_sense(call, text):
    graph, _ = chain(5, 5)
    with pytest.raises(BudgetError, match=text):
        call(graph, EXAMPLE)


def test_scores_that_do_not_fit_are_reported_together():
    graph, _ = chain(3, 3, 3)
    scores = {A: [1.0, np.nan, np.nan], B: [1.0, 2.0], "layer_9/kernel": [1.0]}
    with pytest.raises(ScoreError) as caught:
        select.global_ratio(graph, scores, prune_ratio=0.5, strict=True)
    assert str(caught.value) == (
        "scores name 'layer_9/kernel', which is not a group of the graph; near: "
        "['layer_2/kernel', 'layer_1/kernel', 'layer_0/kernel']\n"
        "scores for group 'layer_0/kernel' are NaN at channels 1, 2\n"
        "scores for group 'layer_1/kernel' have shape (2,), the group has 3 channels\n"
        "group 'layer_2/kernel' has no scores, and strict=True\n"
        "Fix: recompute the scores on the variables that this graph was traced from."
    )
    with pytest.raises(ScoreError, match="scores hold no group"):
        select.per_group(graph, {}, prune_ratio=0.5)


def test_unknown_constraints_are_refused_with_near_names():
    graph, _ = chain(5, 5)
    for wrong, close in (
        ({"protct": [A]}, "protect"),
        ({"Only": [A]}, "only"),
        ({"minchannels": 2}, "min_channels"),
        ({"multipleof": 8}, "multiple_of"),
    ):
        text = rf"no option '{next(iter(wrong))}'; near: \['{close}'.*\nFix: one of \['min_ch"
        with pytest.raises(JaxpruneError, match=text):
            select.global_ratio(graph, EXAMPLE, prune_ratio=0.5, **wrong)


def test_an_empty_only_is_refused_and_no_only_is_all():
    graph, _ = chain(5, 5)
    for nothing in ([], (), set(), iter(())):
        with pytest.raises(PatternError, match=r"leave no group to prune.\nFix: .* leave only out"):
            select.global_ratio(graph, EXAMPLE, prune_ratio=0.5, only=nothing)
    for everything in ({}, {"only": None}, {"protect": []}, {"within": {}}):
        keep = select.global_ratio(graph, EXAMPLE, prune_ratio=0.6, **everything)
        assert kept(keep) == {A: [1, 3], B: [1, 3]}


def test_numbers_of_numpy_and_jax_are_numbers():
    graph, _ = chain(5, 5)
    expected = kept(select.global_ratio(graph, EXAMPLE, prune_ratio=0.5, multiple_of=2))
    for half, two in ((np.float32(0.5), np.int8(2)), (jnp.float32(0.5), jnp.int32(2))):
        found = select.global_ratio(graph, EXAMPLE, prune_ratio=half, multiple_of=two)
        assert kept(found) == expected
    share = select.budget(graph, EXAMPLE, keep_macs=jnp.bfloat16(0.5))
    assert kept(share) == kept(select.budget(graph, EXAMPLE, keep_macs=np.array(0.5)))
    count = select.budget(graph, EXAMPLE, keep_macs=jnp.int32(30))
    assert kept(count) == kept(select.budget(graph, EXAMPLE, keep_macs=30))


def test_patterns_that_match_nothing():
    graph, _ = chain(5, 5)
    for constraint in ({"protect": ["stem*"]}, {"only": "stem*"}):
        with pytest.raises(PatternError, match="'stem\\*' matches none"):
            select.global_ratio(graph, EXAMPLE, prune_ratio=0.5, **constraint)
    with pytest.raises(PatternError, match="prune_ratio pattern 'stem' matches none"):
        select.per_group(graph, EXAMPLE, prune_ratio={"stem": 0.5})
    with pytest.raises(PatternError, match=r"leave no group to prune.\nFix: the groups .* layer_0"):
        select.global_ratio(graph, EXAMPLE, prune_ratio=0.5, protect=["*"])


@pytest.mark.parametrize(
    ("count", "end"), [(5, r"layer_4/kernel;"), (6, r"layer_4/kernel, \.\.\.;")]
)
def test_an_error_names_a_few_groups(count, end):
    graph, _ = chain(*count * (4,))
    with pytest.raises(PatternError, match=f"the groups are layer_0/kernel, .*{end}"):
        select.per_group(graph, {n: np.ones(4) for n in graph.groups}, prune_ratio=0.5, protect="*")
