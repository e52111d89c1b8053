"""A row for every public function: how it is called well, and which arguments are tried badly."""

import inspect
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxprune as jp
from bad_values import (
    BAD_SCORES,
    CALLABLES,
    COUNTS,
    FLAGS,
    FUNCTIONS,
    GRADIENTS,
    GRAPH,
    INPUTS,
    KEEP,
    KEYS,
    MODEL,
    MODULES,
    NAN,
    NO_MAPPINGS,
    ONLY,
    PATTERNS,
    PLAIN_GRAPH,
    PLAIN_SMALL,
    RATIOS,
    SCORES,
    SMALL,
    SPEC,
    STRENGTHS,
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
    S,
    V,
    W,
    X,
    apply,
    bad,
    plain,
)

Inputs = Arg((X,), INPUTS, "input")


class Row(NamedTuple):
    """One public function.

    call: what is tried, with the arguments by name; `inputs` are splat.
    free: parameters of the function that no check can see through, with the reason.
    """

    call: Callable[..., Any]
    args: Mapping[str, Arg]
    free: Mapping[str, str] = {}


ROLES = Arg(("out",), bad(None, 3, "out", [], ("nope",), [3], {"out": 1}), "roles")
REDUCE = Arg(jnp.sum, CALLABLES, "reduce")
RATIO = Arg(0.25, RATIOS, "ratio|share")
WITHIN = Arg({}, {n: v for n, v in K.bad.items() if n != "None"} | bad(3, "keep"), "keep")
CONSTRAINTS = {
    "min_channels": Arg(1, COUNTS, "min_channels"),
    "min_keep_ratio": Arg(0.1, {n: v for n, v in RATIOS.items() if n != "1.0"}, "min_keep_ratio"),
    "max_prune_ratio": Arg(0.9, {n: v for n, v in RATIOS.items() if n != "1.0"}, "max_prune"),
    "multiple_of": Arg(1, COUNTS, "multiple_of"),
    "protect": Arg((), PATTERNS, "protect|kind"),
    "only": ONLY,
    "strict": Arg(False, FLAGS, "strict"),
    "within": WITHIN,
    "protct": Arg(..., bad(["a/kernel"], None), "protect"),
    "min_channel": Arg(..., bad(2), "min_channels"),
    "roles": Arg(..., bad(("out",)), "option"),
}
"""`...` is no argument at all: a keyword that must not exist."""
RULE = Arg(jp.select.exact_count, CALLABLES | {"a bad answer": lambda s, n: "x"}, "rule")
MEMBERS = Arg({A: 2}, bad(3, "a", [A], {"nope": 1}, {A: 0}, {A: 1.5}, {A: "2"}, {3: 1}), "members")
LAYERS = bad(
    None, 3, "a/*", {"nope*": 0}, {"a/*": "0"}, {"a/*": 9}, {"a/*": 0.5}, {3: 0}, {"*": None}
)
TRACED = {
    "rules": Arg(jp.RULES, bad(None, 3, "rules", {"add": 3}, {"add": None}, [1]), "rule"),
    "strict": Arg(False, FLAGS, "strict"),
    "layers": Arg({}, LAYERS, "layers|axis|pattern"),
    "free_outputs": Arg((), {n: v for n, v in PATTERNS.items() if "kind" not in n}, "free_outputs"),
    "free_constants": Arg(False, FLAGS, "free_constants"),
}


def splat(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The call with `inputs` as positional arguments behind all others that have a position."""

    placed = [
        name
        for name, item in inspect.signature(fn).parameters.items()
        if item.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]

    def call(inputs: Any, **kwargs: Any) -> Any:
        args = [kwargs.pop(name) for name in placed if name in kwargs]
        return fn(*args, *inputs, **kwargs)

    return call


def later(make: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """The call of what `make` returns with the arguments `names`, the rest goes to `make`."""

    def call(inputs: Any, **kwargs: Any) -> Any:
        found = make(**{n: v for n, v in kwargs.items() if n not in names})
        return found(*(kwargs[name] for name in names), *inputs)

    return call


def file(call: Callable[[str], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return call(f"{folder}/file")


GATES = Arg(
    {A: np.ones(4, np.float32)},
    {**NO_MAPPINGS, **{n: v for n, v in BAD_SCORES.items() if n not in ("empty", "{a: NaN}")}},
    "gate",
)
SLOPES = Arg(
    {A: np.ones((5, 4))},
    {**NO_MAPPINGS, **{n: v for n, v in BAD_SCORES.items() if n not in ("empty", "{a: NaN}")}},
    "gradients",
)
SPECS = Arg(
    SPEC,
    {
        **bad(None, 3, "spec", [], {}, {"format": 1}, {"groups": {}}),
        "another format": SPEC | {"format": 2},
        "no format": {k: v for k, v in SPEC.items() if k != "format"},
        "groups of another kind": SPEC | {"groups": [A]},
        **{
            f"kept {kept}": SPEC | {"groups": {A: {"size": 4, "kept": kept}}}
            for kept in (None, 3, "01", [], [-1, 0], [0, 0], [0, 4], [2, 1], [0.5], [True], ["0"])
        },
        **{
            f"layers {kept}": SPEC | {"groups": {A: {"size": 4, "kept": kept}}}
            for kept in ([[0], [1, 2]], [[0], 1], [[0], []], [[0], [9]])
        },
        "size 4.0": SPEC | {"groups": {A: {"size": 4.0, "kept": [0]}}},
        "no size": SPEC | {"groups": {A: {"kept": [0]}}},
        "a group that is no dict": SPEC | {"groups": {A: [0, 1]}},
    },
    "spec",
)
NNX_ARGS = {"model": Arg(TWIN, MODULES, "Module"), "graph": Arg(TWIN_GRAPH, G.bad, "graph")}
NNX_KEEP = Arg(TWIN_KEEP, {n: v for n, v in K.bad.items() if n != "a good one beside"}, "keep")
OVERRIDES = Arg(
    None, bad(3, "a", [1], {"nope": {}}, {"a": 3}, {"a": None}, {3: {}}, {"a": {3: 1}}), "overrid"
)
OPTIMIZER = nnx.Optimizer(TWIN, TX, wrt=nnx.Param)
KIND = jp.Kind.HIDDEN

LIBRARY_ROWS: dict[str, Row] = {
    "batch_norms": Row(
        jp.batch_norms, {"variables_or_paths": Arg(VARIABLES, bad(3, "mean", X), "")}
    ),
    "scale_mask": Row(jp.scale_mask, {"variables": V}),
    "save": Row(
        lambda path, **k: file(lambda p: jp.save(path or p, **k)),
        {
            "path": Arg("", bad(3, [], {}, 0.5), "path"),
            "variables": Arg(
                VARIABLES, {"strings": TREES["strings"], "a function": apply}, "variables"
            ),
            "spec": SPECS,
            "opt_state": Arg(None, bad(apply, "state", [object()]), "opt_state"),
            "metadata": Arg(None, bad(apply, {1, 2}, {3: 1}, NAN, [X]), "metadata"),
            "overwrite": Arg(False, FLAGS, "overwrite"),
        },
    ),
    "restore": Row(
        lambda path, **k: file(
            lambda p: (
                jp.save(p, VARIABLES, SPEC, opt_state=TX.init(VARIABLES)),
                jp.restore(path or p, **k),
            )
        ),
        {
            "path": Arg("", bad(3, [], {}, 0.5), "path"),
            "like": Arg(None, bad(3, "tree", {"a": X}, [X], apply), "template"),
            "opt_state": Arg(None, bad(3, "tree", {"a": X}, [X], apply), "template"),
        },
    ),
    "compose": Row(
        jp.compose,
        {
            "first": Arg(
                KEEP,
                {
                    n: v
                    for n, v in K.bad.items()
                    if "unknown" not in n
                    and n
                    not in ("{a: short}", "{a: nested}", "a number for a name", "None for a name")
                },
                "keep",
            ),
            "second": Arg(
                {A: np.ones(3, bool)},
                {
                    n: v
                    for n, v in K.bad.items()
                    if "unknown" not in n
                    and n not in ("{a: short}", "a number for a name", "None for a name")
                },
                "keep",
            ),
        },
    ),
    "latency": Row(
        splat(jp.latency),
        {
            "fn": Arg(abs, CALLABLES, "function"),
            "inputs": Inputs,
            "repeats": Arg(1, COUNTS, "repeats"),
            "warmup": Arg(0, bad(-1, 1.5, "3", None, True, NAN), "warmup"),
        },
    ),
    "draw": Row(
        jp.draw, {"graph": G, "language": Arg("mermaid", bad(None, 3, "png", []), "language")}
    ),
    "export": Row(
        lambda path, **k: file(lambda p: splat(jp.export)(path=path or p, **k)),
        {
            "path": Arg("", bad(3, [], {}, 0.5), "path"),
            "fn": Arg(jp.narrow(apply, GRAPH, KEEP), FUNCTIONS, "function|export"),
            "small": Arg(
                SMALL, {**bad(3, "tree"), "strings": TREES["strings"]}, "export|variables"
            ),
            "inputs": Inputs,
            "shapes": Arg("batch, ...", bad(3, "((", ["x"]), "shapes"),
            "platforms": Arg(("cpu",), bad(None, 3, ("nope",), [3]), "platforms"),
        },
    ),
    "gated": Row(
        later(jp.gated, "variables", "gates"),
        {"fn": F, "graph": G, "variables": V, "gates": GATES, "inputs": Inputs},
    ),
    "tap": Row(
        later(jp.tap, "variables"),
        {
            "fn": F,
            "graph": G,
            "groups": Arg([A], bad(3, [3], ["nope"], [None], 0.5, "nope"), "group"),
            "variables": V,
            "inputs": Inputs,
        },
    ),
    "trace": Row(
        splat(jp.trace),
        {
            "fn": F,
            "variables": Arg(
                VARIABLES,
                {"strings": TREES["strings"], "objects": TREES["objects"], **bad("tree", apply)},
                "variables",
            ),
            "inputs": Inputs,
            **TRACED,
        },
    ),
    "interior": Row(jp.interior, {"graph": G}),
    "kinds": Row(jp.kinds, {"graph": G}),
    "of_kind": Row(
        lambda graph, wanted: jp.of_kind(graph, *wanted),
        {
            "graph": G,
            "wanted": Arg(
                (KIND,),
                bad((), ("heads",), ("HIDDEN",), (3,), (None,), ([KIND],), (jp.Kind,), (KIND, "x")),
                "kind",
            ),
        },
    ),
    "keep_from_spec": Row(jp.keep_from_spec, {"spec": SPECS}),
    "mask": Row(jp.mask, {"graph": G, "variables": V, "keep": K}),
    "slice": Row(
        jp.slice,
        {
            "graph": G,
            "variables": V,
            "keep": K,
            "rescale": Arg(False, bad("yes", None, 3, [], {}), "rescale"),
        },
    ),
    "unslice": Row(
        jp.unslice,
        {
            "graph": G,
            "small": Arg(SMALL, TREES | {"full": VARIABLES}, "tree"),
            "keep": K,
            "into": Arg(None, TREES, "tree"),
        },
    ),
    "spec": Row(jp.spec, {"graph": G, "keep": K}),
    "widths": Row(
        jp.widths,
        {
            "graph": G,
            "keep": Arg(KEEP, {n: v for n, v in W.bad.items() if n != "None"}, "keep|width"),
        },
    ),
    "narrow": Row(
        later(jp.narrow, "variables"),
        {
            "fn": F,
            "graph": G,
            "keep": K,
            "variables": Arg(SMALL, TREES | {"full": VARIABLES}, "tree|variable"),
            "inputs": Inputs,
        },
    ),
    "resize": Row(
        later(jp.resize, "variables"),
        {
            "fn": Arg(plain, FUNCTIONS, "function"),
            "graph": Arg(PLAIN_GRAPH, G.bad, "graph"),
            "keep": Arg(
                {"a": np.arange(4) < 2}, NO_MAPPINGS | {"unknown": {"nope": KEEP[A]}}, "keep"
            ),
            "variables": Arg(PLAIN_SMALL, TREES, "tree|variable"),
            "inputs": Inputs,
        },
    ),
    "slice_opt_state": Row(
        jp.slice_opt_state,
        {
            "graph": G,
            "opt_state": Arg(TX.init(VARIABLES), bad(None, 3, "state", {}, VARIABLES), "state"),
            "keep": K,
            "tx": Arg(TX, bad(None, 3, "adam", {}, apply, optax.adam), "tx|optimizer"),
            "params": V,
        },
    ),
    "compare": Row(jp.compare, {"graph": G, "keep": K}),
    "explain": Row(
        jp.explain, {"graph": G, "path": Arg(None, bad(3, "nope", [A], 0.5, {}), "path")}
    ),
    "select_inputs": Row(
        jp.select_inputs,
        {
            "x": Arg(X, bad(None, "x", {}, apply), "x "),
            "reader": Arg("r", bad(None, 3, [], X), "reader"),
            "axis": Arg(-1, bad(2, -3, "0", None, 0.5), "axis"),
        },
    ),
    "verify": Row(
        splat(jp.verify),
        {
            "graph": G,
            "fn": F,
            "keep": K,
            "variables": V,
            "inputs": Inputs,
            "resized": Arg(
                None, {n: v for n, v in FUNCTIONS.items() if n != "None"}, "resized|function"
            ),
            "rtol": Arg(1e-4, STRENGTHS, "rtol"),
        },
    ),
    **{
        f"cost.{name}": Row(
            getattr(jp.cost, name),
            {
                "graph": G,
                "widths": Arg(KEEP, {n: v for n, v in W.bad.items() if n != "None"}, "keep|width"),
            },
        )
        for name in ("macs", "activation_bytes", "params", "weights")
    },
    "cost.channel_cost": Row(
        jp.cost.channel_cost, {"graph": G, "cost": Arg(jp.cost.macs, CALLABLES, "cost")}
    ),
    "cost.each_contraction": Row(
        lambda terms: list(jp.cost.each_contraction(terms)),
        {"terms": Arg(GRAPH.contractions, bad(None, 3, "x", [3], GRAPH), "contraction")},
    ),
    "gates.decorate": Row(
        jp.gates.decorate,
        {
            "variables": V,
            "limit": Arg(10.0, bad(0, -1, NAN, "1", None, True, [1], float("inf")), "limit"),
        },
    ),
    "gates.melt": Row(jp.gates.melt, {"variables": V}),
    "gates.fold": Row(jp.gates.fold, {"graph": G, "variables": V, "gates": GATES}),
    "gates.unit": Row(jp.gates.unit, {"graph": G}),
    "gates.refused": Row(jp.gates.refused, {"graph": G}),
    "linen.select_inputs": Row(
        jp.linen.select_inputs,
        {
            "fn": F,
            "layers": Arg(
                type(MODEL), bad(None, 3, "BatchNorm", MODEL, int, (int,), [type(MODEL)]), "layers"
            ),
        },
    ),
    "linen.resize": Row(
        jp.linen.resize,
        {
            "module": Arg(MODEL, MODULES | {"nnx": TWIN}, "odule"),
            "graph": G,
            "keep": K,
            "overrides": OVERRIDES,
        },
    ),
    "nnx.function": Row(
        jp.nnx.function,
        {"model": NNX_ARGS["model"], "method": Arg("__call__", bad(None, 3, "nope", []), "method")},
    ),
    "nnx.variables": Row(jp.nnx.variables, {"model": NNX_ARGS["model"]}),
    "nnx.trace": Row(
        splat(jp.nnx.trace),
        {
            "model": NNX_ARGS["model"],
            "inputs": Inputs,
            "method": Arg("__call__", bad(None, 3, "nope", []), "method"),
            **TRACED,
        },
    ),
    "nnx.resize": Row(jp.nnx.resize, {**NNX_ARGS, "keep": NNX_KEEP, "overrides": OVERRIDES}),
    "nnx.follows": Row(
        jp.nnx.follows, {"graph": NNX_ARGS["graph"], "keep": NNX_KEEP, "overrides": OVERRIDES}
    ),
    "nnx.resized_function": Row(
        jp.nnx.resized_function, {"graph": NNX_ARGS["graph"], "keep": NNX_KEEP}
    ),
    "nnx.resize_optimizer": Row(
        jp.nnx.resize_optimizer,
        {
            "optimizer": Arg(OPTIMIZER, bad(None, 3, "adam", TX, TWIN), "optimizer"),
            "small": Arg(
                jp.nnx.resize(TWIN, TWIN_GRAPH, TWIN_KEEP), MODULES | {"full": TWIN}, "Module|tree"
            ),
            "graph": NNX_ARGS["graph"],
            "keep": NNX_KEEP,
        },
    ),
    "recover.absorb_constants": Row(
        jp.recover.absorb_constants, {"graph": G, "variables": V, "keep": K}
    ),
    "recover.recalibrate": Row(
        jp.recover.recalibrate,
        {
            "update": Arg(
                lambda v, x: MODEL.apply(v, x, train=True, mutable=["batch_stats"])[1],
                CALLABLES | {"nothing": lambda v, x: 3},
                "update",
            ),
            "variables": V,
            "batches": Arg(
                [X], bad(None, 3, "data", [], ["x"], [None], [object()], [X, X[:0]]), "batch"
            ),
        },
    ),
    "scores.bn_scale": Row(jp.scores.bn_scale, {"graph": G, "variables": V, "reduce": REDUCE}),
    "scores.channel_energy": Row(
        jp.scores.channel_energy, {"graph": G, "variables": V, "roles": ROLES}
    ),
    "scores.l1": Row(jp.scores.l1, {"graph": G, "variables": V, "roles": ROLES, "reduce": REDUCE}),
    "scores.l2": Row(jp.scores.l2, {"graph": G, "variables": V, "roles": ROLES, "reduce": REDUCE}),
    "scores.random": Row(
        jp.scores.random, {"graph": G, "key": Arg(jax.random.key(0), KEYS, "key")}
    ),
    "scores.normalized": Row(
        jp.scores.normalized,
        {
            "scores": Arg(
                SCORES,
                {
                    n: v
                    for n, v in BAD_SCORES.items()
                    if n
                    not in (
                        "empty",
                        "an unknown group",
                        "a number for a name",
                        "{a: short}",
                        "{a: wide}",
                        "{a: NaN}",
                        "{a: a scalar}",
                    )
                },
                "score",
            )
        },
    ),
    "scores.taylor": Row(
        jp.scores.taylor,
        {"graph": G, "variables": V, "gradients": Arg(GRADIENTS, TREES, "tree|gradient")},
    ),
    "scores.taylor_activation": Row(jp.scores.taylor_activation, {"graph": G, "gradients": SLOPES}),
    "scores.taylor_bn": Row(
        jp.scores.taylor_bn,
        {
            "graph": G,
            "variables": V,
            "gradients": Arg(GRADIENTS, TREES, "tree|gradient"),
            "reduce": REDUCE,
        },
    ),
    "scores.taylor_gate": Row(
        jp.scores.taylor_gate,
        {
            "graph": G,
            "variables": V,
            "gradients": Arg(GRADIENTS, TREES, "tree|gradient"),
            "reduce": REDUCE,
        },
    ),
    "select.cost_regularized": Row(
        jp.select.cost_regularized,
        {
            "graph": G,
            "scores": S,
            "strength": Arg(0.1, STRENGTHS, "strength"),
            "cost": Arg(None, {n: v for n, v in CALLABLES.items() if n != "None"}, "cost"),
            "within": WITHIN,
        },
    ),
    "select.members": Row(jp.select.members, {"graph": G}),
    "select.share_of_left": Row(
        jp.select.share_of_left,
        {
            "graph": G,
            "scores": S,
            "share": Arg(0.2, RATIOS, "share"),
            "members": MEMBERS,
            "rule": Arg(None, {n: v for n, v in RULE.bad.items() if n != "None"}, "rule"),
            **CONSTRAINTS,
        },
    ),
    **{
        f"select.{name}": Row(
            getattr(jp.select, name),
            {
                "scores": Arg(
                    np.arange(5.0),
                    bad(None, 3, "x", [], [2.0, 1.0], ["a"], np.ones((2, 2))),
                    "scores",
                ),
                "count": Arg(2, bad(-1, 9, 1.5, "2", None, True), "count"),
            },
        )
        for name in ("exact_count", "lua_author", "pytorch_author")
    },
    "select.global_ratio": Row(
        jp.select.global_ratio,
        {
            "graph": G,
            "scores": S,
            "prune_ratio": RATIO,
            "rule": RULE,
            "quota": Arg(None, {n: v for n, v in CALLABLES.items() if n != "None"}, "quota"),
            **CONSTRAINTS,
        },
    ),
    "select.per_group": Row(
        jp.select.per_group,
        {
            "graph": G,
            "scores": S,
            "prune_ratio": Arg(
                0.25,
                {n: v for n, v in RATIOS.items() if n != "{}"}
                | bad({}, {"nope": 0.5}, {3: 0.5}, {A: "0.5"}, {A: NAN}),
                "ratio",
            ),
            **CONSTRAINTS,
        },
    ),
    "select.budget": Row(
        jp.select.budget,
        {
            "graph": G,
            "scores": S,
            **{
                name: Arg(
                    0.8,
                    {n: v for n, v in RATIOS.items() if n not in ("1.0", "None")} | bad(0, -3, 1.5),
                    name,
                )
                for name in ("keep_macs", "keep_params", "keep_weights", "keep_bytes")
            },
            **CONSTRAINTS,
        },
    ),
    "select.threshold": Row(
        jp.select.threshold,
        {
            "graph": G,
            "scores": S,
            "threshold": Arg(0.1, bad("0.5", None, NAN, True, [0.5], 1j, np.ones(2)), "threshold"),
            **CONSTRAINTS,
        },
    ),
}
