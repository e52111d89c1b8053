"""The rows of what measures, scores and selects experts."""

import jax
import numpy as np

import jaxprune as jp
from refused.rows import Row
from refused.values import CALLABLES, FUNCTIONS, GRAPHS, NAN, Arg, X, bad

VARIABLES = {"router": np.eye(2, 3, dtype=np.float32), "table": np.ones((3, 2), np.float32)}


def mixture(v, x):
    """Rows of a table, chosen by a router."""
    weights, chosen = jax.lax.top_k(jax.nn.softmax(x @ v["router"]), 2)
    return (v["table"][chosen] * weights[..., None]).sum(1)


GRAPH = jp.trace(mixture, VARIABLES, X)
MIXED = Arg(GRAPH, GRAPHS, "channel graph")
USE = jp.stats.expert_use(GRAPH, VARIABLES, [X])
GIVEN = Arg(
    USE,
    bad(None, 3, "use", [], {}, {"router": 3}, {"router": X}, {"nope": USE["router"]})
    | {"short": {"router": jp.stats.ExpertUse(X[0, :1], X[0, :1], X[0, :1])}}
    | {"strings": {"router": jp.stats.ExpertUse("x", "x", "x")}},
    "use|sent|gates|added",
)
DATA = {
    "graph": MIXED,
    "variables": Arg(VARIABLES, bad(3, "tree", [X], {"a": X}, {}), "variable|tree"),
    "batches": Arg([X], bad(None, 3, [], [3], ["x"], X[0, 0]), "batch|input"),
    "groups": Arg(["router"], bad(3, "nope", ["nope"], [3], []), "group"),
    "inputs": Arg(None, bad(3, "x", []), "inputs"),
    "fn": Arg(mixture, {k: v for k, v in FUNCTIONS.items() if k != "None"}, "function|variable"),
}
ROWS: dict[str, Row] = {
    "stats.expert_use": Row(jp.stats.expert_use, DATA),
    "scores.expert_frequency": Row(jp.scores.expert_frequency, {"graph": MIXED, "use": GIVEN}),
    "scores.expert_gates": Row(jp.scores.expert_gates, {"graph": MIXED, "use": GIVEN}),
    "scores.reap": Row(jp.scores.reap, {"graph": MIXED, "use": GIVEN}),
    "select.experts": Row(
        jp.select.experts,
        {
            **DATA,
            "keep_count": Arg(2, bad(0, 1, 4, 1.5, "2", True, None, NAN, [2]), "keep_count"),
            "exhaustive": Arg(1000, bad(-1, 1.5, "2", True, None, NAN, CALLABLES), "exhaustive"),
        },
    ),
}
