"""The rows of `schedule`."""

from functools import partial
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from refused.penalties import PARAMETERS, UPDATES
from refused.rows import ABSENT, CONSTRAINTS, MEMBERS, NAMED, Row
from refused.values import (
    BAD_SCORES,
    CALLABLES,
    COUNTS,
    FLAGS,
    GRAPH,
    GRAPHS,
    KEEP,
    KEEPS,
    NAN,
    PARAMS,
    RATIOS,
    STRENGTHS,
    TREES,
    TX,
    VARIABLES,
    A,
    Arg,
    G,
    S,
    V,
    bad,
    without,
)

schedule = jp.schedule

TRAINING = schedule.Training(epochs=1, rates=schedule.constant(0.1))
PHASE = schedule.Phase(
    kind="tick",
    number=1,
    rounds=1,
    milestone=0,
    training=TRAINING,
    prune=schedule.Prune(prune_ratio=0.1),
)
JSON = schedule.to_json(PHASE)
CURVE = Arg(0.1, STRENGTHS, "rate")
RATES = Arg(
    ((0.0, 0.1),),
    bad(
        None,
        3,
        0.1,
        "rates",
        (),
        ((0.5, 0.1),),
        ((0.0, -1.0),),
        ((0.0, "1"),),
        (("0", 0.1),),
        ((0.0,),),
        ((0.0, 0.1), (2.0, 0.1)),
        ((0.0, NAN),),
        ((NAN, 0.1),),
        (None,),
    ),
    "rates",
)
TRAININGS = Arg(TRAINING, bad(None, 3, "training", {}, PHASE), "[Tt]raining")
FINETUNE = Arg((), bad(None, 3, "x", TRAINING, (3,), ("x",)), "finetune")
TARGETS = Arg(
    0.5,
    bad("0.5", None, NAN, -0.1, 1.0, 0, True, 1j, [], [0.5, 0.7], [0.5, 0.5], ["0.5"], {}),
    "keep_macs",
)
BEGUN = schedule.begin(GRAPH)


def walked(make: Any) -> Any:
    """The call that makes a plan and asks it for its phases."""

    def call(done: Any = None, left: Any = 1.0, **kwargs: Any) -> Any:
        return make(**kwargs)(done, left)

    return call


ASKED = {
    "done": Arg(None, bad(3, "tick", {}, JSON), "phase"),
    "left": Arg(1.0, bad("1", None, NAN, [1.0], True), "left"),
}
ROWS: dict[str, Row] = {
    "schedule.Training": Row(
        schedule.Training,
        {
            "epochs": Arg(1, COUNTS, "epochs"),
            "rates": RATES,
            "part": Arg(schedule.Part.ALL, bad(None, 3, "some", [], {}), "part"),
            **{
                name: Arg(0.1, STRENGTHS, name) for name in ("strength", "momentum", "weight_decay")
            },
            "data": Arg(1.0, bad("1", None, NAN, -0.1, 1.5, True, [0.5], 1j, 0), "data"),
        },
    ),
    "schedule.Prune": Row(
        schedule.Prune,
        {
            "prune_ratio": Arg(0.1, without(RATIOS, "None"), "prune_ratio"),
            "of": Arg(schedule.Quota.LEFT, bad(None, 3, "some", [], {}), "of must"),
            "keep_macs": Arg(
                0.5,
                without(RATIOS, "None", "1.0") | bad(0),
                "keep_macs",
            ),
        },
    ),
    "schedule.Phase": Row(
        schedule.Phase,
        {
            "kind": Arg("tick", bad(None, 3, [], b"tick"), "kind"),
            **{
                name: Arg(1, bad(-1, 1.5, "3", None, True, NAN), name)
                for name in ("number", "rounds", "milestone")
            },
            "training": Arg(TRAINING, bad(3, "training", {}), "training"),
            "prune": Arg(None, bad(3, "prune", {}, 0.5), "prune"),
            "commit": Arg(False, FLAGS, "commit"),
            "groups": Arg(None, bad(3, A, [A], (3,), (None,), {A: 1}), "groups"),
        },
    ),
    "schedule.Training.learning_rate": Row(
        lambda steps: TRAINING.learning_rate(steps), {"steps": Arg(3, COUNTS, "steps")}
    ),
    "schedule.constant": Row(schedule.constant, {"rate": CURVE}),
    "schedule.triangular": Row(schedule.triangular, {"low": CURVE, "high": CURVE}),
    "schedule.stepped": Row(
        schedule.stepped,
        {
            "rate": CURVE,
            "at": Arg((0.5,), bad(None, 3, "x", (-1,), (2,), (0.7, 0.5), ("0.5",), (NAN,)), "at"),
            "factor": Arg(0.1, STRENGTHS, "factor"),
        },
    ),
    "schedule.from_json": Row(
        schedule.from_json,
        {
            "value": Arg(
                JSON,
                bad(None, 3, "phase", [], {}, {"kind": "tick"})
                | {
                    f"{name}={value!r}": JSON | {name: value}
                    for name, value in (
                        ("training", 3),
                        ("training", {}),
                        ("training", "x"),
                        ("training", {"epochs": 1}),
                        ("prune", 3),
                        ("prune", {}),
                        ("prune", {"prune_ratio": 0.5}),
                        ("number", "1"),
                        ("kind", 3),
                        ("commit", "yes"),
                    )
                }
                | {
                    "bad part": JSON | {"training": JSON["training"] | {"part": "some"}},
                    "bad rates": JSON | {"training": JSON["training"] | {"rates": 3}},
                    "bad rate": JSON | {"training": JSON["training"] | {"rates": [[0.0]]}},
                    "bad of": JSON | {"prune": JSON["prune"] | {"of": "some"}},
                },
                "phase|training|prune|part|rates|of",
            )
        },
    ),
    "schedule.to_json": Row(
        schedule.to_json,
        {"phase": Arg(PHASE, bad(None, 3, "tick", {}, TRAINING, schedule.Phase), "phase")},
    ),
    "schedule.tick_tock": Row(
        walked(schedule.tick_tock),
        {
            "keep_macs": TARGETS,
            "prune_ratio": Arg(0.1, RATIOS, "prune_ratio"),
            "ticks": Arg(2, COUNTS, "ticks"),
            "tick": TRAININGS,
            "tock": TRAININGS,
            "finetune": FINETUNE,
            **ASKED,
        },
    ),
    "schedule.tick_only": Row(
        walked(schedule.tick_only),
        {
            "keep_macs": TARGETS,
            "prune_ratio": Arg(0.1, RATIOS, "prune_ratio"),
            "tick": TRAININGS,
            "finetune": FINETUNE,
            **ASKED,
        },
    ),
    "schedule.iterative": Row(
        walked(schedule.iterative),
        {
            "keep_macs": TARGETS,
            "prune_ratio": Arg(0.1, RATIOS, "prune_ratio"),
            "training": TRAININGS,
            "finetune": FINETUNE,
            **ASKED,
        },
    ),
    "schedule.one_shot": Row(
        walked(schedule.one_shot),
        {"keep_macs": TARGETS, "score": TRAININGS, "finetune": FINETUNE, **ASKED},
    ),
    "schedule.agp": Row(
        walked(schedule.agp),
        {
            "prune_ratio": Arg(0.5, RATIOS, "prune_ratio|ramp"),
            "rounds": Arg(2, COUNTS, "rounds"),
            "training": TRAININGS,
            "initial": Arg(0.0, RATIOS, "initial|ramp"),
            "power": Arg(3.0, STRENGTHS | bad(0), "power"),
            "of": Arg(schedule.Quota.MACS, bad(None, 3, "some", schedule.Quota.LEFT), "of"),
            "finetune": FINETUNE,
            **ASKED,
        },
    ),
    "schedule.asymptotic": Row(
        schedule.asymptotic,
        {
            "prune_ratio": Arg(0.5, without(RATIOS, "1.0"), "prune_ratio"),
            "steps": Arg(10, COUNTS, "steps"),
            "early": Arg(0.125, RATIOS | bad(0, 0.75), "early"),
        },
    ),
    "schedule.layerwise": Row(
        walked(schedule.layerwise),
        {
            "groups": Arg([A], bad(None, 3, [], [3], [None], [A, A], 0.5), "groups"),
            "prune_ratio": Arg(0.5, RATIOS | bad(0), "prune_ratio"),
            "training": Arg(TRAINING, without(TRAININGS.bad, "None"), "[Tt]raining"),
            "finetune": FINETUNE,
            **ASKED,
        },
    ),
    "schedule.phases": Row(
        lambda **k: list(schedule.phases(**k)),
        {
            "plan": Arg(lambda *_: None, CALLABLES, "plan"),
            "left": Arg(lambda: 1.0, CALLABLES, "left"),
            "after": Arg(None, bad(3, "tick", {}), "phase"),
        },
    ),
    "schedule.masked_updates": Row(
        lambda tx, graph, trained, updates, params, keep: (
            made := schedule.masked_updates(tx, graph, trained)
        ).update(updates, made.init(params), params, keep=keep),
        {
            "tx": Arg(TX, bad(None, 3, "adam", {}), "tx"),
            "graph": G,
            "trained": Arg(
                None,
                bad(3, "x", {"a": True}, [True]) | {"numbers": jax.tree.map(lambda _: 3, PARAMS)},
                "train",
            ),
            "updates": UPDATES,
            "params": PARAMETERS,
            "keep": Arg(KEEP, without(KEEPS, "None"), "keep"),
        },
    ),
    "schedule.trainable": Row(
        schedule.trainable,
        {
            "part": Arg(schedule.Part.GATES, bad(None, 3, "some", [], {}), "part"),
            "graph": G,
            "variables": V._replace(
                bad=without(TREES, "other shapes"), says="variable|tree|parameter"
            ),
            "head": Arg((), NAMED, "head"),
            "groups": Arg(None, bad(3, [3], [None], 0.5), "groups"),
        },
    ),
    "schedule.trainable(READERS)": Row(
        partial(schedule.trainable, GRAPH, VARIABLES, schedule.Part.READERS),
        {"groups": Arg([A], bad(None, 3, [], "nope", [A, "nope"], [3], [None], 0.5), "groups")},
    ),
    "schedule.trainable(ALL)": Row(
        partial(schedule.trainable, GRAPH, VARIABLES, schedule.Part.ALL),
        {"head": Arg((), bad(["params/c/*"]), "head")},
    ),
    "schedule.begin": Row(
        schedule.begin,
        {
            "graph": G,
            "keep_macs": Arg(0.9, without(RATIOS, "None", "1.0"), "keep_macs"),
            "members": MEMBERS,
            "ties": Arg(
                None,
                without(CALLABLES, "None"),
                "ties",
            ),
            **{n: a for n, a in CONSTRAINTS.items() if n != "within"},
            "within": Arg(ABSENT, bad(3, KEEP), "within"),
        },
    ),
    "schedule.Progress.prune": Row(
        BEGUN.prune,
        {
            "prune": Arg(schedule.Prune(prune_ratio=0.2), bad(None, 3, 0.5, "x", {}), "[Pp]rune"),
            "scores": S,
        },
    ),
    "schedule.Progress.commit": Row(BEGUN.commit, {"graph": G}),
    "schedule.Progress.left": Row(BEGUN.left, {"cost": Arg(jp.cost.macs, CALLABLES, "cost")}),
    "schedule.Progress.restored": Row(
        BEGUN.restored,
        {
            "value": Arg(
                BEGUN.to_json(),
                bad(None, 3, "x", {}, {"committed": 3, "total": 3}, {"total": {}}),
                "progress|spec",
            ),
            "graph": Arg(None, without(GRAPHS, "None"), "graph"),
        },
    ),
    "schedule.tally": Row(
        schedule.tally,
        {"graph": G, "groups": Arg([A], bad([], 3, ["nope"], [3], [None], "nope", 0.5), "group")},
    ),
    "schedule.Tally.add": Row(
        schedule.tally(GRAPH, [A]).add,
        {
            "scores": Arg(
                {A: np.ones(4)},
                without(BAD_SCORES, "{a: NaN}"),
                "score",
            )
        },
    ),
}
