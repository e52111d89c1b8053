"""The rows of planners that measure: evaluators, tables of replaced widths, searches."""

from functools import partial
from typing import Any

import numpy as np

import jaxprune as jp
from refused.measured import loss
from refused.networks import WITHOUT_SHAPES
from refused.planned import MACS, PROBLEM
from refused.recovered import MEASURED
from refused.rows import Row
from refused.values import (
    CALLABLES,
    COUNTS,
    GRAPH,
    NAN,
    POSITIVES,
    RATIOS,
    VARIABLES,
    Arg,
    G,
    K,
    V,
    W,
    X,
    bad,
    without,
)


def price(keep: Any) -> float:
    """An evaluator that runs nothing."""
    return -float(sum(np.sum(kept) for kept in keep.values()))


def same(variables: Any, _: Any) -> Any:
    """A recovery that changes nothing, which needs variables to begin with."""
    return variables


P = Arg(PROBLEM, bad(None, 3, "problem", {}, []) | {"graph": GRAPH}, "problem")
GIVES = {
    "nothing": lambda *_: None,
    "words": lambda *_: "low",
    "NaN": lambda *_: NAN,
    "a vector": lambda *_: np.ones(2),
}
NO_SCORES = {"nothing": lambda *_: None, "words": lambda *_: {"x": "high"}, "none": lambda *_: {}}
NO_COSTS = {"nothing": lambda *_: None, "words": lambda *_: "dear"}
E = Arg(price, CALLABLES | GIVES, "evaluate")
JOURNAL = Arg(None, bad(3, 0.5, [], {}, True), "path")
NUMBER = Arg(0.5, {})  # what `netadapt` hands on
SEED = Arg(0, without(COUNTS, "0"), "seed")
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
    "plan.plot": Row(
        jp.plan.plot,
        {
            "allocation": Arg(
                jp.plan.uniform(PROBLEM),
                bad(None, 3, "plan", {}, []) | {"problem": PROBLEM},
                "Allocation",
            ),
            "axes": Arg(None, bad(3, "x", [], {}, [1, 2], True), "axes"),
        },
    ),
    "plan.uniform": Row(jp.plan.uniform, {"problem": P, "widths": W}),
    "plan.evolution": Row(
        partial(jp.plan.evolution, generations=1, offspring=2),
        {
            "problem": P,
            "evaluate": Arg(price, CALLABLES | GIVES | bad([price, None], (price, 3)), "evaluat"),
            "generations": Arg(1, COUNTS, "generations"),
            "offspring": Arg(2, COUNTS, "offspring"),
            "survivors": Arg(
                None, bad(3, "1", [], [0], [2], [1, 1], [1.0], ["1"], {1: 1}, [True]), "survivors"
            ),
            "swaps": Arg(3, COUNTS, "swaps"),
            "seed": SEED,
            "journal": JOURNAL,
        },
    ),
    "plan.random_search": Row(
        partial(jp.plan.random_search, draws=2),
        {
            "problem": P,
            "evaluate": E,
            "draws": Arg(2, COUNTS, "draws"),
            "seed": SEED,
            "journal": JOURNAL,
        },
    ),
    "plan.optuna_search": Row(
        partial(jp.plan.optuna_search, trials=2),
        {
            "problem": P,
            "evaluate": E,
            "trials": Arg(2, COUNTS, "trials"),
            "sampler": Arg(None, bad(3, "tpe", [], {}, object()), "sampler"),
            "seed": SEED,
            "journal": JOURNAL,
        },
    ),
    "plan.netadapt": Row(
        jp.plan.netadapt,
        {
            "problem": P,
            "evaluate": E,
            "recover": Arg(None, without(CALLABLES, "None") | bad(same), "recover"),
            "variables": Arg(None, {}),
            "first": Arg(0.025, without(RATIOS, "1.0"), "first"),
            "decay": Arg(0.96, without(RATIOS, "1.0"), "decay"),
            "rounds": Arg(100, COUNTS, "rounds"),
            "prefer": Arg(jp.plan.rise_alone, CALLABLES | GIVES, "prefer"),
            "rescore": Arg(None, without(CALLABLES, "None") | bad(jp.scores.l2), "rescore"),
            "journal": JOURNAL,
        },
    ),
    "plan.rise_alone": Row(jp.plan.rise_alone, {"rise": NUMBER, "saved": NUMBER}),
    "plan.rise_per_cost": Row(jp.plan.rise_per_cost, {"rise": NUMBER, "saved": NUMBER}),
    "plan.amc": Row(
        partial(jp.plan.amc, episodes=1, warmup=1, hidden=4),
        {
            "problem": P,
            "evaluate": E,
            "recover": Arg(None, without(CALLABLES, "None") | bad(same), "recover"),
            "variables": Arg(None, {}),
            "episodes": Arg(1, COUNTS, "episodes"),
            "warmup": Arg(1, COUNTS, "warmup"),
            "noise": Arg(0.5, POSITIVES, "noise"),
            "noise_decay": Arg(0.95, without(RATIOS, "1.0"), "noise_decay"),
            "hidden": Arg(4, COUNTS, "hidden"),
            "seed": SEED,
            "journal": JOURNAL,
        },
    ),
    "plan.play_and_prune": Row(
        partial(jp.plan.play_and_prune, rounds=1),
        {
            "problem": P,
            "evaluate": Arg(lambda keep, _: price(keep), CALLABLES | GIVES, "evaluate"),
            "train": Arg(lambda variables, *_: variables, CALLABLES, "train"),
            "variables": Arg(VARIABLES, bad(None), "variables"),
            "scores": Arg(jp.scores.l1, CALLABLES | NO_SCORES, "scores"),
            "tolerance": Arg(0.01, POSITIVES, "tolerance"),
            "share": Arg(0.05, without(RATIOS, "1.0"), "share"),
            "strength": Arg(1e-4, without(POSITIVES, "0"), "strength"),
            "threshold": Arg(None, without(POSITIVES, "0", "None"), "threshold"),
            "gain": Arg(1.0, POSITIVES, "gain"),
            "grow": Arg(1.0, POSITIVES | bad(0.5), "grow"),
            "rounds": Arg(1, COUNTS, "rounds"),
            "journal": JOURNAL,
        },
    ),
    "plan.energy_aware": Row(
        jp.plan.energy_aware,
        {
            "problem": P,
            "energy": Arg(MACS, CALLABLES | NO_COSTS, "energy"),
            "evaluate": E,
            "recover": Arg(None, without(CALLABLES, "None") | bad(same), "recover"),
            "variables": Arg(None, {}),
            "rise": Arg(0.01, POSITIVES, "rise"),
            "journal": JOURNAL,
        },
    ),
}
