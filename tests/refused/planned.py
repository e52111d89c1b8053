"""The rows of `plan`, of costs that are made, of inputs that point into an axis, and `masked`."""

import time
from typing import Any

import numpy as np

import jaxprune as jp
from refused.rows import CONSTRAINTS, INPUT, PATH, Row, file, later
from refused.values import (
    CALLABLES,
    COUNTS,
    GRAPH,
    KEEP,
    NAN,
    NO_MAPPINGS,
    SCORES,
    VARIABLES,
    A,
    Arg,
    F,
    G,
    K,
    S,
    V,
    W,
    X,
    apply,
    bad,
    without,
)

MACS = jp.cost.macs
IDS = np.array([0, 2])
TABLES = {"table": np.ones((6, 2), np.float32), "w": np.ones((2, 3), np.float32)}
LOOKED_UP = jp.trace(lambda v, ids: v["table"][ids] @ v["w"], TABLES, IDS, index_inputs={0: 6})
ROW = next(iter(LOOKED_UP.groups))
STAY = np.array([True, False, True, True, False, False])
NEW = jp.reindex(LOOKED_UP, {ROW: STAY})


def step(v: Any, x: Any, cache: Any) -> Any:
    """A call with a cache of keys."""
    cache = cache.at[:, 0].set(x @ v["key"])
    return cache.sum(1) @ v["out"], cache


KEYS = {"key": np.ones((2, 4), np.float32), "out": np.ones((4, 3), np.float32)}
CACHED = jp.trace(step, KEYS, X, np.ones((1, 5, 4), np.float32), state="cache")


def no_time(calls: Any = ()) -> list[float]:
    """A timer that takes no time, or a call."""
    return [1.0 for _ in calls]


TIMES = jp.cost.latency_table(GRAPH, ladder=2, timer=no_time)


def saved(path: Any) -> None:
    """Saves a table, in a new folder by default."""
    return TIMES.save(path) if path != "" else file(TIMES.save)


def loaded(path: Any) -> Any:
    """Loads a table, by default one that was saved just before."""
    if path != "":
        return jp.cost.LatencyTable.load(path)
    return file(lambda to: (TIMES.save(to), jp.cost.LatencyTable.load(to)))


def nothing(_: Any, __: Any = None) -> Any:
    """A cost that gives no number."""


NO_COSTS = {"nothing": nothing, "words": lambda *_: "dear", "NaN": lambda *_: NAN}
COST_BOUNDS = Arg(
    {MACS: 0.8},
    {
        **bad(None, 3, "macs", [MACS], MACS, {}),
        **bad({"macs": 0.5}, {3: 0.5}, {None: 0.5}, {(MACS,): 0.5}),
        **{f"{{macs: {value!r}}}": {MACS: value} for value in ("0.5", None, NAN, -1, 0, 1, True)},
        **{f"{{{name}: 0.5}}": {fn: 0.5} for name, fn in NO_COSTS.items()},
        "out of reach": {MACS: jp.Absolute(1)},
    },
    "bound|cost",
)
PROBLEM = jp.plan.problem(GRAPH, SCORES, bounds={MACS: 0.8})
PICKS = bad(
    *(None, 3, "00", [], [0], [0, 0, 0], [0, 9], [-1, 0], [0.5, 0], [True, 0], ["0", 0]),
    *([None, 0], {0: 0, 1: 0}),
)
PICKED = Arg([0, 0], PICKS, "picks")
WITHIN_REACH = bad(None, "x", [], True, 1.5, 1, 0, -8, NAN, {A: 4}, {A: "4"}, {A: None})
LADDERS = WITHIN_REACH | bad(
    *({A: [2]}, {A: [4, 9]}, {A: [4, 0]}, {A: [4, "2"]}, {A: [4, None]}, {A: [4, 2.5]}),
    *({A: [4, True]}, {A: []}, {A: [[4]]}, {"nope": [4]}, {3: [4]}, {None: [4]}),
)
VALUES = NO_MAPPINGS | bad(
    *({A: 3}, {A: None}, {A: [1.0] * 4}, {A: "x"}, {A: {}}, {A: {4: 1.0}}, {"nope": {4: 1.0}}),
    *({3: {4: 1.0}}, {A: {n: "x" for n in range(1, 5)}}, {A: {n: NAN for n in range(1, 5)}}),
    *({A: {n: None for n in range(1, 5)}}, {A: {n: [1.0, 2.0] for n in range(1, 5)}}),
)
DTYPES = bad("nope", 3, 0.5, [], {}, True, str, object, apply, "datetime64[s]", X)
AXES = bad(
    *(3, "cache", [], {"cache"}, {"nope": {0: 1}}, {3: {0: 1}}, {None: {0: 1}}, {"cache": 3}),
    *({"cache": None}, {"cache": [1]}, {"cache": "x"}, {"cache": {9: 1}}, {"cache": {-1: 1}}),
    *({"cache": {"0": 1}}, {"cache": {0: 0}}, {"cache": {0: 1.5}}, {"cache": {0: "1"}}),
    *({"cache": {0: None}}, {"cache": {True: 1}}, {"cache": {2: 3}}),
)

ROWS: dict[str, Row] = {
    "masked": Row(
        later(jp.masked, "variables", "keep"),
        {"fn": F, "graph": G, "variables": V, "keep": K, "inputs": INPUT},
    ),
    "trace(keywords)": Row(
        lambda keywords: jp.trace(apply, VARIABLES, X, **keywords),
        {"keywords": Arg({}, bad({"strct": True}, {"y": X}, {"y": "x"}), "keyword|near")},
    ),
    "plan.expand": Row(
        jp.plan.expand,
        {
            "graph": G,
            "widths": W._replace(bad={**W.bad, "{}": {}, "an unknown branch": {"+nope": False}}),
            "bounds": Arg(
                {MACS: 0.8},
                without(COST_BOUNDS.bad, "{words: 0.5}", "{NaN: 0.5}")
                | bad({apply: 0.5}, {jp.cost.active_params: 0.5}),
                "bound|cost",
            ),
            "multiple_of": Arg(1, COUNTS, "multiple_of"),
        },
    ),
    "reindex": Row(
        jp.reindex,
        {
            "graph": Arg(LOOKED_UP, G.bad, "channel graph"),
            "keep": Arg({ROW: STAY}, NO_MAPPINGS | bad({"nope": STAY}, {ROW: [0, 1]}), "keep"),
            "input": Arg(None, bad(3, -1, "nope", 0.5, [], {}, True, X), "point into an axis"),
        },
    ),
    "reindexed": Row(
        jp.reindexed,
        {
            "table": Arg(
                NEW,
                bad(None, 3, "x", [], {}, [0.0, 1.0, 2.0], ["0"], [[0], [1]], [[0], [1, 2]])
                | bad([None], [True] * 6, apply),
                "table",
            ),
            "ids": Arg(
                IDS,
                bad(None, "x", 0.5, [0.0], ["0"], [None], [[0], [1, 2]], {}, apply, [True])
                | bad([-1], [6], [1], {0}),
                "ids",
            ),
            "unknown": Arg(None, bad("0", 0.5, -1, 6, 1, True, [0], NAN, {}), "unknown"),
        },
    ),
    "cost.active_params": Row(jp.cost.active_params, {"graph": G, "widths": W}),
    "cost.state_bytes": Row(
        lambda **given: jp.cost.state_bytes(**given)(CACHED),
        {"sizes": Arg(None, AXES, "sizes"), "dtype": Arg(None, DTYPES, "dtype")},
    ),
    "cost.weight_bytes": Row(
        lambda dtypes: jp.cost.weight_bytes(dtypes)(GRAPH),
        {
            "dtypes": Arg(
                None,
                {
                    **without(NO_MAPPINGS, "None"),
                    **{f"{{*: {name}}}": {"*": value} for name, value in DTYPES.items()},
                    **bad({"*": None}, {"nope": "int8"}, {3: "int8"}, {None: "int8"}),
                },
                "dtype|pattern",
            )
        },
    ),
    "cost.energy": Row(
        lambda table: jp.cost.energy(table)(GRAPH),
        {
            "table": Arg(
                {MACS: 1.0},
                NO_MAPPINGS
                | bad({}, {"macs": 1.0}, {3: 1.0}, {None: 1.0}, {nothing: 1.0})
                | {
                    f"{{macs: {value!r}}}": {MACS: value}
                    for value in ("1", None, NAN, -1, float("inf"), True, [1.0])
                },
                "energ|cost|table",
            )
        },
    ),
    "cost.latency_table": Row(
        jp.cost.latency_table,
        {
            "graph": G,
            "path": Arg(None, PATH.bad, "path"),
            "ladder": Arg(2, bad(None, 0, 1, True, "x", 2.5, {}, {"*": []}, {"*": [0]}), "ladder"),
            "timer": Arg(no_time, CALLABLES | {"gives nothing": nothing}, "timer"),
        },
    ),
    "cost.tabled": Row(
        jp.cost.tabled,
        {
            "table": Arg(TIMES, bad(None, 3, "x", {}, TIMES.seconds), "table"),
            "other_device": Arg(False, bad(None, 1, "x"), "other_device"),
        },
    ),
    "cost.LatencyTable.save": Row(saved, {"path": PATH}),
    "cost.LatencyTable.load": Row(loaded, {"path": Arg("", bad(3, None, [], "nowhere"), "table")}),
    "cost.interleaved": Row(
        jp.cost.interleaved,
        {
            "calls": Arg([no_time], bad(None, 3, "x", [None]), "calls"),
            "repeats": Arg(1, bad(None, 0, -1, 1.5, "x", True), "repeats"),
            "clock": Arg(time.perf_counter, CALLABLES, "clock"),
        },
    ),
    "cost.fidelity": Row(
        jp.cost.fidelity,
        {
            "predicted": Arg(
                [1.0], bad(None, 3, "x", [], [0.0], [NAN], [-1.0], ["x"]), "predicted"
            ),
            "calls": Arg([no_time], bad(None, 3, []), "predicted"),
            "timer": Arg(no_time, CALLABLES | {"gives nothing": nothing}, "timer"),
        },
    ),
    "cost.ClosedForm.__call__": Row(
        jp.cost.energy({MACS: 1.0}), {"graph": G, "widths": Arg(KEEP, W.bad, W.says)}
    ),
    "cost.terms_of": Row(jp.cost.terms_of, {"cost": Arg(MACS, CALLABLES, "cost")}),
    "plan.problem": Row(
        jp.plan.problem,
        {
            "graph": G,
            "scores": S,
            "bounds": COST_BOUNDS,
            "ladder": Arg(8, LADDERS, "ladder|width"),
            "values": Arg(None, without(VALUES, "None"), "values"),
            "branches": Arg(
                None,
                without(NO_MAPPINGS, "None") | bad({"+nope": 1.0}, {3: 1.0}, {A: 1.0}),
                "branch",
            ),
            **CONSTRAINTS,
        },
    ),
    "plan.milp": Row(
        jp.plan.milp,
        {
            "problem": Arg(PROBLEM, bad(None, 3, "problem", {}, []) | {"graph": GRAPH}, "problem"),
            "gap": Arg(0.01, bad(None, "x", -0.1, NAN, True, [0.1], {}, 1j), "gap"),
            "seconds": Arg(60, bad(None, "x", -1, NAN, True, [1], {}, 0), "seconds"),
        },
    ),
    "plan.Problem.keep": Row(PROBLEM.keep, {"picks": PICKED}),
    "plan.Problem.value": Row(PROBLEM.value, {"picks": PICKED}),
    "plan.Problem.holds": Row(PROBLEM.holds, {"keep": Arg(KEEP, W.bad, "keep|width")}),
}
