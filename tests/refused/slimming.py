"""The rows of `slimmable`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from refused.rows import ABSENT, NAMED, OPTIONAL_GRAPH, Row
from refused.values import (
    CALLABLES,
    COUNTS,
    GRAPH,
    MODEL,
    NAN,
    PROTECT,
    RATIOS,
    VARIABLES,
    A,
    Arg,
    B,
    G,
    K,
    V,
    X,
    bad,
    without,
)

slim = jp.slimmable
HALF = slim.prefix(GRAPH, 0.5, divisor=1)
WIDE = {1.0: {}, 0.5: HALF}
PARTS = slim.split(GRAPH, VARIABLES, WIDE)
KEEPS_BY_NAME = {
    **bad(
        None,
        3,
        "w",
        [HALF],
        HALF,
        {0.5: 3},
        {0.5: None},
        {0.5: {"nope": HALF[A]}},
        {0.5: {A: [0, 2]}},
        {0.5: {A: np.zeros(4, bool)}},
    ),
}
WIDTHS = Arg(WIDE, KEEPS_BY_NAME | bad({}), "width|keep")
TRAINED = Arg(None, without(KEEPS_BY_NAME, "None"), "width|keep")
ROUNDING = {
    "divisor": Arg(1, COUNTS, "divisor"),
    "min_channels": Arg(1, COUNTS, "min_channels"),
    "supernet": Arg(1.0, bad("1", None, NAN, -1, 0, True, [1.0], float("inf")), "supernet"),
    "expansion": Arg({A: 1}, bad(None, 3, "a", {"nope": 1}, {A: 0}, {A: 1.5}, {3: 1}), "expansion"),
    "protect": PROTECT,
    "protct": Arg(ABSENT, bad([B]), "protect"),
    "only": Arg(ABSENT, bad([B]), "option"),
}
RNG = bad(None, 3, "rng", jax.random.key(0), np.random)
LOW = Arg(0.3, bad("0.5", None, NAN, -0.1, 0, True, [0.5], 1j, 2.0), "width")
HIGH = Arg(0.9, LOW.bad, "width")


RANDOM = Arg(np.random.default_rng(0), RNG, "rng")


def served(keep: Any) -> Any:
    return jp.linen.resize(MODEL, GRAPH, keep).apply


def learnt(keep: Any) -> Any:
    return partial(served(keep), train=True, mutable=["batch_stats"])


def error(outputs: Any, targets: Any) -> Any:
    return jnp.abs(outputs - targets).mean()


BATCH, LABELS = np.ones((4, 2), np.float32), np.ones((4, 3), np.float32)
SPACE = slim.space(GRAPH, divisor=1, parts=2)
TARGET = 0.7 * jp.cost.macs(GRAPH)
SPACES = Arg(
    SPACE,
    bad(
        None,
        3,
        "space",
        {},
        {"nope": (1,)},
        {A: ()},
        {A: (9,)},
        {A: (1, 2)},
        {A: (2, 0)},
        {A: 3},
        {A: ("2",)},
        {A: (2.5,)},
        {3: (1,)},
    ),
    "space",
)
COST = Arg(jp.cost.macs, CALLABLES, "cost")
EVALUATE = Arg(
    lambda c: np.arange(len(c)),
    CALLABLES
    | {"few": lambda _: [], "NaN": lambda c: [NAN] * len(c), "words": lambda c: ["x"] * len(c)},
    "evaluate|error",
)
A_TARGET = Arg(TARGET, bad("1", None, NAN, -1, True, 1j, [TARGET], 0), "target")
SOME = Arg(
    [TARGET],
    bad("1", None, NAN, 3, [NAN], ["1"], [None], [True], [1j], [], [[TARGET]], [-1]),
    "target",
)
NETWORK = Arg(learnt, CALLABLES, "network")
SERVED = Arg(served, CALLABLES, "network")
REST = Arg(PARTS[1], bad(None, 3, "x", {}, VARIABLES), "split")
SPLIT = Arg(PARTS[0], REST.bad, "split")
SEARCHED = {
    "evaluate": EVALUATE,
    "graph": G,
    "space": SPACES,
    "target": A_TARGET,
    "rng": RANDOM,
    "cost": COST,
}
ROWS: dict[str, Row] = {
    "slimmable.calibrate": Row(
        slim.calibrate,
        {
            "network": NETWORK,
            "graph": G,
            "params": SPLIT,
            "rest": REST,
            "widths": WIDTHS,
            "batches": Arg([BATCH], bad(None, 3, "x", [], ["x"], [None]), "batch"),
            "trained": TRAINED,
        },
    ),
    "slimmable.evolve": Row(
        slim.evolve,
        {
            **SEARCHED,
            "population": Arg(2, COUNTS | bad(1), "population"),
            "generations": Arg(1, COUNTS, "generations"),
            "mutation": Arg(0.1, without(RATIOS, "1.0"), "mutation"),
        },
    ),
    "slimmable.random_search": Row(
        slim.random_search, {**SEARCHED, "samples": Arg(2, COUNTS, "samples")}
    ),
    "slimmable.check_targets": Row(
        slim.check_targets, {"graph": G, "space": SPACES, "targets": SOME, "cost": COST}
    ),
    "slimmable.greedy_path": Row(
        lambda **k: list(slim.greedy_path(**k)),
        {
            "evaluate": EVALUATE,
            "space": Arg(SPACE, bad(None, 3, "space", {A: ()}, {A: 3}), "space"),
        },
    ),
    "slimmable.evaluator": Row(
        lambda candidates, **k: slim.evaluator(**k)(candidates),
        {
            "network": NETWORK,
            "graph": G,
            "variables": V,
            "inputs": Arg(BATCH, bad("x", object(), ["x"]), "input"),
            "targets": Arg(LABELS, bad("x", object()), "target"),
            "error": Arg(error, CALLABLES, "error"),
            "at_once": Arg(1, COUNTS, "at_once"),
            "candidates": Arg(
                [{A: 2}],
                bad(
                    None,
                    3,
                    "x",
                    [3],
                    [None],
                    [{"nope": 1}],
                    [{A: 0}],
                    [{A: -1}],
                    [{A: 9}],
                    [{A: 1.5}],
                    [{A: "2"}],
                    [{A: NAN}],
                ),
                "width|candidate",
            ),
        },
    ),
    "slimmable.greedy": Row(
        slim.greedy,
        {"evaluate": EVALUATE, "graph": G, "space": SPACES, "targets": SOME, "cost": COST},
    ),
    "slimmable.measured": Row(
        lambda widths, **k: slim.measured(**k)(GRAPH, widths),
        {
            "network": SERVED,
            "graph": G,
            "variables": V,
            "inputs": Arg(BATCH, bad("x", object(), ["x"]), "input"),
            "repeats": Arg(1, COUNTS, "repeats"),
            "widths": Arg({A: 2}, bad(3, "x", {"nope": 1}, {A: 0}, {A: 9}, {A: 1.5}), "width"),
        },
    ),
    "slimmable.space": Row(
        slim.space,
        {
            "graph": G,
            "parts": Arg(2, COUNTS, "parts"),
            "divisor": Arg(1, COUNTS, "divisor"),
            "min_keep_ratio": Arg(0.1, without(RATIOS, "1.0"), "min_keep_ratio"),
            "protect": PROTECT,
        },
    ),
    "slimmable.estimate_fps": Row(
        slim.estimate_fps,
        {
            "macs": Arg(1e6, bad("1", None, NAN, -1, 0, True, [1.0], 1j), "macs"),
            "device": Arg(
                slim.MOBILE_SOC, bad("1", None, NAN, -1, 0, True, (1.0,), ("a", "b"), {}), "device"
            ),
        },
    ),
    "slimmable.extract": Row(
        slim.extract,
        {
            "network": SERVED,
            "graph": G,
            "params": SPLIT,
            "rest": REST,
            "name": Arg(0.5, bad(0.3, None, [], "x"), "width"),
            "keep": Arg(HALF, K.bad, "keep"),
        },
    ),
    "slimmable.spectrum": Row(
        slim.spectrum,
        {
            "graph": G,
            "widths": Arg(WIDE, KEEPS_BY_NAME, "width|keep"),
            "accuracy": Arg(float, CALLABLES, "column"),
        },
    ),
    "slimmable.switch": Row(
        slim.switch,
        {
            "network": SERVED,
            "graph": G,
            "params": SPLIT,
            "rest": REST,
            "widths": WIDTHS,
            "trained": TRAINED,
        },
    ),
    "slimmable.Switch.at": Row(
        slim.switch(served, GRAPH, *PARTS, WIDE).at,
        {"width": Arg(0.5, bad(0.3, None, "x", [], {}), "width")},
    ),
    "slimmable.split": Row(
        slim.split,
        {
            "graph": G,
            "variables": V,
            "widths": Arg(WIDE, WIDTHS.bad | {"no order": {1.0: {}, "x": {}}}, "width|keep|names"),
            "private": Arg(None, NAMED, "private"),
        },
    ),
    "slimmable.statistics": Row(
        slim.statistics,
        {"variables": Arg(VARIABLES, bad(3, "mean", X), "variables"), "graph": OPTIONAL_GRAPH},
    ),
    "slimmable.switchable": Row(
        slim.switchable,
        {"variables": Arg(VARIABLES, bad(3, "mean", X), "variables"), "graph": OPTIONAL_GRAPH},
    ),
    "slimmable.variables": Row(
        slim.variables,
        {
            "graph": G,
            "params": SPLIT,
            "rest": REST,
            "name": Arg(0.5, bad(0.3, None, []), "width"),
            "keep": Arg(HALF, K.bad, "keep"),
        },
    ),
    "slimmable.distillation": Row(
        lambda **k: slim.distillation(**k),
        {
            "temperature": Arg(
                1.0, bad("1", None, NAN, -1, 0, True, [1.0], 1j, float("inf")), "temperature"
            ),
            "mix": Arg(
                0.5,
                without(RATIOS, "1.0") | {"1.0 with a loss": 1.0},
                "mix",
            ),
            "loss": Arg(error, CALLABLES, "loss"),
        },
    ),
    "slimmable.gradients": Row(
        lambda params, rest, widths, inputs, targets, **k: slim.gradients(**k)(
            params, rest, widths, inputs, targets
        ),
        {
            "network": NETWORK,
            "graph": G,
            "loss": Arg(error, CALLABLES, "loss"),
            "distill": Arg(None, without(CALLABLES, "None"), "distill"),
            "params": SPLIT,
            "rest": REST,
            "widths": WIDTHS,
            "inputs": Arg(BATCH, bad("x", object(), ["x"]), "input"),
            "targets": Arg(LABELS, bad("x", object()), "target"),
        },
    ),
    "slimmable.make_divisible": Row(
        slim.make_divisible,
        {
            "value": Arg(12.0, bad("1", None, NAN, -1, True, [1.0], 1j, float("inf")), "value"),
            "divisor": Arg(8, COUNTS, "divisor"),
            "least": Arg(1, COUNTS, "least"),
        },
    ),
    "slimmable.prefix": Row(
        slim.prefix,
        {
            "graph": G,
            "width": Arg(
                0.5,
                bad(
                    "0.5",
                    None,
                    NAN,
                    -0.1,
                    0,
                    True,
                    [0.5],
                    1j,
                    2.0,
                    {"nope": 0.5},
                    {A: 0},
                    {A: 9},
                    {A: "2"},
                    {A: None},
                    {A: NAN},
                    {3: 1},
                    {A: True},
                    {},
                ),
                "width",
            ),
            **ROUNDING,
        },
    ),
    "slimmable.uniform": Row(
        slim.uniform, {"graph": G, "rng": RANDOM, "low": LOW, "high": HIGH, **ROUNDING}
    ),
    "slimmable.nonuniform": Row(
        slim.nonuniform, {"graph": G, "rng": RANDOM, "low": LOW, "high": HIGH, **ROUNDING}
    ),
    "slimmable.outside_trained_range": Row(
        slim.outside_trained_range,
        {
            "graph": G,
            "keep": K,
            "trained": Arg(
                [HALF], bad(None, 3, "x", [], [3], [None], [{"nope": HALF[A]}]), "width|keep"
            ),
        },
    ),
    "slimmable.sandwich": Row(
        slim.sandwich,
        {
            "widths": Arg(WIDE, WIDTHS.bad, "width|keep|sandwich"),
            "rng": RANDOM,
            "n": Arg(2, COUNTS | bad(1), "n="),
        },
    ),
}
