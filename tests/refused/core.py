"""The rows of the functions that a graph, a tree and a keep pass through, and of `cost`."""

from typing import Any

import numpy as np
import optax

import jaxprune as jp
from refused.rows import INPUT, OPTIONAL_GRAPH, PATH, PRUNED, TRACED, Row, file, later, splat
from refused.values import (
    CALLABLES,
    COUNTS,
    FLAGS,
    FUNCTIONS,
    GRAPH,
    KEEP,
    KEEPS,
    NAN,
    NO_MAPPINGS,
    PLAIN_GRAPH,
    PLAIN_SMALL,
    POSITIVES,
    SMALL,
    SPEC,
    TREES,
    TX,
    VARIABLES,
    WIDTHS,
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
    without,
)

KIND = jp.Kind.HIDDEN
FULL = TREES | {"full": VARIABLES}
STORED: dict[str, Any] = {
    **bad(None, 3, "01", [], [-1, 0], [0, 0], [0, 4], [2, 1], [0.5], [True], ["0"]),
    **bad([[0], [1, 2]], [[0], 1], [[0], []], [[0], [9]]),
}
SPECS = Arg(
    SPEC,
    {
        **bad(None, 3, "spec", [], {}, {"format": 1}, {"groups": {}}),
        "another format": SPEC | {"format": 2},
        "no format": without(SPEC, "format"),
        "no versions": without(SPEC, "versions"),
        "groups of another kind": SPEC | {"groups": [A]},
        "size 4.0": SPEC | {"groups": {A: {"size": 4.0, "kept": [0]}}},
        "no size": SPEC | {"groups": {A: {"kept": [0]}}},
        "a group that is not a dict": SPEC | {"groups": {A: [0, 1]}},
        **{f"kept {n}": SPEC | {"groups": {A: {"size": 4, "kept": v}}} for n, v in STORED.items()},
    },
    "spec",
)
DESCRIBED = {
    f"description {value!r}": SPEC | {"description": value}
    for value in (3, "x", [], {}, {"call": 3})
}
UNNAMED = without(KEEPS, "an unknown group", "a number for a name", "None for a name", "{a: short}")
KINDS = bad((), ("heads",), ("HIDDEN",), (3,), (None,), ([KIND],), (jp.Kind,), (KIND, "x"))
TEMPLATES = bad(3, "tree", {"a": X}, [X], apply)
NAMED_TREES = V._replace(bad=without(TREES, "strings", "objects", "other shapes"))
STATE = Arg(None, bad(3, True, "nope", [], {}, 0.5, X), "no state")
SHARDINGS = Arg(None, bad(3, True, "fits", [], {}, ("fit",), b"fit"), "shardings must be")
COSTED = Arg(KEEP, without(WIDTHS, "{a: None}"), "keep|width")


def saved(path: str, **kwargs: Any) -> None:
    file(lambda found: jp.save(path or found, **kwargs))


def restored(path: str, **kwargs: Any) -> None:
    def call(found: str) -> None:
        jp.save(found, VARIABLES, SPEC, opt_state=TX.init(VARIABLES))
        jp.restore(path or found, **kwargs)

    file(call)


def exported(path: str, **kwargs: Any) -> None:
    file(lambda found: splat(jp.export)(path=path or found, **kwargs))


def reached(make: Any, fn: Any, graph: Any, keep: Any, small: Any) -> Row:
    """The row of a function that runs sliced variables."""
    args = {"fn": fn, "graph": graph, "keep": keep, "variables": small, "inputs": INPUT}
    return Row(later(make, "variables"), args)


ROWS: dict[str, Row] = {
    "batch_norms": Row(jp.batch_norms, {"of": Arg(VARIABLES, bad(3, "mean", X, apply))}),
    "scale_mask": Row(jp.scale_mask, {"variables": NAMED_TREES, "graph": OPTIONAL_GRAPH}),
    "check_spec": Row(
        jp.check_spec,
        {
            "graph": G,
            "spec": SPECS._replace(bad=SPECS.bad | DESCRIBED),
            "stacklevel": Arg(2, COUNTS, "stacklevel"),
        },
    ),
    "save": Row(
        saved,
        {
            "path": PATH,
            "variables": Arg(VARIABLES, {"strings": TREES["strings"], "fn": apply}, "variables"),
            "spec": SPECS,
            "opt_state": Arg(None, bad(apply, "state", [object()]), "opt_state"),
            "metadata": Arg(None, bad(apply, {1, 2}, {3: 1}, NAN, [X]), "metadata"),
            "overwrite": Arg(False, FLAGS, "overwrite"),
        },
    ),
    "restore": Row(
        restored,
        {
            "path": PATH,
            "like": Arg(None, TEMPLATES, "template"),
            "opt_state": Arg(None, TEMPLATES, "template"),
        },
    ),
    "compose": Row(
        jp.compose,
        {
            "first": Arg(KEEP, without(UNNAMED, "{a: nested}"), "keep"),
            "second": Arg({A: np.ones(3, bool)}, UNNAMED, "keep"),
            "graphs": Arg(None, bad(3, "graph", [], (GRAPH,), (GRAPH, GRAPH), (3, 4)), "graph"),
        },
    ),
    "latency": Row(
        splat(jp.latency),
        {
            "fn": Arg(abs, CALLABLES, "function"),
            "inputs": INPUT,
            "repeats": Arg(1, COUNTS, "repeats"),
            "warmup": Arg(0, bad(-1, 1.5, "3", None, True, NAN), "warmup"),
        },
    ),
    "draw": Row(
        jp.draw, {"graph": G, "language": Arg("mermaid", bad(None, 3, "png", []), "language")}
    ),
    "export": Row(
        exported,
        {
            "path": PATH,
            "fn": Arg(jp.narrow(apply, GRAPH, KEEP), FUNCTIONS, "function|export"),
            "small": Arg(SMALL, {**bad(3, "x"), "words": TREES["strings"]}, "export|variables"),
            "inputs": INPUT,
            "shapes": Arg("batch, ...", bad(3, "((", ["x"]), "shapes"),
            "platforms": Arg(("cpu",), bad(None, 3, ("nope",), [3], "cpu"), "platforms"),
        },
    ),
    "trace": Row(
        splat(jp.trace),
        {
            "fn": F,
            "variables": Arg(
                VARIABLES,
                bad("tree", apply) | {name: TREES[name] for name in ("strings", "objects")},
                "variables",
            ),
            "inputs": INPUT,
            **TRACED,
        },
    ),
    "prune": Row(
        splat(jp.prune),
        {
            "fn": F,
            "variables": Arg(
                VARIABLES,
                bad("tree", apply) | {name: TREES[name] for name in ("strings", "objects")},
                "variables",
            ),
            "inputs": INPUT,
            **PRUNED,
            **TRACED,
        },
    ),
    "interior": Row(jp.interior, {"graph": G}),
    "kinds": Row(jp.kinds, {"graph": G}),
    "of_kind": Row(
        lambda graph, wanted: jp.of_kind(graph, *wanted),
        {"graph": G, "wanted": Arg((KIND,), KINDS, "kind")},
    ),
    "keep_from_spec": Row(jp.keep_from_spec, {"spec": SPECS, "graph": OPTIONAL_GRAPH}),
    "mask": Row(jp.mask, {"graph": G, "variables": V, "keep": K, "state": STATE}),
    "slice": Row(
        jp.slice,
        {
            "graph": G,
            "variables": V,
            "keep": K,
            "rescale": Arg(False, bad("yes", None, 3, [], {}), "rescale"),
            "shardings": SHARDINGS,
            "state": STATE,
        },
    ),
    "unslice": Row(
        jp.unslice,
        {
            "graph": G,
            "small": Arg(SMALL, FULL, "tree"),
            "keep": K,
            "into": Arg(None, TREES, "tree"),
            "state": STATE,
        },
    ),
    "spec": Row(jp.spec, {"graph": G, "keep": K}),
    "widths": Row(jp.widths, {"graph": G, "keep": COSTED}),
    "narrow": reached(jp.narrow, F, G, K, Arg(SMALL, FULL, "tree|variable")),
    "resize": reached(
        jp.resize,
        Arg(plain, FUNCTIONS, "function"),
        Arg(PLAIN_GRAPH, G.bad, "graph"),
        Arg({"a": np.arange(4) < 2}, NO_MAPPINGS | {"unknown": {"nope": KEEP[A]}}, "keep"),
        Arg(PLAIN_SMALL, TREES, "tree|variable"),
    ),
    "slice_opt_state": Row(
        jp.slice_opt_state,
        {
            "graph": G,
            "opt_state": Arg(TX.init(VARIABLES), bad(None, 3, "state", {}, VARIABLES), "state"),
            "keep": K,
            "tx": Arg(TX, bad(None, 3, "adam", {}, apply, optax.adam), "tx|optimizer"),
            "params": V._replace(says="variable|tree|tx.init"),
            "shardings": SHARDINGS,
        },
    ),
    "compare": Row(
        jp.compare,
        {"graph": G, "keep": K, "resized": Arg(None, bad(3, "nope", [A], 0.5, {}), "resized")},
    ),
    "explain": Row(
        jp.explain, {"graph": G, "path": Arg(None, bad(3, "nope", [A], 0.5, {}), "path")}
    ),
    "select_inputs": Row(
        jp.select_inputs,
        {
            "x": Arg(X, bad(None, "x", {}, apply), "x must"),
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
            "inputs": INPUT,
            "resized": Arg(None, without(FUNCTIONS, "None"), "resized|function"),
            "rtol": Arg(1e-4, POSITIVES, "rtol"),
        },
    ),
    **{
        f"cost.{name}": Row(getattr(jp.cost, name), {"graph": G, "widths": COSTED})
        for name in ("macs", "activation_bytes", "params", "weights", "peak_memory")
    },
    "cost.channel_cost": Row(
        jp.cost.channel_cost,
        {"graph": G, "cost": Arg(jp.cost.macs, CALLABLES, "cost"), "widths": COSTED},
    ),
    "cost.uncounted": Row(jp.cost.uncounted, {"graph": G}),
    "cost.warn_uncounted": Row(
        jp.cost.warn_uncounted,
        {
            "graph": G,
            "costs": Arg([jp.cost.macs], bad(None, 3, "x", [None], ["macs"]), "cost"),
            "stacklevel": Arg(2, COUNTS, "stacklevel"),
        },
    ),
    "cost.each_contraction": Row(
        lambda terms: list(jp.cost.each_contraction(terms)),
        {"terms": Arg(GRAPH.contractions, bad(None, 3, "x", [3], GRAPH), "contraction")},
    ),
}
