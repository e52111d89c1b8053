"""The rows of what fits readers anew: `recover.least_squares`, `obs`, `lasso` and `dcp`."""

import numpy as np

import jaxprune as jp
from jaxprune.recover import Form, Order
from refused.measured import POSITIONS, loss
from refused.networks import WITHOUT_SHAPES
from refused.rows import Row
from refused.values import (
    CALLABLES,
    COUNTS,
    FUNCTIONS,
    KEYS,
    NAN,
    POSITIVES,
    RATIOS,
    STRENGTHS,
    Arg,
    G,
    K,
    X,
    bad,
    without,
)

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
DRAWN = {"positions": POSITIONS, "key": Arg(None, without(KEYS, "None"), "key")}

WIDE = np.ones((3, SIZE), np.float32)
FEATURES = bad(
    *(None, 3, "x", {}, [WIDE], {"nope": [WIDE]}, {3: [WIDE]}, {NAME: WIDE[:, :1]}, {NAME: None}),
    *({NAME: []}, {NAME: [WIDE[:, :1]]}, {NAME: [WIDE, WIDE]}, {NAME: ["x"]}, {NAME: [WIDE[0]]}),
)


def distilled(outputs, teacher, targets, **kwargs):
    """The loss of some logits."""
    return jp.recover.distillation(**kwargs)(outputs, teacher, targets)


def inside(features, teacher, **kwargs):
    """The loss of some features."""
    return jp.recover.feature_loss(**kwargs)(features, teacher)


ROWS = {
    "recover.distillation": Row(
        distilled,
        {
            "temperature": Arg(1.0, POSITIVES, "temperature"),
            "mix": Arg(0.5, without(RATIOS, "1.0") | {"1.0 with a loss": 1.0}, "mix"),
            "loss": Arg(lambda *_: 0.0, CALLABLES, "loss"),
            "outputs": Arg(WIDE, bad(None, 3, "x", {}, WIDE[:2]), "logits"),
            "teacher": Arg(WIDE, bad(None, 3, "x", {}, WIDE[:2]), "logits"),
            "targets": Arg(None, {}),
        },
    ),
    "recover.feature_loss": Row(
        inside,
        {
            "graph": G,
            "keep": K._replace(bad=without(K.bad, "None")),
            "distance": Arg(lambda a, b: a - b, CALLABLES, "distance"),
            "features": Arg({NAME: [WIDE]}, FEATURES, "feature"),
            "teacher": Arg({NAME: [WIDE]}, FEATURES, "feature|teacher"),
        },
    ),
    "recover.least_squares": Row(
        jp.recover.least_squares,
        {
            **COMMON,
            "keep": K,
            **MEASURED,
            **DRAWN,
            "form": Arg(Form.KERNEL, bad(None, 3, "KERNEL", Form, Order.IN_TURN), "form must be"),
            "order": Arg(Order.IN_TURN, bad(None, 3, Order, Form.BIAS), "order must be"),
            "ridge": Arg(0.01, STRENGTH, "ridge"),
        },
    ),
    "recover.obs": Row(
        jp.recover.obs,
        {
            **COMMON,
            "widths": WIDTHS,
            **MEASURED,
            **DRAWN,
            "damping": Arg(0.01, STRENGTH, "damping"),
        },
    ),
    "recover.dcp": Row(
        jp.recover.dcp,
        {
            **COMMON,
            "widths": WIDTHS,
            **MEASURED,
            "loss": Arg(loss, CALLABLES | {"a vector": lambda o, _: o}, "loss"),
            "points": Arg((), bad(None, 3, "nope", ["nope"], [3], [None], 0.5), "points"),
            "weight": Arg(1.0, STRENGTHS, "weight"),
            "rate": Arg(0.01, POSITIVES, "rate"),
            "head_rate": Arg(0.1, POSITIVES, "head_rate"),
            "head_passes": Arg(1, COUNTS, "head_passes"),
        },
    ),
    "recover.lasso": Row(jp.recover.lasso, {**COMMON, "widths": WIDTHS, "contributions": ADDED}),
}
