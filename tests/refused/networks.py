"""The rows of `gates`, `linen`, `nnx`, `recover` and `scores`."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxprune as jp
from refused.rows import (
    ABSENT,
    GATES,
    INPUT,
    NORMALIZERS,
    OPTIONAL_GRAPH,
    PRUNED,
    REDUCE,
    ROLES,
    TRACED,
    Row,
    later,
    splat,
)
from refused.values import (
    BAD_SCORES,
    CALLABLES,
    FUNCTIONS,
    GRADIENTS,
    KEEPS,
    MODEL,
    MODULES,
    NAN,
    NO_MAPPINGS,
    PLAIN_GRAPH,
    SCORES,
    TREES,
    TWIN,
    TWIN_GRAPH,
    TWIN_KEEP,
    TX,
    VARIABLES,
    A,
    Arg,
    F,
    G,
    K,
    V,
    X,
    apply,
    bad,
    plain,
    train,
    without,
)

GATE = Arg({A: np.ones(4, np.float32)}, GATES, "gate")
KEY = Arg(jax.random.key(0), bad(None, "key", 0.5, [], X), "key")
METHOD = Arg("__call__", bad(None, 3, "nope", []), "method")
NNX = {"model": Arg(TWIN, MODULES, "Module"), "graph": Arg(TWIN_GRAPH, G.bad, "graph")}
UNTAKEN = Arg(ABSENT, bad(True, 3), "near: .*strict")
NNX_KEEP = Arg(TWIN_KEEP, without(KEEPS, "a good one beside"), "keep")
OPTIMIZER = nnx.Optimizer(TWIN, TX, wrt=nnx.Param)
OVERRIDES = Arg(
    None, bad(3, "a", [1], {"nope": {}}, {"a": 3}, {"a": None}, {3: {}}, {"a": {3: 1}}), "overrid"
)
SLOPES = Arg(GRADIENTS, TREES, "tree|gradient|no group has a score")
SCALED = V._replace(says="variable|tree|no group has a score")
WITHOUT_SHAPES = V._replace(bad=without(TREES, "other shapes"))
NO_NUMBERS = without(
    BAD_SCORES, "empty", "an unknown group", "a number for a name", "{a: short}", "{a: wide}",
    "{a: a scalar}",
)  # fmt: skip
ONE_GROUP = Arg(
    SCORES[A], bad(None, 3, "x", [], {}, SCORES, ["a"], [[1.0], [1.0, 2.0]], apply), "one group"
)


def statistics(v, x):
    return train(v, x)[1]


ROWS: dict[str, Row] = {
    "gates.gated": Row(
        later(jp.gated, "variables", "gates"),
        {"fn": F, "graph": G, "variables": V, "gates": GATE, "inputs": INPUT},
    ),
    "gates.tap": Row(
        later(jp.tap, "variables"),
        {
            "fn": F,
            "graph": G,
            "groups": Arg([A], bad(3, [3], ["nope"], [None], 0.5, "nope"), "group"),
            "variables": V,
            "inputs": INPUT,
        },
    ),
    "gates.decorate": Row(
        jp.gates.decorate,
        {
            "variables": WITHOUT_SHAPES,
            "graph": OPTIONAL_GRAPH,
            "limit": Arg(10.0, bad(0, -1, NAN, "1", None, True, [1], float("inf")), "limit"),
        },
    ),
    "gates.melt": Row(jp.gates.melt, {"variables": WITHOUT_SHAPES, "graph": OPTIONAL_GRAPH}),
    "gates.fold": Row(
        jp.gates.fold,
        {
            "graph": G,
            "variables": V._replace(bad=without(TREES, "the params alone")),
            "gates": GATE,
        },
    ),
    "gates.unit": Row(jp.gates.unit, {"graph": G}),
    "gates.refused": Row(jp.gates.refused, {"graph": G}),
    "linen.mark_readers": Row(
        jp.linen.mark_readers,
        {
            "fn": F,
            "readers": Arg(
                type(MODEL),
                bad(None, 3, "BatchNorm", MODEL, int, (int,), [type(MODEL)], ()),
                "readers",
            ),
        },
    ),
    "linen.trace": Row(
        splat(jp.linen.trace),
        {
            "module": Arg(MODEL, MODULES | {"nnx": TWIN}, "Module"),
            "variables": Arg(
                VARIABLES, bad("tree", apply) | {"words": TREES["strings"]}, "variables"
            ),
            "inputs": INPUT,
            "strct": UNTAKEN,
            "method": Arg(None, bad(3, "nope", []), "method"),
            **TRACED,
        },
    ),
    "linen.prune": Row(
        splat(jp.linen.prune),
        {
            "module": Arg(MODEL, MODULES | {"nnx": TWIN}, "Module"),
            "variables": Arg(
                VARIABLES, bad("tree", apply) | {"words": TREES["strings"]}, "variables"
            ),
            "inputs": INPUT,
            "overrides": OVERRIDES,
            "strct": UNTAKEN,
            "method": Arg(None, bad(3, "nope", []), "method"),
            **PRUNED,
            **TRACED,
        },
    ),
    "linen.resize": Row(
        jp.linen.resize,
        {
            "module": Arg(MODEL, MODULES | {"nnx": TWIN}, "Module"),
            "graph": G,
            "keep": K,
            "overrides": OVERRIDES,
        },
    ),
    "nnx.function": Row(
        jp.nnx.function, {"model": NNX["model"], "method": METHOD, "strct": UNTAKEN}
    ),
    "nnx.variables": Row(jp.nnx.variables, {"model": NNX["model"]}),
    "nnx.trace": Row(
        splat(jp.nnx.trace),
        {"model": NNX["model"], "inputs": INPUT, "method": METHOD, "strct": UNTAKEN, **TRACED},
    ),
    "nnx.prune": Row(
        splat(jp.nnx.prune),
        {
            "model": NNX["model"],
            "inputs": INPUT,
            "method": METHOD,
            "overrides": OVERRIDES,
            "strct": UNTAKEN,
            **PRUNED,
            "only": Arg(A, PRUNED["only"].bad, "only|kind"),
            **TRACED,
        },
    ),
    "nnx.resize": Row(jp.nnx.resize, {**NNX, "keep": NNX_KEEP, "overrides": OVERRIDES}),
    **{
        f"nnx.{fn.__name__}": Row(
            fn, {"graph": NNX["graph"], "keep": NNX_KEEP, "overrides": OVERRIDES}
        )
        for fn in (jp.nnx.follows, jp.nnx.draws)
    },
    "nnx.overrides": Row(jp.nnx.overrides, {"graph": NNX["graph"], "keep": NNX_KEEP}),
    "haiku.resize": Row(
        jp.haiku.resize,
        {
            "fn": Arg(plain, FUNCTIONS, "function"),
            "graph": Arg(PLAIN_GRAPH, G.bad, "graph"),
            "keep": Arg({"a": np.arange(4) < 2}, NO_MAPPINGS | {"unknown": {"no": X}}, "keep"),
            "overrides": OVERRIDES,
        },
    ),
    "nnx.resize_optimizer": Row(
        jp.nnx.resize_optimizer,
        {
            "optimizer": Arg(OPTIMIZER, bad(None, 3, "adam", TX, TWIN), "optimizer"),
            "small": Arg(
                jp.nnx.resize(TWIN, TWIN_GRAPH, TWIN_KEEP), MODULES | {"full": TWIN}, "Module|tree"
            ),
            "graph": NNX["graph"],
            "keep": NNX_KEEP,
        },
    ),
    "recover.absorb_constants": Row(
        jp.recover.absorb_constants, {"graph": G, "variables": V, "keep": K}
    ),
    "recover.recalibrate": Row(
        jp.recover.recalibrate,
        {
            "graph": OPTIONAL_GRAPH,
            "update": Arg(statistics, CALLABLES | {"nothing": lambda *_: 3}, "update"),
            "variables": WITHOUT_SHAPES,
            "batches": Arg(
                [X],
                bad(None, 3, "data", [], ["x"], [None], [object()], [X, X[:0]], {"a": X}),
                "batch",
            ),
        },
    ),
    "scores.bn_scale": Row(jp.scores.bn_scale, {"graph": G, "variables": SCALED, "reduce": REDUCE}),
    "scores.channel_energy": Row(
        jp.scores.channel_energy, {"graph": G, "variables": V, "roles": ROLES}
    ),
    **{
        f"scores.{by.__name__}": Row(by, {"scores": ONE_GROUP})
        for by in (
            *(jp.scores.euclidean, jp.scores.lamp, jp.scores.max, jp.scores.mean),
            *(jp.scores.min_max, jp.scores.none, jp.scores.standard, jp.scores.sum),
        )
    },
    **{
        f"scores.{fn.__name__}": Row(
            fn, {"graph": G, "variables": V, "roles": ROLES, "reduce": REDUCE}
        )
        for fn in (jp.scores.l1, jp.scores.l2)
    },
    "scores.random": Row(jp.scores.random, {"graph": G, "key": KEY}),
    "scores.normalized": Row(
        jp.scores.normalized,
        {
            "scores": Arg(SCORES, NO_NUMBERS, "score"),
            "by": Arg(jp.scores.mean, NORMALIZERS, "by"),
        },
    ),
    "scores.taylor": Row(jp.scores.taylor, {"graph": G, "variables": V, "gradients": SLOPES}),
    "scores.taylor_activation": Row(
        jp.scores.taylor_activation,
        {"graph": G, "gradients": Arg({A: jnp.ones((5, 4))}, GATES, "gradients")},
    ),
    **{
        f"scores.{fn.__name__}": Row(
            fn, {"graph": G, "variables": SCALED, "gradients": SLOPES, "reduce": REDUCE}
        )
        for fn in (jp.scores.taylor_bn, jp.scores.taylor_gate)
    },
}
