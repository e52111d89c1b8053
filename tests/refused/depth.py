"""The rows of what finds, scores and selects branches."""

import numpy as np

import jaxprune as jp
from refused.rows import BOUNDS, INPUT, Row, later, splat
from refused.values import CALLABLES, FUNCTIONS, GRAPHS, NAN, Arg, G, X, bad

VARIABLES = {"a": np.ones((2, 2), np.float32), "b": np.ones((2, 2), np.float32)}


def residual(v, x):
    """Two branches."""
    x = x + x @ v["a"]
    return x + x @ v["b"]


GRAPH = jp.trace(residual, VARIABLES, X)
RESIDUAL = Arg(GRAPH, GRAPHS, "channel graph")
TREE = Arg(VARIABLES, bad(3, "tree", [X], {"a": X}, {}), "variable|tree")
FN = Arg(residual, FUNCTIONS, "function|variable")
LOSS = Arg(lambda gates: gates["+a"] + 0 * gates["+b"], CALLABLES, "loss")
SLOPES = bad(None, 3, "x", [], {}, {"+z": 1.0}, {"+a": "x"}, {"+a": None}, {"+a": np.ones(2)})
AMOUNTS = bad(-1, 1.5, "3", True, NAN, [1])
NAMES = bad(3, "nope*", ["nope"], [3], [None])

ROWS: dict[str, Row] = {
    "branches": Row(jp.branches, {"graph": G}),
    "cost.branch_cost": Row(
        jp.cost.branch_cost, {"graph": RESIDUAL, "cost": Arg(jp.cost.macs, CALLABLES, "cost")}
    ),
    "gates.unit_branches": Row(jp.gates.unit_branches, {"graph": G}),
    "gates.branch_changes": Row(
        later(jp.gates.branch_changes, "variables"),
        {
            "fn": FN,
            "graph": RESIDUAL,
            "measure": Arg(lambda before, after: (before - after).sum(), CALLABLES, "measure"),
            "variables": TREE,
            "inputs": INPUT,
        },
    ),
    "scores.block_influence": Row(
        splat(jp.scores.block_influence),
        {"fn": FN, "graph": RESIDUAL, "variables": TREE, "inputs": INPUT},
    ),
    "scores.removal_loss": Row(jp.scores.removal_loss, {"graph": RESIDUAL, "loss": LOSS}),
    "scores.taylor_branch": Row(
        jp.scores.taylor_branch,
        {"graph": RESIDUAL, "gradients": Arg({"+a": 1.0}, SLOPES, "gradients")},
    ),
    "select.depth": Row(
        jp.select.depth,
        {
            "graph": RESIDUAL,
            "loss": LOSS,
            "remove": Arg(1, AMOUNTS, "remove"),
            **{name: BOUNDS[name]._replace(good=0.9) for name in ("keep_macs", "keep_params")},
            "min_left": Arg(0, AMOUNTS, "min_left"),
            "protect": Arg("+a", NAMES, "protect"),
            "protect_first": Arg(0, AMOUNTS, "protect_first"),
            "protect_last": Arg(0, AMOUNTS, "protect_last"),
            "together": Arg((), bad(3, "+a", ["+a"], [["nope"]], [[3]], [3], [[]]), "together"),
        },
    ),
}
