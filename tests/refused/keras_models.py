"""The rows of `keras`."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np

import jaxprune as jp
from refused.networks import NNX_KEEP, OVERRIDES, UNTAKEN
from refused.rows import INPUT, PRUNED, TRACED, Row, splat
from refused.values import MODULES, TWIN, TWIN_KEEP, A, Arg, G, X, bad

WIDTHS = {"a": 4, "c": 3}
MODEL = keras.Sequential(
    [
        keras.Input((2,)),
        *(keras.layers.Dense(n, use_bias=False, name=name) for name, n in WIDTHS.items()),
    ]
)
GRAPH = jp.keras.trace(MODEL, X)
VARIABLES = jp.keras.variables(MODEL)
KERAS = {
    "model": Arg(MODEL, MODULES | {"nnx": TWIN}, "keras.Model"),
    "graph": Arg(GRAPH, G.bad, "graph"),
}
OPTIMIZER = keras.optimizers.SGD()
ASSIGNED = bad(3, np.ones(2), {"a": np.ones(2)}, {"a": {"kernel": "words"}})

ROWS: dict[str, Row] = {
    "keras.assign": Row(
        jp.keras.assign,
        {"model": KERAS["model"], "variables": Arg(VARIABLES, ASSIGNED, "variables|tree")},
    ),
    "keras.function": Row(jp.keras.function, {"model": KERAS["model"], "strct": UNTAKEN}),
    "keras.variables": Row(jp.keras.variables, {"model": KERAS["model"]}),
    "keras.trace": Row(
        splat(jp.keras.trace),
        {"model": KERAS["model"], "inputs": INPUT, "strct": UNTAKEN, **TRACED},
    ),
    "keras.prune": Row(
        splat(jp.keras.prune),
        {
            "model": KERAS["model"],
            "inputs": INPUT,
            "overrides": OVERRIDES,
            "strct": UNTAKEN,
            **PRUNED,
            "only": Arg(A, PRUNED["only"].bad, "only|kind"),
            **TRACED,
        },
    ),
    "keras.resize": Row(jp.keras.resize, {**KERAS, "keep": NNX_KEEP, "overrides": OVERRIDES}),
    **{
        f"keras.{fn.__name__}": Row(
            fn, {"graph": KERAS["graph"], "keep": NNX_KEEP, "overrides": OVERRIDES}
        )
        for fn in (jp.keras.follows, jp.keras.draws)
    },
    "keras.overrides": Row(jp.keras.overrides, {"graph": KERAS["graph"], "keep": NNX_KEEP}),
    "keras.resize_optimizer": Row(
        jp.keras.resize_optimizer,
        {
            "optimizer": Arg(OPTIMIZER, bad(None, 3, "adam", TWIN), "optimizer"),
            "small": Arg(jp.keras.resize(MODEL, GRAPH, TWIN_KEEP), MODULES, "keras.Model"),
            "graph": KERAS["graph"],
            "keep": NNX_KEEP,
        },
    ),
}
