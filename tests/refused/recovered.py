"""The rows of what fits readers anew: `recover.least_squares`, `obs` and `lasso`."""

import numpy as np

import jaxprune as jp
from jaxprune.recover import Form, Order
from refused.networks import WITHOUT_SHAPES
from refused.rows import Row
from refused.values import CALLABLES, FUNCTIONS, NAN, Arg, G, K, X, bad, without

BATCHES = Arg([X], bad(None, 3, "data", [], ["x"], [None], [object()], {"a": X}, [X[:0]]), "batch")
INPUTS = Arg(None, without(CALLABLES, "None"), "inputs")
STRENGTH = bad(None, "x", -1, NAN, float("inf"), [])
NAME = next(iter(K.good))
SIZE = len(K.good[NAME])
WIDTHS = Arg(
    {NAME: SIZE - 1}, bad(None, 3, "x", {NAME: 0}, {"nobody": 1}, {NAME: SIZE + 1}), "width"
)
ADDED = Arg({NAME: np.eye(SIZE)}, bad(None, 3, {}, {NAME: np.eye(1)}, {NAME: "x"}), "contributions")
COMMON = {"graph": G, "variables": WITHOUT_SHAPES}
MEASURED = {
    "batches": BATCHES,
    "inputs": INPUTS,
    "fn": Arg(None, without(FUNCTIONS, "None"), "fn|function"),
}

ROWS = {
    "recover.least_squares": Row(
        jp.recover.least_squares,
        {
            **COMMON,
            "keep": K,
            **MEASURED,
            "form": Arg(Form.KERNEL, bad(None, 3, "KERNEL", Form, Order.IN_TURN), "form must be"),
            "order": Arg(Order.IN_TURN, bad(None, 3, Order, Form.BIAS), "order must be"),
            "ridge": Arg(0.01, STRENGTH, "ridge"),
        },
    ),
    "recover.obs": Row(
        jp.recover.obs,
        {**COMMON, "widths": WIDTHS, **MEASURED, "damping": Arg(0.01, STRENGTH, "damping")},
    ),
    "recover.lasso": Row(jp.recover.lasso, {**COMMON, "widths": WIDTHS, "contributions": ADDED}),
}
