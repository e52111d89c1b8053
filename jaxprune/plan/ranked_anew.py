"""The channels that are left, in the order of new scores: what went before stays gone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxprune.errors import ScoreError
from jaxprune.graph import ChannelGraph
from jaxprune.groups.scored import Scores, check_scores
from jaxprune.plan.problems import Problem

Score = Callable[[ChannelGraph, Any], Scores]
"""From the graph and the variables to {group: f32[n]}, such as `jp.scores.l2`."""


def ranked_anew(problem: Problem, picks: Sequence[int], scores: Scores) -> Problem:
    """Returns the problem where the channels that are left at the picks leave by these scores.

    At the picks its keep is the same; at narrower widths it is within that. Values stay.

    Raises:
      ScoreError: NaN, a wrong length, an unknown group, or a group of the problem has none.
    """
    given = check_scores(problem.graph, scores)
    if missing := [name for name in problem.order.ranked if name not in given]:
        raise ScoreError(
            f"the new scores lack {missing[:5]}, which the problem plans.\n"
            "Fix: a score that covers the same groups, such as jp.scores.l2."
        )
    left = {
        member: choice.widths[pick]
        for choice, pick in zip(problem.choices, picks, strict=True)
        if choice.branch is None
        for member in choice.members
    }
    ranked = {}
    for name, before in problem.order.ranked.items():
        gone, rest = np.split(before, [before.shape[-1] - left[name]], axis=-1)
        rest = np.sort(rest, axis=-1)  # ties: the first channel goes first
        by_score = np.argsort(
            np.take_along_axis(given[name], rest, axis=-1), axis=-1, kind="stable"
        )
        ranked[name] = np.concatenate([gone, np.take_along_axis(rest, by_score, axis=-1)], axis=-1)
    return replace(problem, order=problem.order._replace(ranked=ranked))
