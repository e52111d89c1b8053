"""The rows of planners that measure: evaluators, tables of replaced widths, searches."""

from typing import Any

import numpy as np

import jaxprune as jp
from refused.measured import loss
from refused.networks import WITHOUT_SHAPES
from refused.planned import PROBLEM
from refused.recovered import MEASURED
from refused.rows import Row
from refused.values import CALLABLES, GRAPH, NAN, VARIABLES, Arg, G, K, V, X, bad, without


def price(keep: Any) -> float:
    """An evaluator that runs nothing."""
    return -float(sum(np.sum(kept) for kept in keep.values()))


P = Arg(PROBLEM, bad(None, 3, "problem", {}, []) | {"graph": GRAPH}, "problem")
GIVES = {
    "nothing": lambda *_: None,
    "words": lambda *_: "low",
    "NaN": lambda *_: NAN,
    "a vector": lambda *_: np.ones(2),
}
E = Arg(price, CALLABLES | GIVES, "evaluate")
JOURNAL = Arg(None, bad(3, 0.5, [], {}, True), "path")
EVALUATE = jp.plan.evaluator(GRAPH, VARIABLES, [X], loss)

ROWS = {
    "plan.evaluator": Row(
        lambda **given: jp.plan.evaluator(**given)({}),
        {
            "graph": G,
            "variables": WITHOUT_SHAPES,
            **MEASURED,
            "loss": Arg(
                loss, CALLABLES | {"a vector": lambda o, _: o, "words": lambda *_: "x"}, "loss"
            ),
        },
    ),
    "plan.divergence": Row(
        jp.plan.divergence, {"graph": G, "variables": WITHOUT_SHAPES, **MEASURED}
    ),
    "plan.Evaluator.__call__": Row(
        EVALUATE, {"keep": K, "variables": Arg(VARIABLES, without(V.bad, "a module"), V.says)}
    ),
    "plan.replace_one": Row(jp.plan.replace_one, {"problem": P, "evaluate": E, "journal": JOURNAL}),
    "plan.sensitivity": Row(jp.plan.sensitivity, {"problem": P}),
}
