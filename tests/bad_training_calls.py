"""The rows of `sparsify`, `schedule` and `slimmable`; see `bad_calls`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from bad_calls import CONSTRAINTS, MEMBERS, ROLES, RULE, Row
from bad_values import (
    CALLABLES,
    COUNTS,
    FLAGS,
    GRAPH,
    KEEP,
    MODEL,
    NAN,
    NO_MAPPINGS,
    ONLY,
    PARAMS,
    PATTERNS,
    PROTECT,
    RATIOS,
    STRENGTHS,
    TX,
    VARIABLES,
    A,
    Arg,
    B,
    G,
    K,
    S,
    V,
    X,
    bad,
)

schedule, slimmable, sparsify = jp.schedule, jp.slimmable, jp.sparsify

# sparsify: each transformation is made, initialized and updated.

MASK = jp.scale_mask(VARIABLES)
STRENGTH = Arg(1e-3, STRENGTHS, "strength")
RATE = Arg(0.1, STRENGTHS, "learning_rate")
SLOPES = jax.tree.map(jnp.ones_like, PARAMS)
UPDATES = Arg(
    SLOPES,
    bad(None, 3, "tree", {"a": X}, [X]) | {"strings": jax.tree.map(lambda _: "x", PARAMS)},
    "updates|gradients|tree|parameters",
)
PARAMETERS = Arg(
    PARAMS,
    bad(3, "tree", {"a": X}, [X]) | {"strings": jax.tree.map(lambda _: "x", PARAMS)},
    "parameters|tree",
)
STATES = Arg(None, bad(3, "state", {}, ()), "state")
MASKS = Arg(
    MASK,
    bad(3, "mask", {"a": True}, [True])
    | {
        "numbers": jax.tree.map(lambda _: 3, PARAMS),
        "strings": jax.tree.map(lambda _: "x", PARAMS),
    },
    "mask",
)
MASKED = {"strength": STRENGTH, "mask": MASKS}
GROUPS = {
    "size_norm": Arg(False, FLAGS, "size_norm"),
    "view": Arg(
        lambda params, variables: params,
        {n: v for n, v in CALLABLES.items() if n != "None"},
        "view",
    ),
    "only": ONLY,
    "protect": PROTECT,
    "protct": Arg(..., bad(["a/kernel"], None), "protect"),
    "within": Arg(..., bad({}), "option"),
}
UPDATED = {"updates": UPDATES, "params": PARAMETERS, "state": STATES}


def stepped(make: Any) -> Any:
    """The call that makes a transformation, initializes it and updates with it."""

    def call(updates: Any, params: Any, state: Any, **kwargs: Any) -> Any:
        tx = make(**kwargs)
        return tx.update(updates, tx.init(params) if state is None else state, params)

    return call


def row(make: Any, **args: Arg) -> Row:
    return Row(stepped(make), {**args, **UPDATED})


SPARSIFY = {
    "l1_bn_scale": row(sparsify.l1_bn_scale, **MASKED),
    "smooth_l1_bn_scale": row(
        sparsify.smooth_l1_bn_scale, **MASKED, width=Arg(0.1, STRENGTHS | bad(0), "width")
    ),
    "proximal_l1_bn_scale": row(sparsify.proximal_l1_bn_scale, **MASKED, learning_rate=RATE),
    "l1_gates": row(sparsify.l1_gates, strength=STRENGTH, mask=MASKS),
    "oicsr": row(
        sparsify.oicsr,
        graph=G,
        strength=STRENGTH,
        **GROUPS,
        roles=Arg(..., bad(("out",)), "option"),
    ),
    "group_lasso": row(
        sparsify.group_lasso,
        graph=G,
        strength=STRENGTH,
        roles=ROLES._replace(bad={**ROLES.bad, "vector": ("vector",)}),
        **GROUPS,
    ),
    "structured": row(
        sparsify.structured,
        graph=G,
        penalty=Arg(jnp.sum, CALLABLES, "penalty"),
        strength=STRENGTH,
        roles=ROLES,
        **GROUPS,
    ),
    "proximal_structured": row(
        sparsify.proximal_structured,
        graph=G,
        prox=Arg(lambda n, t: jnp.maximum(n - t, 0), CALLABLES, "prox"),
        learning_rate=RATE,
        strength=STRENGTH,
        roles=ROLES,
        only=ONLY,
        protect=PROTECT,
    ),
    "growl": Row(
        lambda weights, norms: sparsify.growl(weights)(norms),
        {
            "weights": Arg(lambda n: jnp.ones(n), CALLABLES, "weights"),
            "norms": Arg(jnp.ones(3), bad(None, "x", {}, 3), "norms"),
        },
    ),
    "growl_prox": Row(
        sparsify.growl_prox,
        {
            "norms": Arg(jnp.ones(3), bad(None, "x", {}, 3), "norms"),
            "weights": Arg(jnp.ones(3), bad(None, "x", {}, 3, jnp.ones(2)), "weights"),
        },
    ),
    "growl_weights": Row(
        sparsify.growl_weights,
        {
            "size": Arg(4, COUNTS, "size"),
            "base": Arg(1.0, STRENGTHS, "base"),
            "step": Arg(0.5, STRENGTHS, "step"),
            "ramp": Arg(1.0, STRENGTHS | bad(1.5), "ramp"),
        },
    ),
    "fold_batch_norm": Row(
        lambda graph, epsilon, params, variables: sparsify.fold_batch_norm(graph, epsilon=epsilon)(
            params, variables
        ),
        {
            "graph": G,
            "epsilon": Arg(1e-5, STRENGTHS, "epsilon"),
            "params": PARAMETERS,
            "variables": Arg(VARIABLES, bad(None, 3, "tree", {"a": X}), "variables|variances"),
        },
    ),
}

# schedule

TRAINING = schedule.Training(epochs=1, rates=schedule.constant(0.1))
PHASE = schedule.Phase(
    kind="tick", number=1, rounds=1, milestone=0, training=TRAINING, prune=schedule.Prune(share=0.1)
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
SCHEDULE = {
    "Training": Row(
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
    "Prune": Row(
        schedule.Prune,
        {
            "share": Arg(0.1, {n: v for n, v in RATIOS.items() if n != "None"}, "share"),
            "of": Arg(schedule.Quota.LEFT, bad(None, 3, "some", [], {}), "of must"),
            "keep_macs": Arg(
                0.5,
                {n: v for n, v in RATIOS.items() if n not in ("None", "1.0")} | bad(0),
                "keep_macs",
            ),
        },
    ),
    "Phase": Row(
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
        },
    ),
    "Training.learning_rate": Row(
        lambda steps: TRAINING.learning_rate(steps), {"steps": Arg(3, COUNTS, "steps")}
    ),
    "constant": Row(schedule.constant, {"rate": CURVE}),
    "triangular": Row(schedule.triangular, {"low": CURVE, "high": CURVE}),
    "stepped": Row(
        schedule.stepped,
        {
            "rate": CURVE,
            "at": Arg((0.5,), bad(None, 3, "x", (-1,), (2,), (0.7, 0.5), ("0.5",), (NAN,)), "at"),
            "factor": Arg(0.1, STRENGTHS, "factor"),
        },
    ),
    "from_json": Row(
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
                        ("prune", {"share": 0.5}),
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
    "to_json": Row(
        schedule.to_json,
        {"phase": Arg(PHASE, bad(None, 3, "tick", {}, TRAINING, schedule.Phase), "phase")},
    ),
    "tick_tock": Row(
        walked(schedule.tick_tock),
        {
            "keep_macs": TARGETS,
            "share": Arg(0.1, RATIOS, "share"),
            "ticks": Arg(2, COUNTS, "ticks"),
            "tick": TRAININGS,
            "tock": TRAININGS,
            "finetune": FINETUNE,
            **ASKED,
        },
    ),
    "tick_only": Row(
        walked(schedule.tick_only),
        {
            "keep_macs": TARGETS,
            "share": Arg(0.1, RATIOS, "share"),
            "tick": TRAININGS,
            "finetune": FINETUNE,
            **ASKED,
        },
    ),
    "iterative": Row(
        walked(schedule.iterative),
        {
            "keep_macs": TARGETS,
            "share": Arg(0.1, RATIOS, "share"),
            "training": TRAININGS,
            "finetune": FINETUNE,
            **ASKED,
        },
    ),
    "one_shot": Row(
        walked(schedule.one_shot),
        {"keep_macs": TARGETS, "score": TRAININGS, "finetune": FINETUNE, **ASKED},
    ),
    "agp": Row(
        walked(schedule.agp),
        {
            "final": Arg(0.5, RATIOS, "final|ramp"),
            "rounds": Arg(2, COUNTS, "rounds"),
            "training": TRAININGS,
            "initial": Arg(0.0, {n: v for n, v in RATIOS.items()}, "initial|ramp"),
            "power": Arg(3.0, STRENGTHS | bad(0), "power"),
            "of": Arg(schedule.Quota.MACS, bad(None, 3, "some", schedule.Quota.LEFT), "of"),
            "finetune": FINETUNE,
            **ASKED,
        },
    ),
    "phases": Row(
        lambda **k: list(schedule.phases(**k)),
        {
            "plan": Arg(lambda done, left: None, CALLABLES, "plan"),
            "left": Arg(lambda: 1.0, CALLABLES, "left"),
            "after": Arg(None, bad(3, "tick", {}), "phase"),
        },
    ),
    "held": Row(
        lambda tx, graph, trained, updates, params, keep: (
            made := schedule.held(tx, graph, trained)
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
            "keep": Arg(KEEP, {n: v for n, v in K.bad.items() if n != "None"}, "keep"),
        },
    ),
    "trained": Row(
        schedule.trained,
        {
            "part": Arg(schedule.Part.GATES, bad(None, 3, "some", [], {}), "part"),
            "graph": G,
            "variables": V,
            "head": Arg((), {n: v for n, v in PATTERNS.items() if "kind" not in n}, "head"),
        },
    ),
    "trained(ALL)": Row(
        partial(schedule.trained, schedule.Part.ALL, GRAPH, VARIABLES),
        {"head": Arg((), bad(["params/c/*"]), "head")},
    ),
    "begin": Row(
        schedule.begin,
        {
            "graph": G,
            "keep_macs": Arg(
                0.9, {n: v for n, v in RATIOS.items() if n not in ("None", "1.0")}, "keep_macs"
            ),
            "members": MEMBERS,
            "rule": Arg(
                None,
                {n: v for n, v in RULE.bad.items() if n not in ("None", "a bad answer")},
                "rule",
            ),
            **{n: a for n, a in CONSTRAINTS.items() if n != "within"},
            "within": Arg(..., bad(3, KEEP), "within"),
        },
    ),
    "Progress.prune": Row(
        BEGUN.prune,
        {
            "prune": Arg(schedule.Prune(share=0.2), bad(None, 3, 0.5, "x", {}), "[Pp]rune"),
            "scores": S,
        },
    ),
    "Progress.commit": Row(BEGUN.commit, {"graph": G}),
    "Progress.left": Row(BEGUN.left, {"cost": Arg(jp.cost.macs, CALLABLES, "cost")}),
    "Progress.restored": Row(
        BEGUN.restored,
        {
            "value": Arg(
                BEGUN.to_json(),
                bad(None, 3, "x", {}, {"committed": 3, "total": 3}, {"total": {}}),
                "progress|spec",
            ),
            "graph": Arg(None, {n: v for n, v in G.bad.items() if n != "None"}, "graph"),
        },
    ),
    "tally": Row(
        schedule.tally,
        {"graph": G, "groups": Arg([A], bad([], 3, ["nope"], [3], [None], "nope", 0.5), "group")},
    ),
    "Tally.add": Row(
        schedule.tally(GRAPH, [A]).add,
        {
            "scores": Arg(
                {A: np.ones(4)},
                {**NO_MAPPINGS, **{n: v for n, v in S.bad.items() if n not in ("{a: NaN}",)}},
                "score",
            )
        },
    ),
}

# slimmable

slim = slimmable
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
TRAINED = Arg(None, {n: v for n, v in KEEPS_BY_NAME.items() if n != "None"}, "width|keep")
ROUNDING = {
    "divisor": Arg(1, COUNTS, "divisor"),
    "min_channels": Arg(1, COUNTS, "min_channels"),
    "supernet": Arg(1.0, bad("1", None, NAN, -1, 0, True, [1.0], float("inf")), "supernet"),
    "expansion": Arg({A: 1}, bad(None, 3, "a", {"nope": 1}, {A: 0}, {A: 1.5}, {3: 1}), "expansion"),
    "protect": PROTECT,
    "protct": Arg(..., bad([B]), "protect"),
    "only": Arg(..., bad([B]), "option"),
}
RNG = bad(None, 3, "rng", jax.random.key(0), np.random)
LOW = Arg(0.3, bad("0.5", None, NAN, -0.1, 0, True, [0.5], 1j, 2.0), "width")
HIGH = Arg(0.9, LOW.bad, "width")


def rng() -> Arg:
    return Arg(np.random.default_rng(0), RNG, "rng")


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
    | {"few": lambda c: [], "NaN": lambda c: [NAN] * len(c), "words": lambda c: ["x"] * len(c)},
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
    "rng": rng(),
    "cost": COST,
}
SLIMMABLE = {
    "calibrate": Row(
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
    "evolve": Row(
        slim.evolve,
        {
            **SEARCHED,
            "population": Arg(2, COUNTS | bad(1), "population"),
            "generations": Arg(1, COUNTS, "generations"),
            "mutation": Arg(0.1, {n: v for n, v in RATIOS.items() if n != "1.0"}, "mutation"),
        },
    ),
    "random_search": Row(slim.random_search, {**SEARCHED, "samples": Arg(2, COUNTS, "samples")}),
    "check_targets": Row(
        slim.check_targets, {"graph": G, "space": SPACES, "targets": SOME, "cost": COST}
    ),
    "descent": Row(
        lambda **k: list(slim.descent(**k)),
        {
            "evaluate": EVALUATE,
            "space": Arg(SPACE, bad(None, 3, "space", {A: ()}, {A: 3}), "space"),
        },
    ),
    "evaluator": Row(
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
    "greedy": Row(
        slim.greedy,
        {"evaluate": EVALUATE, "graph": G, "space": SPACES, "targets": SOME, "cost": COST},
    ),
    "measured": Row(
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
    "space": Row(
        slim.space,
        {
            "graph": G,
            "parts": Arg(2, COUNTS, "parts"),
            "divisor": Arg(1, COUNTS, "divisor"),
            "min_keep_ratio": Arg(
                0.1, {n: v for n, v in RATIOS.items() if n != "1.0"}, "min_keep_ratio"
            ),
            "protect": PROTECT,
        },
    ),
    "estimate_fps": Row(
        slim.estimate_fps,
        {
            "macs": Arg(1e6, bad("1", None, NAN, -1, 0, True, [1.0], 1j), "macs"),
            "device": Arg(
                slim.MOBILE_SOC, bad("1", None, NAN, -1, 0, True, (1.0,), ("a", "b"), {}), "device"
            ),
        },
    ),
    "export": Row(
        slim.export,
        {
            "network": SERVED,
            "graph": G,
            "params": SPLIT,
            "rest": REST,
            "name": Arg(0.5, bad(0.3, None, [], "x"), "width"),
            "keep": Arg(HALF, K.bad, "keep"),
        },
    ),
    "spectrum": Row(
        slim.spectrum,
        {
            "graph": G,
            "widths": Arg(WIDE, KEEPS_BY_NAME, "width|keep"),
            "accuracy": Arg(lambda w: 0.5, CALLABLES, "column"),
        },
    ),
    "switch": Row(
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
    "Switch.at": Row(
        slim.switch(served, GRAPH, *PARTS, WIDE).at,
        {"width": Arg(0.5, bad(0.3, None, "x", [], {}), "width")},
    ),
    "split": Row(
        slim.split,
        {
            "graph": G,
            "variables": V,
            "widths": Arg(WIDE, WIDTHS.bad | {"no order": {1.0: {}, "x": {}}}, "width|keep|names"),
            "private": Arg(None, {n: v for n, v in PATTERNS.items() if "kind" not in n}, "private"),
        },
    ),
    "statistics": Row(slim.statistics, {"variables": Arg(VARIABLES, bad(3, "mean", X), "")}),
    "switchable": Row(slim.switchable, {"variables": Arg(VARIABLES, bad(3, "mean", X), "")}),
    "variables": Row(
        slim.variables,
        {
            "graph": G,
            "params": SPLIT,
            "rest": REST,
            "name": Arg(0.5, bad(0.3, None, []), "width"),
            "keep": Arg(HALF, K.bad, "keep"),
        },
    ),
    "distillation": Row(
        lambda **k: slim.distillation(**k),
        {
            "temperature": Arg(
                1.0, bad("1", None, NAN, -1, 0, True, [1.0], 1j, float("inf")), "temperature"
            ),
            "mix": Arg(
                0.5,
                {n: v for n, v in RATIOS.items() if n != "1.0"} | {"1.0 with a loss": 1.0},
                "mix",
            ),
            "loss": Arg(error, CALLABLES, "loss"),
        },
    ),
    "gradients": Row(
        lambda params, rest, widths, inputs, targets, **k: slim.gradients(**k)(
            params, rest, widths, inputs, targets
        ),
        {
            "network": NETWORK,
            "graph": G,
            "loss": Arg(error, CALLABLES, "loss"),
            "distill": Arg(None, {n: v for n, v in CALLABLES.items() if n != "None"}, "distill"),
            "params": SPLIT,
            "rest": REST,
            "widths": WIDTHS,
            "inputs": Arg(BATCH, bad("x", object(), ["x"]), "input"),
            "targets": Arg(LABELS, bad("x", object()), "target"),
        },
    ),
    "make_divisible": Row(
        slim.make_divisible,
        {
            "value": Arg(12.0, bad("1", None, NAN, -1, True, [1.0], 1j, float("inf")), "value"),
            "divisor": Arg(8, COUNTS, "divisor"),
            "least": Arg(1, COUNTS, "least"),
        },
    ),
    "prefix": Row(
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
    "uniform": Row(slim.uniform, {"graph": G, "rng": rng(), "low": LOW, "high": HIGH, **ROUNDING}),
    "nonuniform": Row(
        slim.nonuniform, {"graph": G, "rng": rng(), "low": LOW, "high": HIGH, **ROUNDING}
    ),
    "outside": Row(
        slim.outside,
        {
            "graph": G,
            "keep": K,
            "trained": Arg(
                [HALF], bad(None, 3, "x", [], [3], [None], [{"nope": HALF[A]}]), "width|keep"
            ),
        },
    ),
    "sandwich": Row(
        slim.sandwich,
        {
            "widths": Arg(WIDE, WIDTHS.bad, "width|keep|sandwich"),
            "rng": rng(),
            "n": Arg(2, COUNTS | bad(1), "n="),
        },
    ),
}
TRAINING_ROWS = {
    f"{package}.{name}": row
    for package, rows in (("sparsify", SPARSIFY), ("schedule", SCHEDULE), ("slimmable", SLIMMABLE))
    for name, row in rows.items()
}
