"""The rows of `stats`, and of the scores of what it finds."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune.stats import At, By
from refused.networks import SLOPES
from refused.rows import REDUCE, ROLES, Row
from refused.values import (
    BAD_SCORES,
    CALLABLES,
    COUNTS,
    FLAGS,
    FUNCTIONS,
    KEYS,
    NAN,
    RATIOS,
    STRENGTHS,
    TREES,
    WIDTHS,
    A,
    Arg,
    G,
    V,
    X,
    apply,
    bad,
    without,
)

AT = Arg(At.READS, bad(None, 3, "READS", "reads", By.GATES, At), "at must be")
NOT_BACKWARD = Arg(At.READS, {**AT.bad, "backward": At.PRODUCTS}, "at")
BY = Arg(By.GATES, bad(None, 3, "GATES", At.GATES, By), "by must be one of")
SAMPLES = Arg(1, COUNTS, "samples")
POSITIONS = Arg(None, without(COUNTS, "None"), "positions")
FLAG = {name: Arg(False, FLAGS, name) for name in ("each", "apart", "weighted")}
AGGREGATE = bad(None, 3, "mean", jnp.mean, {})
RANGES = bad(None, 3, "x", (1,), (1.0, 0.0), (0, "1"), [None, 1], (0, 0), (True, NAN, 1))
BATCHES = bad(None, 3, "data", [], ["x"], [None], [object()], {"a": X}, [X[:0]], [np.float32(1)])
STATISTICS = {
    **bad(None, 3, "mean", {}, [jp.stats.mean()], jp.stats.mean(), {"m": None}, {"m": 3}),
    "not called": {"m": jp.stats.mean},
    "beside a good one": {"m": jp.stats.mean(), "n": "mean"},
}


def loss(outputs: Any, batch: Any) -> Any:
    """Of no labels."""
    return (outputs**2).mean() + 0 * batch.mean()


def collected(**given: Any) -> Any:
    """Several statistics of one batch."""
    return jp.stats.collect(**given)


def collector(graph: Any, statistics: Any, **given: Any) -> Any:
    """A collector, used."""
    tools = jp.stats.collector(graph, statistics, **given)
    state = tools.init(V.good, X)
    return tools.finalize(tools.update(state, V.good, X))


SLOPE = {"m": jp.stats.mean(), "g": jp.stats.sum(at=At.GATES)}
COLLECTED = {
    "graph": G,
    "statistics": Arg(SLOPE, STATISTICS, "statistic"),
    "loss": Arg(loss, CALLABLES | {"a vector": lambda o, _: o, "ints": lambda *_: 3}, "loss"),
    "inputs": Arg(None, without(CALLABLES, "None"), "inputs"),
    "groups": Arg(None, bad(3, "nope", ["nope"], [3], [None], 0.5), "group|name"),
    "key": Arg(None, without(KEYS, "None"), "key"),
    "fn": Arg(None, without(FUNCTIONS, "None"), "function"),
}


def numbers(good: Any, says: str) -> Arg:
    """What data says of the channels of `A`, and what it cannot say."""
    return Arg({A: good}, without(BAD_SCORES, "{a: a keep}") | {"bools": {A: X > 0}}, says)


def of_channels(fn: Any, name: str, says: str, **more: Arg) -> Row:
    return Row(fn, {"graph": G, name: numbers(np.arange(4.0), says), **more})


PAIRS = numbers(np.eye(4), "contributions|similarities|group")
PARTS = bad(None, 3, "parts", [], {}, [3], [({A: X[0]}, 1.0, 2)], [(3, 1.0)], [({}, 1.0)])
GOOD = {A: np.arange(4.0)}
WEIGHTS = {f"weight {w!r}": [(GOOD, w)] for w in ("1", None, NAN, [1.0], True)}
SHARES = {f"share {w!r}": [(GOOD, w)] for w in ("1", None, NAN, -0.1, 1.1, True)}
COUNTED = numbers(np.ones((4, 3)), "histograms|counts|group")
COUNTED = COUNTED._replace(bad=without(COUNTED.bad, "{a: wide}"))
MEMBERS = Arg(np.ones((4, 2)), bad(None, 3, "x", [], [["a"]], {}, apply), "members")
AXIS = Arg(1, bad(None, "1", 0.5, 2, -3, [1], True), "axis")
SCORED = jp.scores
ROWS: dict[str, Row] = {
    "stats.collect": Row(
        collected,
        {
            **COLLECTED,
            "variables": V._replace(says="variable|tree"),
            "batches": Arg([X], BATCHES, "batch"),
        },
    ),
    "stats.collector": Row(collector, COLLECTED),
    "stats.Statistic": Row(
        jp.stats.Statistic,
        {
            "measure": Arg(lambda x, _: x.sum(-2), CALLABLES, "measure"),
            "merge": Arg(np.maximum, CALLABLES, "merge"),
            "finalize": Arg(np.sqrt, CALLABLES, "finalize"),
            "read": Arg(apply, CALLABLES, "read"),
            "join": Arg(tuple, without(CALLABLES, "None"), "join"),
            "empty": Arg(0.0, bad(None, "0", [0], 1j, True), "empty"),
            "at": AT,
            **FLAG,
        },
    ),
    "stats.Curvature": Row(
        jp.stats.Curvature, {"estimate": Arg(apply, CALLABLES, "estimate"), "by": BY}
    ),
    **{
        f"stats.{fn.__name__}": Row(fn, {"at": AT})
        for fn in (
            *(jp.stats.count, jp.stats.sum, jp.stats.sum_of_squares, jp.stats.mean),
            *(jp.stats.mean_size, jp.stats.mean_square, jp.stats.zero_share),
        )
    },
    **{
        f"stats.{fn.__name__}": Row(fn, {"at": NOT_BACKWARD})
        for fn in (*(jp.stats.maximum, jp.stats.extremes, jp.stats.moments), jp.stats.covariance)
    },
    "stats.histogram": Row(
        jp.stats.histogram,
        {
            "bins": Arg(4, COUNTS | {"1": 1}, "bins"),
            "range": Arg((0.0, 1.0), RANGES, "range"),
            "at": AT,
        },
    ),
    "stats.activation_norm": Row(
        jp.stats.activation_norm,
        {
            "positions": Arg(jp.stats.average, AGGREGATE, "positions"),
            "examples": Arg(jp.stats.euclidean, AGGREGATE, "examples"),
            "at": NOT_BACKWARD,
        },
    ),
    "stats.weighted_norm": Row(jp.stats.weighted_norm, {}),
    "stats.weighted_variance": Row(jp.stats.weighted_variance, {}),
    "stats.gram": Row(jp.stats.gram, {"positions": POSITIONS}),
    "stats.contributions": Row(jp.stats.contributions, {"positions": POSITIONS}),
    "stats.removal_costs": Row(
        jp.stats.removal_costs, {"damping": Arg(0.01, STRENGTHS, "damping")}
    ),
    "stats.hutchinson": Row(jp.stats.hutchinson, {"samples": SAMPLES, "by": BY}),
    "stats.gauss_newton": Row(jp.stats.gauss_newton, {"samples": SAMPLES, "by": BY}),
    "stats.fisher": Row(jp.stats.fisher, {"by": BY}),
    "scores.apoz": of_channels(
        SCORED.apoz,
        "zeros",
        "zeros|group",
        deviations=Arg(None, bad("1", NAN, [1.0], 1j, True), "deviations"),
    ),
    "scores.entropy": Row(
        SCORED.entropy,
        {"graph": G, "histograms": COUNTED},
    ),
    "scores.mean_activation": of_channels(SCORED.mean_activation, "means", "means|group"),
    "scores.activation_norm": of_channels(SCORED.activation_norm, "norms", "norms|group"),
    "scores.wanda": of_channels(SCORED.wanda, "norms", "norms|group"),
    "scores.taylor_squared": of_channels(SCORED.taylor_squared, "squares", "slopes|group"),
    "scores.fisher": of_channels(SCORED.fisher, "squares", "slopes|group"),
    "scores.snip": of_channels(SCORED.snip, "slopes", "slopes|group"),
    "scores.obd_gates": of_channels(SCORED.obd_gates, "curvature", "curvatures|group"),
    "scores.taylor_second_order": of_channels(
        SCORED.taylor_second_order,
        "slopes",
        "slopes|group",
        curvature=numbers(np.arange(4.0), "curvatures|group"),
    ),
    "scores.obd": Row(
        SCORED.obd,
        {"graph": G, "variables": V, "curvature": SLOPES, "roles": ROLES, "reduce": REDUCE},
    ),
    "scores.taylor_members": Row(
        SCORED.taylor_members,
        {
            "graph": G,
            "variables": V,
            "gradients": SLOPES,
            "roles": ROLES,
            "reduce": REDUCE,
            "entry": Arg(None, without(CALLABLES, "None"), "entry"),
        },
    ),
    "scores.thinet": Row(SCORED.thinet, {"graph": G, "contributions": PAIRS}),
    "scores.lasso": Row(SCORED.lasso, {"graph": G, "contributions": PAIRS}),
    "scores.obs": of_channels(SCORED.obs, "costs", "costs|group"),
    "scores.kmeans": Row(
        SCORED.kmeans,
        {"graph": G, "variables": V, "widths": Arg({A: 2}, WIDTHS | bad({}), "width|keep|group")},
    ),
    "scores.redundancy": Row(SCORED.redundancy, {"graph": G, "similarities": PAIRS}),
    "scores.filter_similarity": Row(
        SCORED.filter_similarity,
        {"graph": G, "variables": V, "centered": Arg(False, FLAGS, "centered")},
    ),
    "scores.fpgm": Row(
        SCORED.fpgm,
        {
            "graph": G,
            "variables": V,
            "reduce": REDUCE,
            "order": Arg(2.0, bad(None, "2", 0.5, NAN, -1, [2], True), "order"),
        },
    ),
    "scores.nisp": Row(
        SCORED.nisp,
        {
            "graph": G,
            "variables": Arg(V.good, TREES, "variable|tree"),
            "last": numbers(np.arange(4.0), "scores|last|group"),
            "batch_norm": Arg(True, FLAGS, "batch_norm"),
        },
    ),
    "scores.inf_fs": Row(
        SCORED.inf_fs,
        {
            "features": Arg(
                np.arange(6.0).reshape(3, 2),
                bad(None, 3, "x", [], [1.0, 2.0], [["a"]], [[1.0, 2.0]], [[NAN], [1.0]], apply),
                "features",
            ),
            "alpha": Arg(0.5, without(RATIOS, "1.0"), "alpha"),
        },
    ),
    "scores.composite": Row(
        SCORED.composite, {"parts": Arg([(GOOD, 1.0)], PARTS | WEIGHTS, "scores|weight")}
    ),
    "scores.quotas": Row(
        SCORED.quotas, {"parts": Arg([(GOOD, 0.5)], PARTS | SHARES, "scores|share")}
    ),
    "scores.sentinel": Row(SCORED.sentinel, {"share": Arg(0.5, RATIOS, "share")}),
    "scores.first": Row(SCORED.first, {"members": MEMBERS, "axis": AXIS}),
    "scores.last": Row(SCORED.last, {"members": MEMBERS, "axis": AXIS}),
}
