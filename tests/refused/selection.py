"""The rows of `select`."""

import numpy as np

import jaxprune as jp
from refused.planned import COST_BOUNDS
from refused.rows import BOUNDS, CONSTRAINTS, MEMBERS, RULE, WITHIN, Row
from refused.values import (
    CALLABLES,
    NAN,
    RATIOS,
    STRENGTHS,
    A,
    Arg,
    G,
    S,
    V,
    bad,
    without,
)

GIVEN = {"graph": G, "scores": S}
COSTS = without(CALLABLES, "None")
ASCENDING = Arg(np.arange(5.0), bad(None, 3, "x", [], [2.0, 1.0], ["a"], np.ones((2, 2))), "scores")
COUNT = Arg(2, bad(-1, 9, 1.5, "2", None, True), "count")
ANSWERS = {
    repr(answer): lambda *_, answer=answer: answer for answer in ("x", None, 99, 0.5, -1, True)
}
"""Rules that answer with no number of channels."""

LOSSES = {repr(answer): lambda _, answer=answer: answer for answer in ("x", None, NAN, [0.5, 0.5])}
"""Evaluations that give no finite number."""

ROWS: dict[str, Row] = {
    "select.ArrayWidth": Row(
        jp.select.ArrayWidth, {"multiple": Arg(8, bad(None, 0, -1, 1.5, "8", True), "ArrayWidth")}
    ),
    "select.cost_regularized": Row(
        jp.select.cost_regularized,
        {
            **GIVEN,
            "strength": Arg(0.1, STRENGTHS, "strength"),
            "cost": Arg(None, COSTS, "cost"),
            "within": WITHIN,
        },
    ),
    "select.members": Row(jp.select.members, {"graph": G}),
    "select.of_remaining": Row(
        jp.select.of_remaining,
        {
            **GIVEN,
            "prune_ratio": Arg(0.2, RATIOS, "prune_ratio"),
            "members": MEMBERS,
            "ties": Arg(None, COSTS, "ties"),
            **CONSTRAINTS,
        },
    ),
    **{
        f"select.{rule.__name__}": Row(rule, {"scores": ASCENDING, "count": COUNT})
        for rule in (jp.select.exact_count, jp.select.lua_author, jp.select.pytorch_author)
    },
    "select.global_ratio": Row(
        jp.select.global_ratio,
        {
            **GIVEN,
            "prune_ratio": Arg(0.25, RATIOS, "ratio"),
            "ties": RULE._replace(bad=CALLABLES | ANSWERS),
            "quota": Arg(None, COSTS, "quota"),
            **CONSTRAINTS,
        },
    ),
    "select.per_group": Row(
        jp.select.per_group,
        {
            **GIVEN,
            "prune_ratio": Arg(
                0.25, RATIOS | bad({}, {"nope": 0.5}, {3: 0.5}, {A: "0.5"}, {A: NAN}), "ratio"
            ),
            **CONSTRAINTS,
        },
    ),
    "select.budget": Row(
        jp.select.budget,
        {
            **GIVEN,
            **BOUNDS,
            "bounds": Arg(COST_BOUNDS.good, without(COST_BOUNDS.bad, "None", "{}"), "bound|cost"),
            **CONSTRAINTS,
        },
    ),
    "select.sensitivity": Row(
        jp.select.sensitivity,
        {
            "graph": G,
            "variables": V,
            "scores": S,
            "evaluate": Arg(
                lambda _: 0.5,
                without(CALLABLES, "None") | {"None": None} | LOSSES,
                "evaluate",
            ),
            "prune_ratios": Arg([0.5], bad(3, None, "x", [], [1.5], ["a"], [NAN], [None]), "ratio"),
            **CONSTRAINTS,
        },
    ),
    "select.threshold": Row(
        jp.select.threshold,
        {
            **GIVEN,
            "threshold": Arg(
                0.1, bad("0.5", None, NAN, True, [0.5], 1j, np.ones(2), {}), "threshold"
            ),
            **CONSTRAINTS,
        },
    ),
}
